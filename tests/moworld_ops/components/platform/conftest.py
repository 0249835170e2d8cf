"""A cluster, and launchers of TrainJobs that work on it, in this process and in others."""

import json
import os
import subprocess
import sys

import pytest

from moworld_ops.components.platform.context import CONTEXT, RUN, StepContext
from moworld_ops.components.platform.launch import run_step
from moworld_ops.components.platform.pools import Job
from tests.cluster import Cluster, running
from tests.moworld_ops.components.platform.launchers import step_call

LAUNCHER = "import json, sys; from moworld_ops.components.platform.launch import run_step; print(json.dumps(run_step(*json.loads(sys.argv[1]))))"


@pytest.fixture
def cluster():
    with running(Cluster()) as server:
        yield server


@pytest.fixture
def variables(cluster, tmp_path) -> dict[str, str]:
    """Environment variables of a launcher."""
    kubeconfig = str(cluster.kubeconfig(tmp_path / "kubeconfig"))
    return {"KUBECONFIG": kubeconfig, RUN: "r1", CONTEXT: StepContext(step="train_curriculum-1").text(), "MOWORLD_POLL_SECONDS": "0.05"}


@pytest.fixture
def launch(variables, monkeypatch):
    """Runs a launcher in this process."""
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    return lambda tmp_path, pools: run_step(*step_call(tmp_path, pools))


@pytest.fixture
def launcher(variables, tmp_path):
    """Starts a launcher as a process of its own, for tests that send signals."""

    def start(pools: list[Job], **more: str) -> subprocess.Popen:
        command = [sys.executable, "-c", LAUNCHER, json.dumps(step_call(tmp_path, pools))]
        environment = {**os.environ, **variables, **more}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start
