"""The local engine on three small steps, in real processes: resume, refusal, bad input, full disk, kill, cancel."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moworld.errors import InputError
from moworld_ops.components.platform.steps import process_token
from moworld_ops.pipelines.runs import Run


def start(folder: Path, mode: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.moworld_ops.pipelines.small", str(folder / "runs" / "one"), str(folder / "journal"), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(process: subprocess.Popen) -> tuple[int, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out + err


def wait_for(condition, seconds: float = 30.0) -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "the condition did not become true"
        time.sleep(0.05)


def journal(folder: Path) -> list[str]:
    return (folder / "journal").read_text().split()


def half_written(folder: Path) -> list[Path]:
    return list((folder / "runs" / "one" / "artifacts").rglob("half"))


def test_a_second_attempt_repeats_no_finished_step_after_kill_9(tmp_path):
    process = start(tmp_path, "hang-once")
    wait_for((tmp_path / "journal.hung").exists)
    run = Run(tmp_path / "runs" / "one")
    step = run.steps()["second"]["process"]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert run.status() == "killed"
    assert half_written(tmp_path)
    wait_for(lambda: process_token(int(step.split(":")[0])) != step)  # the orphan ends itself
    code, output = finish(start(tmp_path, "hang-once"))
    assert code == 0
    assert journal(tmp_path) == ["first", "second", "second", "third"]
    assert "first kept\n" in output and "second done\n" in output and "first done" not in output
    assert half_written(tmp_path) == []
    record = run.record
    assert [attempt["status"] for attempt in record["attempts"]] == ["killed", "done"]
    assert {name: step["attempt"] for name, step in record["steps"].items()} == {"first": 1, "second": 2, "third": 2}
    assert all(step["status"] == "done" for step in record["steps"].values())


def test_a_finished_run_started_again_runs_nothing(tmp_path):
    assert finish(start(tmp_path, "none"))[0] == 0
    before = Run(tmp_path / "runs" / "one").record["artifacts"]
    assert finish(start(tmp_path, "none"))[0] == 0
    assert journal(tmp_path) == ["first", "second", "third"]
    assert Run(tmp_path / "runs" / "one").record["artifacts"] == before


@pytest.mark.parametrize(
    ("mode", "code", "status", "words"),
    [
        ("bad", 2, "failed", "second: clip.mp4: frame 3: found nothing, expected a picture; record it again"),
        ("full", 2, "failed", "full disk"),
        ("no", 1, "refused", "second: gate speed: 3 < 16"),
        ("bug", 1, "failed", "KeyError: 'bug'"),
        ("early", 1, "failed", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("empty", 1, "failed", "without writing its output"),
    ],
)
def test_a_failed_step_leaves_one_line_and_no_unfinished_output(tmp_path, mode, code, status, words):
    assert finish(start(tmp_path, mode))[0] == code
    record = Run(tmp_path / "runs" / "one").record
    assert record["status"] == status
    assert words in record["error"] and "\n" not in record["error"]
    assert half_written(tmp_path) == []
    assert "third" not in journal(tmp_path)
    assert record["steps"]["third"] == {"index": 2, "needs": ["second"], "status": "waiting"}


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux")
def test_a_failed_step_kills_orphans_that_hold_its_output(tmp_path):
    assert finish(start(tmp_path, "orphan"))[0] == 1  # and does not wait for the orphan's end
    run = Run(tmp_path / "runs" / "one")
    assert "terminated abruptly" in run.record["error"]
    [orphan] = re.findall(r"^\D*(\d+)$", (run.folder / "log.txt").read_text(), re.MULTILINE)
    state = Path("/proc", orphan, "stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_a_second_process_on_the_same_folder_is_refused_and_cancel_ends_the_step(tmp_path):
    process = start(tmp_path, "hang-once")
    wait_for((tmp_path / "journal.hung").exists)
    run = Run(tmp_path / "runs" / "one")
    assert run.status() == "running"
    with pytest.raises(InputError, match="another process"), run.locked():
        pass
    step = run.steps()["second"]["process"]
    run.cancel()
    code, _ = finish(process)
    assert code == 128 + signal.SIGTERM
    assert run.record["status"] == run.status() == "cancelled"
    assert process_token(int(step.split(":")[0])) != step
    assert half_written(tmp_path) == []
    with pytest.raises(InputError, match="nothing to cancel"):
        run.cancel()


def test_outputs_have_a_hash_and_the_log_has_the_output_of_every_step(tmp_path):
    code, output = finish(start(tmp_path, "none"))
    assert code == 0
    assert json.loads(next(line for line in output.splitlines() if line.startswith("{")))["status"] == "done"
    assert "Running pipeline" not in output  # kfp's own output is in the log
    run = Run(tmp_path / "runs" / "one")
    assert "Running pipeline" in (run.folder / "log.txt").read_text()
    for name, outputs in run.record["artifacts"].items():
        assert len(outputs["out"]["sha256"]) == 64, name
    assert run.record["orchestration_seconds"] < 5
    assert all(step["peak_bytes"] > 1e6 for step in run.record["steps"].values())


def test_a_partition_that_fails_is_run_again_alone(tmp_path):
    assert finish(start(tmp_path, "loop-none"))[0] == 1
    run, ran = Run(tmp_path / "runs" / "one"), (tmp_path / "journal").read_text().splitlines()
    assert sorted(ran) == ["measure-p00 2", "measure-p01 2", "measure-p02 2"]  # a failure ends no other partition
    assert run.record["status"] == "failed" and "measure-p01: KeyError" in run.record["error"]
    assert finish(start(tmp_path, "loop-none"))[0] == 0
    assert (tmp_path / "journal").read_text().splitlines()[3:] == ["measure-p01 2", "merge"]
    steps = run.record["steps"]
    assert {name: step["attempt"] for name, step in steps.items()} == {"measure-p00": 1, "measure-p01": 2, "measure-p02": 1, "merge": 2}
    assert steps["merge"]["needs"] == ["measure-p00", "measure-p01", "measure-p02"]
    assert (run.output("merge", "out") / "whole").read_text() == "012"


def test_a_cancelled_loop_starts_no_other_partition(tmp_path):
    process = start(tmp_path, "loop-hang")
    wait_for(lambda: (tmp_path / "journal").exists() and len((tmp_path / "journal").read_text().splitlines()) == 2)
    Run(tmp_path / "runs" / "one").cancel()
    code, _ = finish(process)
    assert code == 128 + signal.SIGTERM and len((tmp_path / "journal").read_text().splitlines()) == 2
