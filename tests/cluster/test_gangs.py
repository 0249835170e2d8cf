"""Gangs of ranks on the real JobSet and Trainer: how they fail, wait and are cancelled. Nodes and pods are KWOK's."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kubernetes import client, config

from moworld_ops.components.platform.pools import Job
from moworld_ops.components.platform.reaper import SECONDS, reap
from moworld_ops.components.platform.trainjobs import GROUP, PLURAL, RUN, VERSION, Launcher, trainjob
from tests.cluster import controllers
from tests.cluster.control_plane import wait_until
from tests.cluster.test_trainjobs import workflows
from tests.manifests.rendering import of_kind

POOL = Job(image="example/train", runtime="moworld-train-cpu", claim="moworld-work", mount="/mnt/moworld", nodes=2, cpu="1", memory="1Gi")
WORKFLOW = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow"}


@pytest.fixture(scope="module")
def space(trainer):
    controllers.install(trainer, [*of_kind("cpu", "ClusterTrainingRuntime"), workflows()])
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


@pytest.mark.parametrize("count", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_runs_cancelled_at_any_moment_leave_no_job_though_answers_come_a_second_late(trainer, space, count):
    """Prints how long after its cancellation each run's job was gone; the reaper makes its passes as in its pod."""
    rng, cancelled, seen, reaped, done = random.Random(5), dict[str, float](), dict[str, float](), set[str](), threading.Event()
    runs = [f"run-{count}-{number}" for number in range(count)]
    metas = [{"name": run, "namespace": space, "labels": {"pipeline/runid": run}} for run in runs]
    trainer.kubectl(
        "create", "-f", "-", objects=[{**WORKFLOW, "metadata": meta, "spec": {}, "status": {"phase": "Running"}} for meta in metas]
    )
    api, late = api_of(trainer), api_of(trainer, 1.0)
    custom = client.CustomObjectsApi(api)

    def launch(run: str) -> None:
        job = trainjob("distill", f"m-{run}", POOL, "/mnt/moworld/x/arguments.json", run)
        Launcher(late, space, run, lambda line: None).ensure(job, lambda: None)

    def cancel(run: str, seconds: float) -> None:
        time.sleep(seconds)
        body = {"spec": {"activeDeadlineSeconds": 0}}
        custom.patch_namespaced_custom_object("argoproj.io", "v1alpha1", space, "workflows", run, body)
        cancelled[run] = time.monotonic()

    def passes() -> None:
        while not done.wait(SECONDS):
            reaped.update(reap(late, space))

    pool, reaper = ThreadPoolExecutor(2 * count), threading.Thread(target=passes)
    work = [pool.submit(launch, run) for run in runs]
    work += [pool.submit(cancel, run, rng.uniform(0, 4 + count / 20)) for run in runs]
    reaper.start()

    def over() -> bool:
        started = not all(each.done() for each in work)  # asked first: a job may appear after the list
        left = {job["metadata"]["labels"].get(RUN) for job in custom.list_namespaced_custom_object(GROUP, VERSION, space, PLURAL)["items"]}
        seen.update(dict.fromkeys(left & set(runs), time.monotonic()))
        return not started and not left & set(runs)

    try:
        wait_until("the end of all jobs", over, 300)
    finally:
        done.set()
        reaper.join()
    wait_until("the end of all ranks", lambda: not [pod for run in runs[:12] for pod in controllers.pods_of(trainer, space, f"m-{run}")])
    for each in work:
        each.result()  # raises what a thread raised
    assert reaped == {f"m-{run}" for run in runs}
    seconds = sorted(max(0.0, seen.get(run, 0.0) - cancelled[run]) for run in runs)
    print(f"{count} cancelled runs: jobs gone after {seconds[count // 2]:.0f} s (median), {seconds[-1]:.0f} s (longest)")
