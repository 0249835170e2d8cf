"""Steps register and promote with a real MLflow store, real signatures and a real ledger."""

import json
from pathlib import Path

import pytest

from moworld.errors import InputError
from moworld.files import sha256_tree
from moworld_ops.components.platform.registry import ModelRegistry
from moworld_ops.components.platform.steps import Refused
from moworld_ops.components.platform.verification import flat, verify_release
from moworld_ops.components.promote.step import promote
from moworld_ops.components.register.step import register

GATES = [
    {"fact": "signature", "among": ["holds"]},
    {"fact": "contract", "among": ["passed"]},
    {"metric": "drift", "at_most": 2},
    {"metric": "frames_per_second", "at_least": 16, "champion_margin": 2},
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("release")
    patch.setenv("MOWORLD_HOME", str(folder))
    yield folder
    patch.undo()


def candidate(folder: Path, run: str, fps: float) -> tuple[str, str]:
    """Registers a model with this speed; returns its registration and metrics folders."""
    for name in ("model", "metrics", "features"):
        (folder / run / name).mkdir(parents=True)
    (folder / run / "model" / "model_index.json").write_text(json.dumps({"run": run}))
    (folder / run / "metrics" / "metrics.json").write_text(json.dumps({"frames_per_second": fps, "drift": 1.0}))
    (folder / run / "features" / "revision.json").write_text(json.dumps({"revision": "abc", "contract_version": "1.0.0"}))
    parts = {name: str(folder / run / name) for name in ("model", "metrics", "features")}
    register(**parts, out=str(folder / run / "registration"), settings={"name": "moworld-steps"}, run=run)
    return str(folder / run / "registration"), parts["metrics"]


def test_a_candidate_is_promoted_or_refused_by_gates_and_champion(home, tmp_path):
    registry = ModelRegistry()
    first = candidate(tmp_path, "first", 20.0)
    registered = json.loads(Path(first[0], "registration.json").read_text())
    assert registered["data_revision"] == "abc"
    assert registered["model_sha256"] == sha256_tree(tmp_path / "first" / "model")
    assert promote(*first, out=str(tmp_path / "verdict"), gates=GATES, run="first")["promoted"]
    assert registry.champion("moworld-steps").version == "1"
    for run, fps, words in (("second", 10.0, "frames_per_second at least 16"), ("third", 17.0, "champion")):
        with pytest.raises(Refused, match=words) as caught:
            promote(*candidate(tmp_path, run, fps), out=str(tmp_path / f"{run}-verdict"), gates=GATES, run=run)
        assert f"found {fps:g}" in str(caught.value) and caught.value.details["promoted"] is False
        assert not (tmp_path / f"{run}-verdict").exists()
        assert registry.champion("moworld-steps").version == "1"
    assert promote(*candidate(tmp_path, "fourth", 19.0), out=str(tmp_path / "verdict-4"), gates=GATES, run="fourth")["version"] == "4"
    assert [(entry["version"], entry["run"]) for entry in registry.entries("moworld-steps")] == [("1", "first"), ("4", "fourth")]
    version = registry.find("moworld-steps@champion")
    assert verify_release(registry, version) == 2


def test_a_folder_without_a_model_is_refused(home, tmp_path):
    with pytest.raises(InputError, match="a model folder"):
        register(str(tmp_path), str(tmp_path), str(tmp_path), str(tmp_path / "out"), {"name": "moworld-steps"}, "run")
    assert not (tmp_path / "out").exists()


def test_metrics_are_flattened_to_the_numbers_that_mlflow_accepts():
    values = {"a": {"b": 1, "c": "words"}, "d": float("nan"), "e": float("inf"), "f": [1, 2], "g": 0.5}
    assert flat(values) == {"a.b": 1.0, "g": 0.5}
