"""`moworld release` moves, deletes and prints only what it says, whatever others did to the registry."""

import shutil
from pathlib import Path

import pytest

from moworld_ops.components.platform import releases
from moworld_ops.components.platform.registry import ModelRegistry
from moworld_ops.components.platform.tracking import sqlite_file, sqlite_uri
from moworld_ops.components.platform.verification import verify_release
from tests.moworld_ops.components.platform.registries import NAME, run_folder, state


def test_a_printed_comparison_has_the_numbers_of_each_metric(home, moworld):
    status, out, _ = moworld("compare", f"{NAME}@4", f"{NAME}@3")
    rows = {cells[0]: cells[1:3] for line in out.splitlines() if len(cells := [one.strip() for one in line.strip("│").split("│")]) == 5}
    assert status == 0 and rows["frames_per_second"] == ["24", "23"] and rows["student_next_chunk_psnr"] == ["19.8", "20"]
    assert rows["drift"] == ["1.5", "1.5"] and rows["nested.number"] == ["4", "3"]


@pytest.mark.parametrize("source", ["source", "file:///elsewhere/{run}/model", "models:/{name}/1"])
@pytest.mark.parametrize("other", [NAME, "another-model"])
def test_files_that_a_kept_version_has_are_not_deleted_with_another(home, source, other):
    """MLflow's button "Register model" makes a second version of a run."""
    registry = ModelRegistry()
    first = registry.version(NAME, "1")
    if other != NAME:
        registry.client.create_registered_model(other)
    text = first.source if source == "source" else source.format(run=first.run_id, name=NAME)
    registry.client.create_model_version(other, text, first.run_id if source == "source" else None)
    assert "1" in [version.version for version in releases.collect(registry, NAME, 1, remove=True)]
    assert (run_folder(home, "3") / "model").is_dir() and registry.artifacts(first).names()


@pytest.mark.parametrize("name", ["%73tate", "a?b=c", "a%3Fb", "100%", "a#b", "a&b c", "é%c3%a9"])
def test_a_state_folder_is_the_one_that_is_named(home, tmp_path, monkeypatch, name):
    copy = tmp_path / name
    shutil.copytree(home, copy)
    before = state(home)
    monkeypatch.setenv("MOWORLD_HOME", str(copy))
    registry = ModelRegistry(create=False)
    assert registry.file == copy / "mlflow" / "mlflow.db" == sqlite_file(sqlite_uri(registry.file))
    assert releases.rollback(registry, NAME).version == "2" and verify_release(registry, registry.find(NAME)) == 4
    assert state(home) == before and state(copy) != before
    assert Path(run_folder(copy, "1")).is_relative_to(registry.folder)
