"""Steps in this process, on ranks that torchrun starts, and the entry point of a rank."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from moworld.errors import InputError
from moworld_ops.components.platform import launch
from moworld_ops.components.platform.pools import Here, Torchrun, parse, text
from moworld_ops.components.platform.steps import process_token

STEP = """
import os
import signal
import time
from pathlib import Path
from moworld.errors import InputError
def echo(out, text):
    rank = os.environ.get("RANK", "alone")
    if text == "hang":
        Path(out, rank).write_text(str(os.getpid()))
        time.sleep(600)
    if text != "good" and rank == "0" and "WORLD_SIZE" in os.environ:
        time.sleep(600)  # waits for its peer, as in a collective operation
    if text == "bad":
        raise InputError("file", "field", "bad", "good", "fix it")
    if text == "bug":
        raise ValueError("two\\nlines")
    if text == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    Path(out, rank).write_text(text)
    return {"ranks": int(os.environ.get("WORLD_SIZE", 1))}
"""
TWO = text(Torchrun(ranks=2))


@pytest.fixture
def echo(tmp_path, monkeypatch):
    """A component `echo`, importable here and in processes that this one starts."""
    (tmp_path / "packages" / "echo").mkdir(parents=True)
    (tmp_path / "packages" / "echo" / "step.py").write_text(STEP)
    from moworld_ops import components

    monkeypatch.setattr(components, "__path__", [*components.__path__, str(tmp_path / "packages")])
    (tmp_path / "sitecustomize.py").write_text(
        f"import moworld_ops.components as components\ncomponents.__path__.append({str(tmp_path / 'packages')!r})"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    (tmp_path / "out").mkdir()
    return tmp_path


def test_a_step_runs_in_this_process_without_a_pool(echo):
    assert launch.run_step("echo", {"out": str(echo / "out"), "text": "good"}) == {"ranks": 1}
    assert [path.name for path in (echo / "out").iterdir()] == ["alone"]


def test_a_step_runs_on_the_ranks_of_its_pool(echo):
    assert launch.run_step("echo", {"out": str(echo / "out"), "text": "good"}, TWO) == {"ranks": 2}
    assert sorted(path.name for path in (echo / "out").iterdir()) == ["0", "1"]


@pytest.mark.parametrize(
    ("mode", "error", "line"),
    [
        ("bad", InputError, "file: field: found bad, expected good; fix it"),
        ("bug", RuntimeError, "echo: rank 1: ValueError: two lines"),
        ("killed", RuntimeError, "echo: rank 1 was killed by SIGKILL"),
    ],
)
def test_the_error_of_a_rank_is_the_step_s_error_in_one_line(echo, mode, error, line):
    with pytest.raises(error) as caught:
        launch.run_step("echo", {"out": str(echo / "out"), "text": mode}, TWO)
    assert str(caught.value) == line


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_ranks_end_with_their_step(echo, end):
    arguments = {"out": str(echo / "out"), "text": "hang"}
    code = f"from moworld_ops.components.platform.launch import run_step; run_step('echo', {arguments!r}, {TWO!r})"
    step = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    pids = [echo / "out" / "0", echo / "out" / "1"]
    wait_for(lambda: all(path.is_file() and path.read_text() for path in pids))
    ranks = [process_token(int(path.read_text())) for path in pids]
    assert all(ranks)
    step.send_signal(end)
    assert step.wait(60) != 0
    wait_for(lambda: all(process_token(int(rank.split(":")[0])) != rank for rank in ranks))


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "the condition did not become true"
        time.sleep(0.05)


def test_a_rank_reports_bad_input_in_one_line_and_only_the_first_writes_the_summary(echo, monkeypatch, capsys):
    (echo / "arguments.json").write_text(json.dumps({"out": str(echo / "out"), "text": "bad"}))
    assert launch.main(["echo", str(echo / "arguments.json")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert json.loads((echo / "refused.json").read_text()) == ["file", "field", "bad", "good", "fix it"]  # for the launcher
    (echo / "arguments.json").write_text(json.dumps({"out": str(echo / "out"), "text": "good"}))
    monkeypatch.setenv("RANK", "1")
    assert launch.main(["echo", str(echo / "arguments.json")]) == 0 and not (echo / "summary.json").exists()
    monkeypatch.setenv("RANK", "0")
    assert launch.main(["echo", str(echo / "arguments.json")]) == 0 and (echo / "summary.json").exists()


def test_the_parameter_has_what_a_step_reads_of_its_pool():
    assert json.loads(text(Torchrun(ranks=4, memory="64Gi"))) == {"kind": "torchrun", "ranks": 4}
    assert text(Here(memory="64Gi")) == "" and isinstance(parse(""), Here)
