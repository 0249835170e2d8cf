"""Releases under attack and under load: tampering is found, and concurrent managers leave one linear history."""

import json
import multiprocessing
import os
import random
import shutil
import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from moworld.errors import InputError, IntegrityError
from moworld_ops.components.platform import ledger, releases
from moworld_ops.components.platform.ledger import TABLE, Row
from moworld_ops.components.platform.registry import HEAD, ModelRegistry
from moworld_ops.components.platform.verification import verify_release
from tests.moworld_ops.components.platform.registries import NAME, forget, promote, register_version


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with `state`, a registry of three versions, and its copy `new`."""
    folder = tmp_path_factory.mktemp("verification")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOWORLD_HOME", str(folder / "state"))
        for number in (1, 2, 3):
            register_version(folder, number)
        shutil.copytree(folder / "state", folder / "new")
        yield folder


@pytest.fixture
def registry(home):
    """The registry of three versions, none promoted."""
    restore(home / "new", home / "state")
    return ModelRegistry()


def flip_byte(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    place = chance.randrange(len(data))
    data[place] ^= chance.randrange(1, 256)
    path.write_bytes(bytes(data))


def edited(rows: list[Row], chance: random.Random) -> list[Row]:
    """Changes, drops, moves, duplicates or invents lines of the ledger; some kinds recompute every hash."""
    rows = list(rows)
    place = chance.randrange(len(rows))
    kind = chance.choice(["change", "drop", "move", "double", "rewrite", "invent"])
    text, signature = rows[place]
    if kind in ("change", "rewrite"):
        entry = json.loads(text)
        rows[place] = (ledger.encode({**entry, chance.choice(sorted(entry.keys() - {"hash", "before", "index"})): "other"}), signature)
    elif kind == "drop":
        del rows[chance.choice([place, -1]) :]
    elif kind == "move":
        rows.insert((place + 1) % len(rows), rows.pop(place))
    else:
        rows.append((ledger.encode({**json.loads(text), **({} if kind == "double" else {"version": "2"})}), signature))
    return rehashed(rows) if kind in ("rewrite", "invent") else rows


def rehashed(rows: list[Row]) -> list[Row]:
    """Recomputes every hash, as one does who rewrites a ledger."""
    before, found = ledger.START, []
    for number, (text, signature) in enumerate(rows):
        entry = {**json.loads(text), "before": before, "index": number}
        entry["hash"] = before = ledger.entry_hash(entry)
        found.append((ledger.encode(entry), signature))
    return found


def write_rows(database: Path, rows: list[Row]) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute(f"DELETE FROM {TABLE}")
        connection.executemany(f"INSERT INTO {TABLE} VALUES (?, ?, ?)", [(number, *row) for number, row in enumerate(rows)])
    connection.close()


def tamper(registry: ModelRegistry, kind: str, chance: random.Random) -> None:
    version = registry.find(NAME)
    model = registry.folder_of(version)
    if kind == "weight":
        flip_byte(model / "transformer" / "weights.safetensors", chance)
    elif kind == "metric":
        flip_byte(model.parent / "evidence" / "metrics.json", chance)
    elif kind == "evidence":
        chance.choice(sorted(path for path in model.parent.rglob("*") if path.is_file())).unlink()
    elif kind == "logged metric":
        registry.client.log_metric(version.run_id, "frames_per_second", 20.0 + chance.random(), step=chance.randrange(1, 1000))
    elif kind == "tag":
        registry.client.set_model_version_tag(NAME, version.version, chance.choice(["model_sha256", "data_revision", "run"]), "other")
    elif kind == "head":
        registry.client.set_registered_model_tag(NAME, HEAD, chance.randbytes(32).hex())
    elif kind == "alias":
        registry.client.set_registered_model_alias(NAME, "champion", chance.choice(["1", "2"]))
    else:
        write_rows(registry.folder / "mlflow.db", edited(registry.ledger.rows(), chance))


def restore(sound: Path, state: Path) -> None:
    """Restores the state folder. The open database keeps its file; its content is replaced."""
    database = Path("mlflow/mlflow.db")
    with sqlite3.connect(sound / database) as source, sqlite3.connect(state / database) as target:
        source.backup(target)
    shutil.rmtree(state / "mlflow" / "artifacts")
    forget(state)
    shutil.copytree(sound, state, dirs_exist_ok=True, ignore=lambda folder, names: [n for n in names if n.startswith(database.name)])


MOVES = int(os.environ.get("MOWORLD_MOVES", "40"))
KINDS = ("weight", "metric", "evidence", "logged metric", "tag", "head", "alias", "ledger")


@pytest.mark.parametrize("rounds", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_every_tampering_is_found(home, registry, rounds):
    """25 rounds of 8 kinds: 200 tampers."""
    for version in "123":
        promote(registry, version)
    assert verify_release(registry, registry.find(NAME)) == 3
    shutil.copytree(home / "state", home / f"promoted-{rounds}")
    chance, found = random.Random(0), Counter()
    for kind in KINDS * rounds:
        tamper(registry, kind, chance)
        with pytest.raises(IntegrityError):
            verify_release(registry, registry.version(NAME, "3"))  # by number: the alias may point elsewhere
        found[kind] += 1
        restore(home / f"promoted-{rounds}", home / "state")
        assert verify_release(registry, registry.find(NAME)) == 3
    assert found == dict.fromkeys(KINDS, rounds)


def manage(home: str, seed: int, moves: int, environment: dict[str, str] | None = None) -> None:
    """Promotes and rolls back at random."""
    os.environ.update({**(environment or {}), "MOWORLD_HOME": home})
    registry, chance = ModelRegistry(), random.Random(seed)
    for _ in range(moves):
        try:
            if chance.random() < 0.6:
                promote(registry, chance.choice([version.version for version in registry.versions(NAME)]), run=f"manager {seed}")
            else:
                releases.rollback(registry, NAME, reason="test")
        except InputError as refused:
            assert "no earlier champion" in str(refused), str(refused)


def manage_in_threads(*work: tuple[str, int, int]) -> None:
    with ThreadPoolExecutor(len(work)) as pool:
        list(pool.map(lambda one: manage(*one), work))


def manage_in_processes(*work: tuple[Any, ...]) -> None:
    context = multiprocessing.get_context("forkserver")  # imports once, then forks
    context.set_forkserver_preload([__name__, "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store"])
    processes = [context.Process(target=manage, args=one) for one in work]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(work)


@pytest.mark.parametrize(
    ("run", "managers", "moves"), [(manage_in_threads, 3, 6), pytest.param(manage_in_processes, 8, MOVES, marks=pytest.mark.slow)]
)
def test_concurrent_managers_leave_one_history(home, registry, run, managers, moves):
    """8 processes with MOWORLD_MOVES moves each; 125 are 1,000 promotions and rollbacks, and take two minutes."""
    run(*((str(home / "state"), seed, moves) for seed in range(managers)))
    entries, standing = registry.entries(NAME), list[str]()
    for entry in entries:  # each line continues from the previous one: none was lost or inserted
        assert entry["previous"] == (standing[-1] if standing else None)
        standing = standing[:-1] if entry["action"] == "rollback" else [*standing, entry["version"]]
        assert entry["version"] == standing[-1]
    assert len({entry.get("run") for entry in entries}) > 1
    champion = registry.champion(NAME)
    assert champion.version == standing[-1]
    assert verify_release(registry, champion) == len(entries)
