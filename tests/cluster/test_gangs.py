"""Gangs of ranks on the real JobSet and Trainer: how they fail, wait and are cancelled. Nodes and pods are KWOK's."""

import random
import threading
import time
from typing import Any

import pytest
from kubernetes import client, config

from moworld_ops.components.platform.pools import Job
from moworld_ops.components.platform.reaper import reap
from moworld_ops.components.platform.trainjobs import Launcher, trainjob
from tests.cluster import controllers
from tests.cluster.control_plane import wait_until
from tests.cluster.test_trainjobs import workflows
from tests.manifests.rendering import of_kind

POOL = Job(image="example/train", runtime="moworld-train-cpu", claim="moworld-work", mount="/mnt/moworld", nodes=2, cpu="1", memory="1Gi")
WORKFLOW = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow"}
CANCELLED = 12


@pytest.fixture(scope="module")
def space(trainer):
    controllers.install(trainer, [*of_kind("cpu", "ClusterTrainingRuntime"), workflows()])
    if not trainer.get("nodes")["items"]:
        controllers.add_node(trainer, "gangs-1")
    name = trainer.namespace("gangs")
    bound_claim(trainer, name, POOL.claim)
    return name


def bound_claim(plane, space: str, claim: str) -> None:
    """Creates a claim that is bound to a volume: no provisioner runs here, and pods wait for their claims."""
    modes, size = ["ReadWriteMany"], {"storage": "1Gi"}
    volume = f"{space}-{claim}"
    spec = {"accessModes": modes, "capacity": size, "hostPath": {"path": "/nowhere"}, "storageClassName": ""}
    reference = {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": space, "name": claim}
    meta = {"name": claim, "namespace": space, "annotations": {"pv.kubernetes.io/bind-completed": "yes"}}
    wanted = {"accessModes": modes, "resources": {"requests": size}, "storageClassName": "", "volumeName": volume}
    objects = [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume}, "spec": {**spec, "claimRef": reference}},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": wanted},
    ]
    plane.kubectl("create", "-f", "-", objects=objects)
    plane.kubectl("-n", space, "patch", "pvc", claim, "--subresource=status", "--type=merge", "-p", '{"status": {"phase": "Bound"}}')


def api_of(plane, seconds: float = 0.0) -> client.ApiClient:
    """Returns a client whose answers come `seconds` late."""
    api = config.new_client_from_config(config_file=str(plane.kubeconfig))
    answer = api.call_api

    def late(*arguments: Any, **options: Any) -> Any:
        found = answer(*arguments, **options)
        time.sleep(seconds)
        return found

    api.call_api = late
    return api


def launcher_of(plane, space: str, lines: list[str], seconds: float = 0.0) -> Launcher:
    return Launcher(api_of(plane, seconds), space, "pod", lines.append, poll_seconds=0.2)


def running(plane, space: str, name: str, count: int) -> list[dict]:
    pods = controllers.pods_of(plane, space, name)
    return pods if len(pods) == count and all(pod.get("status", {}).get("phase") == "Running" for pod in pods) else []


@pytest.mark.parametrize("exit_code", [1, 2])
def test_a_rank_that_exits_is_not_started_again_and_ends_the_others(trainer, space, exit_code):
    name = f"exits-{exit_code}"
    launcher_of(trainer, space, []).ensure(trainjob("distill", name, POOL, "/mnt/moworld/x/arguments.json"), lambda: None)
    first, second = wait_until("two ranks", lambda: running(trainer, space, name, 2))
    controllers.end_pod(trainer, space, first["metadata"]["name"], exit_code)
    seen = {first["metadata"]["uid"], second["metadata"]["uid"]}

    def over() -> bool:
        pods = controllers.pods_of(trainer, space, name)
        seen.update(pod["metadata"]["uid"] for pod in pods)
        conditions = trainer.get("-n", space, "trainjob", name).get("status", {}).get("conditions", [])
        failed = any(one["type"] == "Failed" and one["status"] == "True" for one in conditions)
        return failed and not any(pod.get("status", {}).get("phase") == "Running" for pod in pods)

    wait_until("the gang's end", over)
    assert len(seen) == 2


def test_a_gang_that_finds_no_node_ends_by_its_deadline_and_the_message_says_that_no_pod_started(trainer, space):
    pool = POOL.model_copy(update={"node_selector": {"example.com/pool": "nowhere"}, "queue_seconds": 3, "seconds": 3})
    lines: list[str] = []
    launcher = launcher_of(trainer, space, lines)
    launcher.ensure(trainjob("distill", "waits", pool, "/mnt/moworld/x/arguments.json"), lambda: None)
    with pytest.raises(RuntimeError, match="none of its pods had started 6 s after its creation"):
        launcher.follow(["waits"])
    assert any("waits" in line and "node" in line for line in lines)


def test_runs_cancelled_at_any_moment_leave_no_job_though_answers_come_a_second_late(trainer, space):
    rng, launched = random.Random(5), list[threading.Thread]()
    runs = [f"run-{number}" for number in range(CANCELLED)]
    for run in runs:
        meta = {"name": run, "namespace": space, "labels": {"pipeline/runid": run}}
        trainer.kubectl("create", "-f", "-", objects=[{**WORKFLOW, "metadata": meta, "spec": {}, "status": {"phase": "Running"}}])

    def launch(run: str) -> None:
        launcher_of(trainer, space, [], 1.0).ensure(trainjob("distill", f"m-{run}", POOL, "/mnt/x/arguments.json", run), lambda: None)

    def cancel(run: str, seconds: float) -> None:
        time.sleep(seconds)
        trainer.kubectl("-n", space, "patch", "workflow", run, "--type=merge", "-p", '{"spec": {"activeDeadlineSeconds": 0}}')

    for run in runs:
        launched += [threading.Thread(target=launch, args=(run,)), threading.Thread(target=cancel, args=(run, rng.uniform(0, 4)))]
    for thread in launched:
        thread.start()
    for thread in launched:
        thread.join()
    api = api_of(trainer, 1.0)

    def gone() -> bool:
        reap(api, space)
        left = trainer.get("-n", space, "trainjobs")["items"]
        return not any(job["metadata"]["labels"].get("moworld.io/run") in runs for job in left)

    wait_until("the end of all jobs", gone)
    wait_until("the end of all ranks", lambda: not [pod for run in runs for pod in controllers.pods_of(trainer, space, f"m-{run}")])
