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

import pytest

from moworld.errors import InputError
from moworld_ops.components.platform import ledger
from moworld_ops.components.platform.registry import HEAD, ModelRegistry
from moworld_ops.components.platform.verification import verify_release
from moworld_ops.components.register.step import register

NAME = "moworld-trust"


def registered(home: Path, versions: int) -> ModelRegistry:
    """Returns a registry in MOWORLD_HOME with `versions` versions of a small model, each with weights, metrics and a video."""
    features = home / "features"
    features.mkdir(parents=True)
    (features / "revision.json").write_text(json.dumps({"revision": "abc", "contract_version": "1.0.0"}))
    for number in range(1, 1 + versions):
        model, metrics = home / f"model-{number}", home / f"metrics-{number}"
        (model / "transformer").mkdir(parents=True)
        (metrics / "samples").mkdir(parents=True)
        (model / "model_index.json").write_text(json.dumps({"number": number}))
        (model / "transformer" / "weights.safetensors").write_bytes(random.Random(number).randbytes(500))
        (metrics / "metrics.json").write_text(json.dumps({"frames_per_second": 20.0 + number, "drift": 1.5}))
        (metrics / "samples" / "00-generated.mp4").write_bytes(b"video")
        register(str(model), str(metrics), str(features), str(home / f"out-{number}"), {"name": NAME}, f"run-{number}")
    return ModelRegistry()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with `state`, a registry of three versions, and its copy `new`."""
    folder = tmp_path_factory.mktemp("verification")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOWORLD_HOME", str(folder / "state"))
        registered(folder, 3)
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


def edit_lines(path: Path, chance: random.Random) -> None:
    """Changes, drops, moves, duplicates or invents lines of the ledger; some kinds recompute every hash."""
    lines = path.read_text().splitlines()
    place = chance.randrange(len(lines))
    kind = chance.choice(["change", "drop", "move", "double", "rewrite", "invent"])
    if kind in ("change", "rewrite"):
        entry = json.loads(lines[place])
        key = chance.choice(sorted(entry.keys() - {"hash", "before", "index"}))
        lines[place] = json.dumps({**entry, key: "other"}, sort_keys=True)
    elif kind == "drop":
        del lines[chance.choice([place, -1]) :]
    elif kind == "move":
        lines.insert((place + 1) % len(lines), lines.pop(place))
    else:
        lines.append(json.dumps({**json.loads(lines[place]), **({} if kind == "double" else {"version": "2"})}, sort_keys=True))
    if kind in ("rewrite", "invent"):
        before = ledger.START
        for number, line in enumerate(lines):
            entry = {**json.loads(line), "before": before, "index": number}
            entry["hash"] = before = ledger.entry_hash(entry)
            lines[number] = json.dumps(entry, sort_keys=True)
    path.write_text("".join(f"{line}\n" for line in lines))


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
        edit_lines(registry.ledger, chance)


def restore(sound: Path, state: Path) -> None:
    """Restores the state folder. The open database keeps its file; its content is replaced."""
    (state / "ledger.jsonl").unlink(missing_ok=True)
    database = Path("mlflow/mlflow.db")
    with sqlite3.connect(sound / database) as source, sqlite3.connect(state / database) as target:
        source.backup(target)
    shutil.rmtree(state / "mlflow" / "artifacts")
    shutil.copytree(sound, state, dirs_exist_ok=True, ignore=lambda folder, names: [n for n in names if n.startswith(database.name)])


KINDS = ("weight", "metric", "evidence", "logged metric", "tag", "head", "alias", "ledger")


@pytest.mark.parametrize("rounds", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_every_tampering_is_found(home, registry, rounds):
    """25 rounds of 8 kinds: 200 tampers."""
    for version in "123":
        registry.promote(NAME, version, "test", [])
    assert verify_release(registry, registry.find(NAME)) == 3
    shutil.copytree(home / "state", home / f"promoted-{rounds}")
    chance, found = random.Random(0), Counter()
    for kind in KINDS * rounds:
        tamper(registry, kind, chance)
        with pytest.raises(InputError):
            verify_release(registry, registry.version(NAME, "3"))  # by number: the alias may point elsewhere
        found[kind] += 1
        restore(home / f"promoted-{rounds}", home / "state")
        assert verify_release(registry, registry.find(NAME)) == 3
    assert found == dict.fromkeys(KINDS, rounds)


def manage(home: str, seed: int, moves: int) -> None:
    """Promotes and rolls back at random."""
    os.environ["MOWORLD_HOME"] = home
    registry, chance = ModelRegistry(), random.Random(seed)
    for _ in range(moves):
        try:
            if chance.random() < 0.6:
                registry.promote(NAME, chance.choice("123"), f"manager {seed}", [])
            else:
                registry.rollback(NAME, f"manager {seed}", "test")
        except InputError as refused:
            assert "no earlier champion" in str(refused)


def manage_in_threads(*work: tuple[str, int, int]) -> None:
    with ThreadPoolExecutor(len(work)) as pool:
        list(pool.map(lambda one: manage(*one), work))


def manage_in_processes(*work: tuple[str, int, int]) -> None:
    context = multiprocessing.get_context("forkserver")  # imports once, then forks
    context.set_forkserver_preload([__name__, "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store"])
    processes = [context.Process(target=manage, args=one) for one in work]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(work)


@pytest.mark.parametrize(
    ("run", "managers", "moves"), [(manage_in_threads, 3, 6), pytest.param(manage_in_processes, 8, 125, marks=pytest.mark.slow)]
)
def test_concurrent_managers_leave_one_history(home, registry, run, managers, moves):
    """8 processes with 125 moves each: 1,000 promotions and rollbacks."""
    run(*((str(home / "state"), seed, moves) for seed in range(managers)))
    entries, standing = ledger.verify(registry.ledger), list[str]()
    for entry in entries:  # each line continues from the previous one: none was lost or inserted
        assert entry["previous"] == (standing[-1] if standing else None)
        standing = standing[:-1] if entry["action"] == "rollback" else [*standing, entry["version"]]
        assert entry["version"] == standing[-1]
    assert len({entry["by"] for entry in entries}) > 1
    champion = registry.champion(NAME)
    assert champion.version == standing[-1]
    assert verify_release(registry, champion) == len(entries)
