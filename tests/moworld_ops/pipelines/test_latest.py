"""`evaluate latest`: the newest run that has what is evaluated, whatever ran after it."""

import json

import pytest

from moworld.errors import InputError
from moworld_ops.pipelines.study import artifact_folders, latest_distilled
from tests.moworld_ops.pipelines.command import Command


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def make_run(home, name, started, outputs):
    artifacts = {}
    (home / "runs" / name / "steps").mkdir(parents=True)
    for step, output in outputs:
        folder = home / "runs" / name / "artifacts" / step / output
        folder.mkdir(parents=True)
        artifacts[step] = {output: {"path": str(folder)}}
        (home / "runs" / name / "steps" / f"{step}.json").write_text(json.dumps({"status": "done", "outputs": artifacts[step]}))
    record = {"run": name, "engine": "local", "pipeline": "data", "profile": "pocket", "status": "done", "started": started, "artifacts": artifacts}
    (home / "runs" / name / "run.json").write_text(json.dumps(record))


MODEL = [("cache_features", "features"), ("distill", "distilled"), ("quantize", "quantized")]


def test_the_study_of_latest_is_that_of_the_newest_run_with_a_student_also_after_an_import(home):
    with pytest.raises(InputError, match="a run that distilled a student"):
        latest_distilled()
    make_run(home, "older", 1, MODEL)
    make_run(home, "newer", 2, MODEL)
    make_run(home, "import", 3, [("cache_features", "features")])
    assert latest_distilled().name == "newer"
    assert artifact_folders([latest_distilled()])["distilled"].startswith(str(home / "runs" / "newer"))


def test_a_model_of_latest_is_that_of_the_newest_run_that_quantized_one(home, tmp_path, monkeypatch, capsys):
    moworld = Command(tmp_path, monkeypatch, capsys)
    none = moworld("evaluate", "latest", "--protocol", "speed")
    assert none.returncode == 2 and "expected a run that finished step quantize" in none.stderr
    make_run(home, "newer", 2, MODEL)
    make_run(home, "import", 3, [("cache_features", "features")])
    found = moworld("evaluate", "latest", "--protocol", "speed")  # the folder is empty, and named
    assert found.returncode == 2 and f"{home}/runs/newer/artifacts/quantize/quantized: model_index.json" in found.stderr
