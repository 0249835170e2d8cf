"""Versions, aliases, promotions and rollbacks in a local MLflow store."""

import json
from pathlib import Path

import pytest

from moworld.errors import InputError
from moworld_ops.components.platform import releases
from moworld_ops.components.platform.registry import ModelRegistry, model_folder
from moworld_ops.components.platform.serving import fetch
from moworld_ops.components.platform.verification import verify_version
from tests.moworld_ops.components.platform.registries import promote, register_version


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    home = tmp_path_factory.mktemp("registry")
    patch.setenv("MOWORLD_HOME", str(home))
    yield ModelRegistry()
    patch.undo()


def register(registry: ModelRegistry, tmp_path: Path, name: str, text: str):
    return register_version(tmp_path, int(text), name)


def test_versions_are_promoted_and_rolled_back_and_the_ledger_records_it(registry, tmp_path):
    first = register(registry, tmp_path, "moworld-a", "1")
    assert (first.version, first.aliases) == ("1", ("candidate",))
    assert promote(registry, "1", "moworld-a", reason="the first").aliases == ("champion",)
    second = register(registry, tmp_path, "moworld-a", "2")
    assert registry.champion("moworld-a").version == "1"
    promote(registry, second.version, "moworld-a")
    assert registry.champion("moworld-a").version == "2"
    assert json.loads((model_folder("moworld-a@champion") / "model_index.json").read_text()) == {"number": 2}
    assert json.loads((model_folder("moworld-a@1") / "model_index.json").read_text()) == {"number": 1}
    assert registry.metrics(second)["nested"] == {"number": 2}
    assert releases.rollback(registry, "moworld-a", reason="too dark").version == "1"
    actions = [(entry["action"], entry["version"], entry["previous"], entry["reason"]) for entry in registry.entries("moworld-a")]
    assert actions == [("promote", "1", None, "the first"), ("promote", "2", "1", ""), ("rollback", "1", "2", "too dark")]
    with pytest.raises(InputError, match="no earlier champion"):
        releases.rollback(registry, "moworld-a")


def test_registering_and_promoting_again_changes_nothing(registry, tmp_path):
    first = register(registry, tmp_path, "moworld-b", "3")
    again, is_new = registry.begin("moworld-b", first.tags)
    assert again == first and not is_new and len(registry.versions("moworld-b")) == 1
    promote(registry, "1", "moworld-b")
    entries = registry.ledger.entries()
    promote(registry, "1", "moworld-b")
    assert registry.ledger.entries() == entries


@pytest.mark.parametrize("same_store", [True, False])
def test_a_run_is_a_child_of_the_run_that_kfp_made_of_its_task(tmp_path, monkeypatch, same_store):
    """KFP 2.17 with MLflow: two tasks of one pipeline, one parent; a registry elsewhere has no such run."""
    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path / "home"))
    uri = f"sqlite:///{tmp_path / 'kfp' / 'mlflow.db'}"
    kfp = ModelRegistry(uri).client
    experiment = kfp.create_experiment("Default of KFP", artifact_location=(tmp_path / "kfp" / "artifacts").as_uri())
    parents = [kfp.create_run(experiment).info.run_id for _ in range(2)]
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    made, tracking = [], "" if same_store else f"sqlite:///{tmp_path / 'own' / 'mlflow.db'}"
    for number, parent in enumerate(parents, 1):
        monkeypatch.setenv("MLFLOW_RUN_ID", parent)
        version, client = register_version(tmp_path, number, "moworld-n", tracking=tracking), ModelRegistry(tracking).client
        run = client.get_run(version.run_id)
        assert run.data.tags.get("mlflow.parentRunId") == (parent if same_store else None)
        assert client.get_experiment(run.info.experiment_id).name == ("Default of KFP" if same_store else "moworld")
        made.append(version.run_id)
    assert len({*made, *parents}) == 4
    assert all(not kfp.get_run(parent).data.metrics and kfp.get_run(parent).info.status == "RUNNING" for parent in parents)  # KFP's own


def test_a_promotion_that_died_after_its_ledger_line_is_completed_by_the_next(registry, tmp_path, monkeypatch):
    for text in ("6", "7"):
        register(registry, tmp_path, "moworld-d", text)
    promote(registry, "1", "moworld-d")

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(registry.store, "move", die)
        promote(registry, "2", "moworld-d")
    assert registry.champion("moworld-d").version == "1"
    assert promote(registry, "2", "moworld-d").aliases == ("champion",)
    assert [entry["version"] for entry in registry.entries("moworld-d")] == ["1", "2"]
    assert releases.rollback(registry, "moworld-d").version == "1"


def test_a_registration_that_died_is_completed_by_the_next(registry, tmp_path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("moworld_ops.components.platform.registry.ModelRegistry.complete", die)
        register(registry, tmp_path / "one", "moworld-e", "8")
    assert register(registry, tmp_path / "two", "moworld-e", "8").version == "1"
    assert verify_version(registry, registry.version("moworld-e", "1")).evidence["version"] == "1"


def test_the_lineage_is_in_the_version_s_tags_and_a_data_set_of_its_run(registry, tmp_path):
    version = register(registry, tmp_path, "moworld-c", "4")
    assert version.tags["data_revision"] == "abc"
    (data,) = registry.client.get_run(version.run_id).inputs.dataset_inputs
    assert data.dataset.digest.startswith("abc+contracts-") and len(data.dataset.digest) <= 36


@pytest.mark.parametrize("reference", ["moworld-none", "moworld-none@champion", "some/folder", "moworld-c@9"])
def test_a_missing_model_is_named(registry, tmp_path, reference):
    if "moworld-c" not in registry.names():
        register(registry, tmp_path, "moworld-c", "5")
    with pytest.raises(InputError, match="no such"):
        model_folder(reference)
    if "@" in reference:
        with pytest.raises(InputError, match="no such"):
            fetch(reference, tmp_path)
        assert not (tmp_path / "current").exists()
