"""Exit statuses and one-line errors of the command line, through the real entry point."""

import os
import subprocess
import sys

import pytest

from pipelines.cli.app import app


def moworld(tmp_path, *arguments):
    command = [sys.executable, "-c", "from pipelines.cli.app import main; main()", *arguments]
    return subprocess.run(command, env={**os.environ, "MOWORLD_HOME": str(tmp_path)}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "lifecycle", "--profile", "pockett"), "did you mean 'pocket'"),
        (("run", "lifecycle", "--profile", "test", "--set", "distil.steps=3"), "did you mean 'distill'"),
        (("run", "lifecycles", "--profile", "test"), "one of data, pretrain"),
        (("run", "pretrain", "--profile", "test"), "cache_features"),
        (("run", "pretrain", "--profile", "test", "--set", "inputs.features=/no/such"), "/no/such"),
        (("run", "lifecycle", "--profile", "test", "--set", "resources.disk_bytes=1e15"), "free some space"),
        (("run", "lifecycle", "--resume", "nothing"), "no such run"),
        (("run", "lifecycle", "--engine", "kubeflow"), "KFP_ENDPOINT"),
        (("runs", "show", "nothing"), "no such run"),
        (("rollout", "--model", "no/such", "--image", "x.png", "--out", "y.mp4"), "no such folder"),
        (("evaluate", "no/such", "--protocol", "speed"), "no such folder"),
        (("evaluate", "x", "--protocol", "sped"), "speed or camera or vbench-i2v"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(tmp_path, arguments, words):
    done = moworld(tmp_path, *arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
    assert not list((tmp_path / "runs").glob("*/run.json")) if (tmp_path / "runs").exists() else True


def test_wrong_use_is_exit_status_2(tmp_path):
    assert moworld(tmp_path, "run").returncode == 2
    assert moworld(tmp_path, "runn").returncode == 2


def test_every_verb_has_help_with_a_worked_example():
    def verbs(group, path=()):
        for info in group.registered_commands:
            yield (*path, info.name or info.callback.__name__), info.callback
        for info in group.registered_groups:
            yield from verbs(info.typer_instance, (*path, info.name))

    found = dict(verbs(app))
    assert len(found) >= 14
    for path, callback in found.items():
        assert f"Example: moworld {path[0]}" in (callback.__doc__ or ""), path
