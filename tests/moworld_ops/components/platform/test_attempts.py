"""Attempts of a step in processes of its own, as its pods have them, whatever the cluster itself repeats."""

import os
import subprocess
import sys

import pytest

from moworld_ops.components.platform.context import CONTEXT, NAMESPACE, NODE, RUN, StepContext
from moworld_ops.pipelines.placement import RETRIES, UNRETRIED

STEP = """
import sys
from pathlib import Path
from types import SimpleNamespace
from moworld.errors import InputError
from moworld_ops.components.platform.steps import Refused, recorded

folder, fault, until = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
out = SimpleNamespace(name="out", path=str(folder / "out"), metadata={})
with recorded(out):
    with open(folder / "journal", "a") as stream:
        stream.write("x")
    Path(out.path).mkdir()
    Path(out.path, "file").write_text("content")
    if len((folder / "journal").read_text()) < until:
        raise {"1": RuntimeError("broken"), "2": InputError("a", "b", "c", "d", "e"), "refused": Refused("gate"), "143": SystemExit(143)}[fault]
"""


@pytest.fixture
def pod(tmp_path):
    """Runs a step in a pod; returns its exit status, how many attempts there were in all pods, and its output."""

    def call(fault: str, until: int = 100, node: str = "w-1(0).root(0).collect(0).executor(0)", step: str = "collect"):
        place = StepContext(step=step, retries=0 if step in UNRETRIED else RETRIES, retry_seconds=0.0)
        settings = {CONTEXT: place.text(), RUN: "run-1", NAMESPACE: "moworld", NODE: node, "MOWORLD_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-c", STEP, str(tmp_path), fault, str(until)]
        done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
        return done.returncode, len((tmp_path / "journal").read_text()), done.stdout + done.stderr

    return call


def test_a_step_that_exits_with_1_and_may_be_retried_twice_has_three_attempts_on_every_cluster(pod):
    status, attempts, said = pod("1")
    assert (status, attempts) == (1, 3), said
    for number in (1, 2):  # a cluster that repeats failed pods too
        status, attempts, said = pod("1", node=f"w-1(0).root(0).collect(0).executor({number})")
        assert (status, attempts) == (1, 3) and "collect: not run again: RuntimeError: broken" in said


def test_a_failure_that_passes_is_no_failure_of_the_step_and_nothing_stays_counted(pod, tmp_path):
    (tmp_path / "home/attempts/run-1").mkdir(parents=True)
    (tmp_path / "home/attempts/run-1/annotate.json").write_text("{}")  # of another step, which has not ended
    status, attempts, said = pod("1", until=3)
    assert (status, attempts) == (0, 3), said
    assert [path.name for path in (tmp_path / "home/attempts/run-1").iterdir()] == ["annotate.json"]
    (tmp_path / "home/attempts/run-1/annotate.json").unlink()
    assert pod("1", until=3)[0] == 0 and not (tmp_path / "home/attempts/run-1").exists()
    assert "next attempt in 0 s" in said


@pytest.mark.parametrize(("fault", "expected"), [("2", 2), ("refused", 1)])
def test_bad_input_and_refusals_are_never_retried(pod, fault, expected):
    assert pod(fault)[:2] == (expected, 1)
    assert pod(fault, node="w-1(0).root(0).collect(1).executor(0)")[:2] == (expected, 1)
    assert pod(fault)[:2] == (expected, 2)  # the node comes back: a resumed run
    assert pod(fault, node="w-1(0).root(0).collect(1).executor(0)")[:2] == (expected, 2)
    assert pod(fault, node="w-1(0).root(0).collect(1).executor(0)")[:2] == (expected, 3)  # resumed inside a graph that Argo had repeated


def test_a_stopped_pod_and_a_lost_one_do_not_count(pod):
    assert pod("143")[:2] == (143, 1)
    status, attempts, said = pod("1", node="w-1(0).root(0).collect(0).executor(1)")  # after a deleted pod, Argo starts this one
    assert (status, attempts) == (1, 1 + 3), said


def test_steps_whose_refusals_are_their_purpose_have_one_attempt(pod):
    assert pod("1", step="preflight")[:2] == (1, 1)
