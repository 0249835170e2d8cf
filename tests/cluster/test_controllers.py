"""The controllers that the tests of TrainJobs stand on: a TrainJob of our own runtime becomes pods on fake nodes and ends as they end."""

import pytest

from tests.cluster import controllers
from tests.cluster.control_plane import wait_until
from tests.manifests.rendering import of_kind


@pytest.fixture(scope="module")
def space(trainer):
    controllers.install(trainer, of_kind("cpu", "ClusterTrainingRuntime"))
    return trainer.namespace("controllers")


@pytest.mark.parametrize(("exit_code", "ended"), [(0, "Complete"), (2, "Failed")])
def test_a_trainjob_ends_as_its_pods_do(trainer, space, exit_code, ended):
    name = f"job-{exit_code}"
    job = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name, "namespace": space},
        "spec": {
            "runtimeRef": {"name": "moworld-train-cpu"},
            "trainer": {"numNodes": 2, "numProcPerNode": 1, "resourcesPerNode": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}},
        },
    }
    trainer.kubectl("create", "-f", "-", objects=[job])

    def running() -> list[dict]:
        pods = controllers.pods_of(trainer, space, name)
        return pods if len(pods) == 2 and all(pod.get("status", {}).get("phase") == "Running" for pod in pods) else []

    for pod in wait_until("two running pods", running):
        assert pod["spec"]["nodeName"] == "cpu-1"
        controllers.end_pod(trainer, space, pod["metadata"]["name"], exit_code)

    def over() -> bool:
        for pod in controllers.pods_of(trainer, space, name):  # a Job may try a failed pod again
            if pod.get("status", {}).get("phase") == "Running" and controllers.EXIT not in pod["metadata"].get("annotations", {}):
                controllers.end_pod(trainer, space, pod["metadata"]["name"], exit_code)
        conditions = trainer.get("-n", space, "trainjob", name).get("status", {}).get("conditions", [])
        return any(one["type"] == ended and one["status"] == "True" for one in conditions)

    wait_until(f"TrainJob {ended}", over)
