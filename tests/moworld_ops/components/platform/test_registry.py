"""Versions, aliases, promotions and rollbacks in a local MLflow store."""

import json
from pathlib import Path

import pytest

from moworld.errors import InputError
from moworld_ops.components.platform import ledger
from moworld_ops.components.platform.registry import ModelRegistry, model_folder
from moworld_ops.components.platform.serving import fetch


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    home = tmp_path_factory.mktemp("registry")
    patch.setenv("MOWORLD_HOME", str(home))
    yield ModelRegistry()
    patch.undo()


def model(tmp_path: Path, text: str) -> Path:
    folder = tmp_path / text
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"text": text}))
    return folder


def register(registry: ModelRegistry, tmp_path: Path, name: str, text: str):
    evidence = tmp_path / "evidence"
    evidence.mkdir(exist_ok=True)
    (evidence / "metrics.json").write_text(json.dumps({"speed": {"fps": 20.0}, "text": text}))
    tags = {"run": f"run-{text}", "model_sha256": text, "data_revision": "abc", "contract_version": "1.0.0"}
    return registry.register(name, model(tmp_path, text), [evidence], {"speed.fps": 20.0}, {"profile": "test"}, tags)


def test_versions_are_promoted_and_rolled_back_and_the_ledger_records_it(registry, tmp_path):
    first = register(registry, tmp_path, "moworld-a", "one")
    assert (first.version, first.aliases) == ("1", ("candidate",))
    assert registry.promote("moworld-a", "1", "test", []).aliases == ("champion",)
    second = register(registry, tmp_path, "moworld-a", "two")
    assert registry.champion("moworld-a").version == "1"
    registry.promote("moworld-a", second.version, "test", [])
    assert registry.champion("moworld-a").version == "2"
    assert json.loads((model_folder("moworld-a@champion") / "model_index.json").read_text()) == {"text": "two"}
    assert json.loads((model_folder("moworld-a@1") / "model_index.json").read_text()) == {"text": "one"}
    assert registry.metrics(second)["speed"] == {"fps": 20.0}
    assert registry.rollback("moworld-a", "test", "too dark").version == "1"
    actions = [(entry["action"], entry["version"], entry["previous"]) for entry in ledger.verify(registry.ledger)]
    assert actions == [("promote", "1", None), ("promote", "2", "1"), ("rollback", "1", "2")]
    with pytest.raises(InputError, match="no earlier champion"):
        registry.rollback("moworld-a", "test", "again")


def test_registering_and_promoting_again_changes_nothing(registry, tmp_path):
    first = register(registry, tmp_path, "moworld-b", "three")
    again = registry.register("moworld-b", tmp_path / "three", [], {}, {}, first.tags)
    assert again == first and len(registry.versions("moworld-b")) == 1
    registry.promote("moworld-b", "1", "test", [])
    entries = len(ledger.verify(registry.ledger))
    registry.promote("moworld-b", "1", "test", [])
    assert len(ledger.verify(registry.ledger)) == entries


@pytest.mark.parametrize("same_store", [True, False])
def test_a_run_is_a_child_of_the_run_that_kfp_made_of_its_task(tmp_path, monkeypatch, same_store):
    """KFP 2.17 with MLflow: two tasks of one pipeline, one parent; a registry elsewhere has no such run."""
    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path / "home"))
    uri = f"sqlite:///{tmp_path / 'kfp.db'}"
    kfp = ModelRegistry(uri).client
    experiment = kfp.create_experiment("Default of KFP", artifact_location=(tmp_path / "artifacts").as_uri())
    parents = [kfp.create_run(experiment).info.run_id for _ in range(2)]
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    made = []
    for text, parent in zip(("one", "two"), parents, strict=True):
        monkeypatch.setenv("MLFLOW_RUN_ID", parent)
        registry = ModelRegistry("" if same_store else f"sqlite:///{tmp_path / 'own.db'}")
        if not same_store and not made:
            registry.client.create_experiment("moworld", artifact_location=(tmp_path / "own").as_uri())
        run = registry.client.get_run(register(registry, tmp_path, "moworld-n", text).run_id)
        assert run.data.tags.get("mlflow.parentRunId") == (parent if same_store else None)
        assert registry.client.get_experiment(run.info.experiment_id).name == ("Default of KFP" if same_store else "moworld")
        made.append(run.info.run_id)
    assert len({*made, *parents}) == 4
    assert all(not kfp.get_run(parent).data.metrics and kfp.get_run(parent).info.status == "RUNNING" for parent in parents)  # KFP's own


def test_a_promotion_that_died_after_its_ledger_line_is_completed_by_the_next(registry, tmp_path, monkeypatch):
    for text in ("six", "seven"):
        register(registry, tmp_path, "moworld-d", text)
    registry.promote("moworld-d", "1", "test", [])

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(registry.client, "set_registered_model_alias", die)
        registry.promote("moworld-d", "2", "test", [])
    assert registry.champion("moworld-d").version == "1"
    assert registry.promote("moworld-d", "2", "test", []).aliases == ("champion",)
    assert [entry["version"] for entry in registry.entries("moworld-d")] == ["1", "2"]
    assert registry.rollback("moworld-d", "test", "dark").version == "1"


def test_the_lineage_is_in_the_version_s_tags_and_a_data_set_of_its_run(registry, tmp_path):
    version = register(registry, tmp_path, "moworld-c", "four")
    assert version.tags["data_revision"] == "abc"
    (data,) = registry.client.get_run(version.run_id).inputs.dataset_inputs
    assert data.dataset.digest.startswith("abc+contracts-") and len(data.dataset.digest) <= 36


@pytest.mark.parametrize("reference", ["moworld-none", "moworld-none@champion", "some/folder", "moworld-c@9"])
def test_a_missing_model_is_named(registry, tmp_path, reference):
    if "moworld-c" not in registry.names():
        register(registry, tmp_path, "moworld-c", "five")
    with pytest.raises(InputError, match="no such"):
        model_folder(reference)
    if "@" in reference:
        with pytest.raises(InputError, match="no such"):
            fetch(reference, tmp_path)
        assert not (tmp_path / "current").exists()
