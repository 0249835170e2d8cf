"""Releases under attack and under load: what was tampered with is found, and managers at the same time leave one history."""

import json
import multiprocessing
import os
import random
import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from components.platform import ledger
from components.platform.registry import HEAD, ModelRegistry
from components.platform.verification import verify_release
from components.register.step import register
from moworld.errors import InputError

NAME = "moworld-trust"


def registered(home: Path, versions: int) -> ModelRegistry:
    """A registry under `home` with that many versions of a small model, each with weights, metrics and a video."""
    os.environ["MOWORLD_HOME"] = str(home / "state")
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


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path / "state"))
    return tmp_path


def flip_byte(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    place = chance.randrange(len(data))
    data[place] ^= chance.randrange(1, 256)
    path.write_bytes(bytes(data))


def edit_lines(path: Path, chance: random.Random) -> None:
    """Change, drop, move, double or invent lines of the ledger; at times with every hash made right again."""
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
    """Bring the state folder back. The open database keeps its file; only what is in it is replaced."""
    database = Path("mlflow/mlflow.db")
    with sqlite3.connect(sound / database) as source, sqlite3.connect(state / database) as target:
        source.backup(target)
    shutil.rmtree(state / "mlflow" / "artifacts")
    shutil.copytree(sound, state, dirs_exist_ok=True, ignore=lambda folder, names: [n for n in names if n.startswith(database.name)])


KINDS = ("weight", "metric", "evidence", "logged metric", "tag", "head", "alias", "ledger")


@pytest.mark.parametrize("rounds", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_every_tampering_is_found(home, rounds):
    """25 rounds of 8 kinds: 200 tampers."""
    registry = registered(home, 3)
    for version in "123":
        registry.promote(NAME, version, "test", [])
    assert verify_release(registry, registry.find(NAME)) == 3
    shutil.copytree(home / "state", home / "sound")
    chance, found = random.Random(0), Counter()
    for kind in KINDS * rounds:
        tamper(ModelRegistry(), kind, chance)
        with pytest.raises(InputError):
            version = ModelRegistry().version(NAME, "3")  # by number: the alias may point elsewhere now
            verify_release(ModelRegistry(), version)
        found[kind] += 1
        restore(home / "sound", home / "state")
        assert verify_release(ModelRegistry(), ModelRegistry().find(NAME)) == 3
    assert found == dict.fromkeys(KINDS, rounds)


def manage(home: str, seed: int, moves: int) -> None:
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


@pytest.mark.parametrize(("managers", "moves"), [(3, 6), pytest.param(8, 125, marks=pytest.mark.slow)])
def test_managers_at_the_same_time_leave_one_history(home, managers, moves):
    """8 managers with 125 moves each: 1,000 promotions and rollbacks."""
    registry = registered(home, 3)
    start = multiprocessing.get_context("spawn").Process
    working = [start(target=manage, args=(str(home / "state"), seed, moves)) for seed in range(managers)]
    for process in working:
        process.start()
    for process in working:
        process.join()
    assert [process.exitcode for process in working] == [0] * managers
    entries, standing = ledger.verify(registry.ledger), list[str]()
    for entry in entries:  # each line continues from the one before: none was lost, none came between
        assert entry["previous"] == (standing[-1] if standing else None)
        standing = standing[:-1] if entry["action"] == "rollback" else [*standing, entry["version"]]
        assert entry["version"] == standing[-1]
    assert len({entry["by"] for entry in entries}) > 1
    champion = registry.champion(NAME)
    assert champion.version == standing[-1]
    assert verify_release(registry, champion) == len(entries)
