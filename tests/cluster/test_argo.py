"""The policy of retries on Argo's own controller: which pods it starts, and how many attempts a step has in them.

A step's pod is KWOK's. In the place of its container this test runs the step as a process and gives the pod that process' exit status. Kubeflow Pipelines'
compiler of Workflows is not served as a module: the Workflow here has the shape and the retry strategy that KFP 2.17 gives a task.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from moworld_ops.components.platform.context import CONTEXT, NAMESPACE, NODE, RUN, StepContext
from moworld_ops.pipelines.placement import RETRIES
from tests.cluster import controllers
from tests.cluster.build import HOW
from tests.cluster.control_plane import ControlPlane, wait_until
from tests.moworld_ops.components.platform.test_attempts import STEP

ARGO = "argo-of-a-test"
NODE_NAME = "workflows.argoproj.io/node-name"
# as stock KFP 2.17 configures Argo
STOCK = {"spec": {"templateDefaults": {"retryStrategy": {"limit": "2", "retryPolicy": "OnError"}}}}
BACKOFF = {"duration": "1", "factor": "2", "maxDuration": "600"}


@pytest.fixture(scope="module")
def argo(trainer: ControlPlane) -> Iterator[ControlPlane]:
    """The control plane with Argo's workflow controller and its definitions, configured as stock KFP does."""
    if not (trainer.assets / "workflow-controller").exists():
        pytest.skip(f"{trainer.assets} has no workflow-controller: `python -m tests.cluster.build argo` builds it; {HOW}")
    trainer.kubectl("create", "namespace", ARGO)
    settings = {"workflowDefaults": yaml.safe_dump(STOCK), "metricsConfig": yaml.safe_dump({"enabled": False})}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "workflow-controller-configmap", "namespace": ARGO},
        "data": settings,
    }
    controllers.install(trainer, [*controllers.published(trainer.assets, "argo"), config])
    environment = {**os.environ, "LEADER_ELECTION_DISABLE": "true", "TASK_RESULT_TIMEOUT_DURATION": "1s"}
    log = trainer.folder / "workflow-controller.log"
    trainer.start(
        "workflow-controller", f"--kubeconfig={trainer.kubeconfig}", f"--namespace={ARGO}", "--executor-image=example/argoexec:v4.0.5",
        ready=lambda: "starting leading" in log.read_text(errors="replace"), environment=environment,
    )  # fmt: skip
    yield trainer


def workflow(run: str, policy: str) -> dict:
    """Returns the Workflow of a run with one step; policy: "" for the cluster's default."""
    retry = {"limit": str(RETRIES), "backoff": BACKOFF, **({"retryPolicy": policy} if policy else {})}
    templates = [
        {"name": "root", "dag": {"tasks": [{"name": "collect", "template": "retry"}]}},
        {"name": "retry", "retryStrategy": retry, "dag": {"tasks": [{"name": "executor", "template": "container"}]}},
        {"name": "container", "retryStrategy": retry, "container": {"image": "example/step", "command": ["step"]}},
    ]
    meta = {"name": run, "labels": {"pipeline/runid": run}}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": meta,
        "spec": {"entrypoint": "root", "templates": templates, "podMetadata": {"labels": {"pipeline/runid": run}}},
    }


def run_of(
    plane: ControlPlane, tmp_path: Path, fault: str, policy: str, until: int = 100, delete_first: bool = False
) -> tuple[str, int, int]:
    """Runs a Workflow to its end; returns its phase, the number of its pods, and the attempts of its step in all of them."""
    space = plane.namespace(f"argo-{tmp_path.name}"[:40].rstrip("-").replace("_", "-").lower())
    run, seen, done = "run-1", dict[str, str](), threading.Event()
    place = StepContext(step="collect", retries=RETRIES, retry_seconds=0.0)

    def kubelet() -> None:
        while not done.wait(0.5):
            for pod in plane.get("-n", space, "pods", "-l", f"workflows.argoproj.io/workflow={run}")["items"]:
                meta = pod["metadata"]
                if meta["uid"] in seen or pod.get("status", {}).get("phase") != "Running":
                    continue
                seen[meta["uid"]] = meta["annotations"][NODE_NAME]
                if delete_first and len(seen) == 1:
                    plane.kubectl("-n", space, "delete", "pod", meta["name"])
                    continue
                settings = {
                    CONTEXT: place.text(),
                    RUN: run,
                    NAMESPACE: space,
                    NODE: meta["annotations"][NODE_NAME],
                    "MOWORLD_HOME": str(tmp_path / "home"),
                }
                command = [sys.executable, "-c", STEP, str(tmp_path), fault, str(until)]
                ended = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, check=False)
                controllers.end_pod(plane, space, meta["name"], ended.returncode)

    plane.kubectl("-n", space, "create", "-f", "-", objects=[workflow(run, policy)])
    node = threading.Thread(target=kubelet)
    node.start()

    def phase() -> str:
        found = plane.get("-n", space, "workflow", run).get("status", {}).get("phase", "")
        return found if found in ("Succeeded", "Failed", "Error") else ""

    try:
        ended = wait_until("the Workflow's end", phase)
    finally:
        done.set()
        node.join()
    journal = tmp_path / "journal"
    return ended, len(seen), len(journal.read_text()) if journal.exists() else 0


def test_a_step_that_exits_with_1_has_one_pod_and_three_attempts_with_stock_kfp(argo, tmp_path):
    assert run_of(argo, tmp_path, "1", "") == ("Failed", 1, 3)


def test_a_cluster_that_repeats_failures_starts_more_pods_and_no_more_attempts(argo, tmp_path):
    phase, pods, attempts = run_of(argo, tmp_path, "1", "Always")
    assert phase == "Failed" and pods >= 3 and attempts == 3


@pytest.mark.parametrize("policy", ["", "Always"])
def test_a_step_that_exits_with_2_has_one_attempt(argo, tmp_path, policy):
    phase, _, attempts = run_of(argo, tmp_path, "2", policy)
    assert (phase, attempts) == ("Failed", 1)


def test_a_deleted_pod_is_repeated_alone_and_the_step_succeeds(argo, tmp_path):
    assert run_of(argo, tmp_path, "1", "", until=1, delete_first=True) == ("Succeeded", 2, 1)


def test_a_failure_that_passes_is_no_failure_of_the_run(argo, tmp_path):
    assert run_of(argo, tmp_path, "1", "", until=3) == ("Succeeded", 1, 3)
