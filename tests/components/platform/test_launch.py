"""Steps in this process and under torchrun."""

import json

import pytest

from components.platform import launch

STEP = """
import os
from pathlib import Path
from moworld.errors import InputError
def echo(out, text):
    if text == "bad":
        raise InputError("file", "field", "bad", "good", "mend it")
    Path(out, os.environ.get("RANK", "alone")).write_text(text)
    return {"ranks": int(os.environ.get("WORLD_SIZE", 1))}
"""


@pytest.fixture
def echo(tmp_path, monkeypatch):
    """A component of its own, importable here and in the ranks."""
    (tmp_path / "packages" / "components" / "echo").mkdir(parents=True)
    (tmp_path / "packages" / "components" / "echo" / "step.py").write_text(STEP)
    import components

    monkeypatch.setattr(components, "__path__", [*components.__path__, str(tmp_path / "packages" / "components")])
    monkeypatch.setenv("PYTHONSTARTUP", "")
    return tmp_path


def test_a_step_runs_in_this_process_where_no_pool_is_named(echo):
    (echo / "out").mkdir()
    assert launch.run_step("echo", {"out": str(echo / "out"), "text": "a"}) == {"ranks": 1}
    assert [path.name for path in (echo / "out").iterdir()] == ["alone"]


def test_ranks_that_fail_fail_the_step_and_leave_no_exchange(tmp_path):
    with pytest.raises(RuntimeError, match="a rank of nothing failed"):
        launch.run_step("nothing", {"out": str(tmp_path / "out")}, json.dumps({"kind": "local", "ranks": 2}))
    assert list(tmp_path.iterdir()) == []


def test_a_rank_says_bad_input_in_one_line_and_only_the_first_writes_the_summary(echo, monkeypatch, capsys):
    (echo / "out").mkdir()
    (echo / "arguments.json").write_text(json.dumps({"out": str(echo / "out"), "text": "bad"}))
    assert launch.main(["echo", str(echo / "arguments.json")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    (echo / "arguments.json").write_text(json.dumps({"out": str(echo / "out"), "text": "good"}))
    monkeypatch.setenv("RANK", "1")
    assert launch.main(["echo", str(echo / "arguments.json")]) == 0 and not (echo / "summary.json").exists()
    monkeypatch.setenv("RANK", "0")
    assert launch.main(["echo", str(echo / "arguments.json")]) == 0 and (echo / "summary.json").exists()
