"""Sources of a pipeline's inputs: settings, a run on this machine by its name."""

import pytest

from moworld.errors import InputError
from moworld.files import write_json
from moworld_ops.pipelines import profile
from moworld_ops.pipelines.catalog import arguments


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Returns a function that records a finished step of run r-1 with one output, and the output's path."""
    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path))

    def add(step: str, output: str, status: str = "done", engine: str = "local"):
        folder = tmp_path / "runs" / "r-1"
        where = {"kubeflow": {"endpoint": "http://127.0.0.1:1", "id": "1"}} if engine == "kubeflow" else {}
        write_json(folder / "run.json", {"run": "r-1", "engine": engine, "profile": "other", "started": 1, "status": "done", **where})
        path = folder / "artifacts" / step / output
        path.mkdir(parents=True)
        write_json(folder / "steps" / f"{step}.json", {"status": status, "outputs": {output: {"path": str(path)}}})
        return str(path)

    return add


def test_an_input_may_be_the_output_of_a_named_run(run):
    features, teacher = run("cache_features", "features"), run("train_curriculum-5", "model")
    settings = profile.load("test", ["inputs.features=run:r-1", "inputs.teacher=run:latest"])[1]
    assert arguments("distill", "test", settings, "r-2") == {"seed": "3", "run": "r-2", "features": features, "teacher": teacher}


@pytest.mark.parametrize(
    ("override", "engine", "words"),
    [
        ("features=run:r-9", "local", "r-9: found no such run"),
        ("features=run:r-1", "local", "run r-1: features: found finished steps: annotate, expected a run that finished step cache_features"),
        ("features=run:r-1", "kubeflow", "run r-1: engine: found a run on the cluster"),
    ],
)
def test_a_run_without_the_output_is_refused_in_one_line(run, override, engine, words):
    run("annotate", "captioned", engine=engine)
    with pytest.raises(InputError, match=words) as raised:
        arguments("pretrain", "test", profile.load("test", [f"inputs.{override}"])[1], "r-2")
    assert "\n" not in str(raised.value)


def test_an_input_that_no_step_makes_is_no_output_of_a_run(run):
    run("annotate", "captioned")
    with pytest.raises(InputError, match=r"inputs\.vae: found a run"):
        arguments("data", "wan22-a14b", profile.load("wan22-a14b", ["inputs.vae=run:r-1"])[1], "r-2")
