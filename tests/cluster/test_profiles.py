"""TrainJobs of every profile on the real Trainer, and of two runs at once: queues and quotas of the overlay for NPUs."""

import json

import pytest

from moworld_ops.components.platform.pools import Job, parse
from moworld_ops.components.platform.trainjobs import trainjob
from moworld_ops.pipelines import profile
from moworld_ops.pipelines.placement import Cluster
from tests.cluster import controllers
from tests.cluster.control_plane import wait_until
from tests.manifests.rendering import of_kind

STEPS = ("cache_features", "train_curriculum", "train_autoregressive", "distill", "quantize", "benchmark")
NPU = "huawei.com/Ascend910"


def jobs_of(name: str) -> dict[str, list[Job]]:
    """Returns the jobs of each step of a profile that has some."""
    placement = Cluster(profile.load(name)[1].resources)
    pools = {step: parse(placement.pool(step)) for step in STEPS}
    return {step: jobs for step, jobs in pools.items() if isinstance(jobs, list)}


@pytest.fixture(scope="module")
def space(trainer):
    """A namespace with the quotas of overlay ascend-910b, and the runtimes of all overlays."""
    runtimes = [one for overlay in ("cpu", "ascend-910b") for one in of_kind(overlay, "ClusterTrainingRuntime")]
    queues = of_kind("ascend-910b", "Queue")
    name = trainer.namespace("profiles")
    quotas = json.loads(json.dumps(of_kind("ascend-910b", "ResourceQuota")).replace('"namespace": "moworld"', f'"namespace": "{name}"'))
    assert quotas
    controllers.install(trainer, [*runtimes, *queues, *quotas])
    return name


def four(found: list[dict]) -> list[dict]:
    return found if len(found) == 4 else []


@pytest.mark.parametrize("name", profile.names())
def test_trainjobs_of_a_profile_are_accepted_strictly(trainer, space, name):
    """By the API server's strict validation and Trainer's webhooks, which look for the runtime."""
    jobs = [
        trainjob(step, f"m-{step}-{index}".replace("_", "-"), job, "/x/arguments.json")
        for step, found in jobs_of(name).items()
        for index, job in enumerate(found)
    ]
    assert len(jobs) == {"wan22-a14b": 7, "pocket": 3, "pocket-long": 0, "test": 0}[name]
    for job in jobs:
        trainer.kubectl("-n", space, "create", "--validate=strict", "--dry-run=server", "-f", "-", objects=[job])
    if jobs:
        jobs[0]["spec"]["runtimeRef"]["name"] = "none"
        assert "none" in trainer.kubectl("-n", space, "create", "--dry-run=server", "-f", "-", objects=jobs[:1], check=False)


def test_gangs_of_two_runs_are_in_the_queue_of_their_pool_and_no_quota_refuses_the_second(trainer, space):
    """Trainer makes the PodGroups. Nothing places the pods: no node has NPUs, as where the queue is full."""
    expected = {}
    for run in ("a", "b"):
        for job in jobs_of("wan22-a14b")["train_curriculum"]:
            name = f"{run}-{job.queue}"
            trainer.kubectl("-n", space, "create", "-f", "-", objects=[trainjob("train_curriculum", name, job, "/x/arguments.json", run)])
            expected[name] = job.queue
    groups = wait_until("four PodGroups", lambda: four(trainer.get("-n", space, "podgroups")["items"]))
    assert {one["metadata"]["name"]: one["spec"]["queue"] for one in groups} == expected
    assert {one["spec"]["minMember"] for one in groups} == {4} and {one["spec"]["minResources"][NPU] for one in groups} == {"32"}
    for name in expected:
        pods = wait_until(f"ranks of {name}", lambda name=name: four(controllers.pods_of(trainer, space, name)))
        assert {pod["spec"]["schedulerName"] for pod in pods} == {"volcano"}
        assert {pod["spec"]["containers"][0]["resources"]["limits"][NPU] for pod in pods} == {"8"}
    trainer.kubectl("-n", space, "delete", "trainjobs", "--all")
