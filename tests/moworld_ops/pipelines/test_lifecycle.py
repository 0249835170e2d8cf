"""Pipeline lifecycle on the smallest profile and the local engine: one real run, and checks of everything it wrote."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moworld.files import sha256_tree
from moworld_ops.components.platform.registry import ModelRegistry, model_folder
from moworld_ops.components.platform.revisions import fetch_revision
from moworld_ops.pipelines.runs import Run

STEPS = [
    "collect",
    "complete_geometry",
    "check_quality",
    "annotate",
    "train_codec",
    "cache_features",
    *(f"train_curriculum-{number}" for number in range(1, 6)),
    "train_autoregressive",
    "distill",
    "quantize",
    "benchmark",
    "register",
    "promote",
]


def moworld(home: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from moworld_ops.pipelines.cli.app import main; main()", *arguments]
    return subprocess.run(command, env={**os.environ, "MOWORLD_HOME": str(home)}, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def lifecycle(tmp_path_factory):
    home = tmp_path_factory.mktemp("lifecycle")
    done = moworld(home, "run", "lifecycle", "--profile", "test", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    patch = pytest.MonkeyPatch()
    patch.setenv("MOWORLD_HOME", str(home))
    answer = json.loads(done.stdout)
    yield home, answer, Run(home / "runs" / answer["run"])
    patch.undo()


def test_json_has_every_step_with_seconds_and_memory(lifecycle):
    _, answer, _ = lifecycle
    assert answer["status"] == "done"
    assert list(answer["steps"]) == STEPS
    for name, step in answer["steps"].items():
        assert step["status"] == "done" and step["seconds"] > 0 and step["peak_bytes"] > 1e7, name
    assert answer["model"]["name"] == "moworld-test" and answer["model"]["alias"] == "champion"


def test_the_promoted_model_is_the_one_that_was_trained_signed_and_registered(lifecycle):
    _, answer, run = lifecycle
    quantized = Path(run.record["artifacts"]["quantize"]["quantized"]["path"])
    registry = ModelRegistry()
    champion = registry.champion("moworld-test")
    assert champion.version == str(answer["model"]["version"])
    assert sha256_tree(quantized) == champion.tags["model_sha256"] == sha256_tree(model_folder("moworld-test@champion"))
    assert champion.tags["run"] == run.name
    assert [(entry["action"], entry["run"]) for entry in registry.entries("moworld-test")] == [("promote", run.name)]


def test_the_run_record_has_everything_to_repeat_the_run(lifecycle):
    home, _, run = lifecycle
    record = run.record
    assert record["seeds"] == {"seed": 3} and record["profile"] == "test"
    assert "@sha256:" in record["images"]["data"]
    assert record["git_commit"] is not None
    assert set(record["artifacts"]) == set(STEPS)
    assert all(len(facts["sha256"]) == 64 for outputs in record["artifacts"].values() for facts in outputs.values())
    assert ModelRegistry().champion("moworld-test").tags["data_revision"] == record["data_revision"]
    fetch_revision(str(home / "registry"), record["data_revision"], str(home / "fetched"))
    assert any((home / "fetched").rglob("*.safetensors"))


def test_the_report_is_one_self_contained_page(lifecycle):
    _, answer, _ = lifecycle
    page = Path(answer["report"]).read_text(encoding="utf-8")
    assert "train_curriculum-5" in page and "<video" in page
    assert 'src="http' not in page and "<link" not in page


def test_resuming_a_finished_run_repeats_no_step(lifecycle):
    home, answer, run = lifecycle
    before = run.record
    done = moworld(home, "run", "lifecycle", "--resume", run.name, "--json")
    assert done.returncode == 0, done.stderr
    after = run.record
    assert [attempt["status"] for attempt in after["attempts"]] == ["done", "done"]
    assert {step["attempt"] for step in after["steps"].values()} == {1}
    assert after["artifacts"] == before["artifacts"]
    assert json.loads(done.stdout)["model"] == answer["model"]


def test_commands_show_verify_and_gate_the_run(lifecycle):
    home, _answer, run = lifecycle
    shown = json.loads(moworld(home, "runs", "show", "latest", "--json").stdout)
    assert shown["run"] == run.name and shown["status"] == "done"
    verified = moworld(home, "release", "verify", "moworld-test@champion", "--json")
    assert json.loads(verified.stdout)["signature"] == "valid", verified.stderr
    assert moworld(home, "release", "gates", "moworld-test@champion", "--profile", "test").returncode == 0


def test_a_failing_gate_is_refused_with_its_value_and_the_champion_stays(lifecycle):
    home, answer, _run = lifecycle
    done = moworld(home, "run", "release", "--profile", "test", "--set", "gates=[{metric: student_next_chunk_psnr, at_least: 90}]")
    assert done.returncode == 1, done.stderr
    assert "was not promoted" in done.stderr and "student_next_chunk_psnr at least 90" in done.stderr
    registry = ModelRegistry()
    assert registry.champion("moworld-test").version == str(answer["model"]["version"])
    assert len(registry.entries("moworld-test")) == 1


def test_a_rollout_from_the_promoted_model_is_a_playing_video(lifecycle, tmp_path):
    from moworld.video import read_frames

    home, _, run = lifecycle
    clips = Path(run.record["artifacts"]["collect"]["clips"]["path"])
    first = next((clips / "videos").glob("*.mp4"))
    out = tmp_path / "world.mp4"
    done = moworld(
        home, "rollout", "--model", "moworld-test@champion", "--image", str(first), "--actions", "w*12,d*12", "--out", str(out), "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frames"] == 25
    assert read_frames(out).shape == (25, 32, 48, 3)


def test_the_study_of_a_run_compares_what_it_made_and_trains_and_measures_nothing_twice(lifecycle, tmp_path):
    home, answer, run = lifecycle
    arguments = ("evaluate", answer["run"], "--protocol", "distill", "--out", str(tmp_path), "--seeds", "1", "--frames", "120",
                 "--episodes", "2", "--ablate", "anchor,consistency", "--json")  # fmt: skip
    done = moworld(home, *arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    variants = found["variants"]
    assert {"teacher, 50 steps", "teacher, 4 steps", "student before DMD", "student", "student, INT8"} <= variants.keys()
    assert {"student, no anchor loss", "student, consistency start"} <= variants.keys()
    student = variants["student"]
    assert student["first chunk, dB"][0] > 5 and student["contrast at 100"][0] > 0 and student["seen again, dB"] is not None
    assert variants["teacher, 4 steps"]["last chunk, dB"] is not None and variants["teacher, 4 steps"]["turn error, degrees"][0] > 0
    evaluations = next(row for row in found["targets"] if row["name"].startswith("teacher evaluations"))
    assert evaluations["met"] is True
    page = (tmp_path / "study.html").read_text()
    assert page.count("<video") == 1 + len(variants) and page.count("data:image/png") == 1 + 2 * len(variants) - 3  # two teachers, one blind
    made = run.folder / "variants"
    losses = json.loads((made / "consistency/distilled/losses.json").read_text())
    assert "low consistency" in losses and not (made / "consistency/student").exists()  # the run's own student is reused
    assert json.loads((made / "anchor/student.json").read_text())["settings"]["anchor_weight"] == 0
    kept = {path: path.stat().st_mtime_ns for folder in (made, tmp_path / "measured") for path in folder.rglob("*.json")}
    assert json.loads(moworld(home, *arguments).stdout)["variants"] == variants
    assert {path: path.stat().st_mtime_ns for folder in (made, tmp_path / "measured") for path in folder.rglob("*.json")} == kept


def test_a_study_without_a_student_is_refused(lifecycle, tmp_path):
    """The record of the run up to the features is that of pipeline data."""
    home, _, run = lifecycle
    data = Run(home / "runs" / "data-only")
    data.update(**{**run.record, "run": data.name, "started": 0, "artifacts": {name: run.record["artifacts"][name] for name in STEPS[:6]}})
    study = moworld(home, "evaluate", data.name, "--protocol", "distill", "--out", str(tmp_path / "study"))
    assert study.returncode == 2 and "distilled" in study.stderr and not (tmp_path / "study").exists()
