"""Component `kueue` on the real Kueue: a gang that does not fit its queue stays suspended, without pods, and its launcher says why."""

import json
import threading

import pytest

from moworld_ops.components.platform.preflight import Requirements, checks
from moworld_ops.components.platform.trainjobs import trainjob
from tests.cluster import controllers
from tests.cluster.control_plane import ControlPlane, wait_until
from tests.cluster.test_gangs import bound_claim, launcher_of
from tests.cluster.test_profiles import NPU, jobs_of
from tests.manifests.rendering import of_kind
from tests.manifests.test_network import build

COMPONENT = "resources: [MANIFESTS/overlays/ascend-910b]\ncomponents: [MANIFESTS/components/kueue]\n"
QUEUE = "high-noise"


@pytest.fixture(scope="module")
def space(kueue: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A namespace with the component's queues, a bound claim, and eight nodes with eight NPUs each."""
    name = kueue.namespace("kueue")
    objects = [one for one in build(tmp_path_factory.mktemp("kueue") / "overlay", COMPONENT) if one["apiVersion"].startswith("kueue.")]
    assert {one["kind"] for one in objects} == {"ResourceFlavor", "ClusterQueue", "LocalQueue"}
    objects = json.loads(json.dumps(objects).replace('"moworld"', f'"{name}"'))
    rights = [
        one
        for one in build(tmp_path_factory.mktemp("rights") / "overlay", COMPONENT)
        if one["kind"] in ("ServiceAccount", "Role", "RoleBinding")
    ]
    rights = json.loads(json.dumps(rights).replace('"namespace": "moworld"', f'"namespace": "{name}"'))
    controllers.install(kueue, [*of_kind("ascend-910b", "ClusterTrainingRuntime"), *objects, *rights])
    bound_claim(kueue, name, "moworld-work")
    labels = {"accelerator": "huawei-Ascend910", "accelerator-type": "module-910b-8"}
    for number in range(8):
        controllers.add_node(kueue, f"npu-{number}", labels, cpu="192", memory="2Ti", **{NPU: "8"})
    return name


def start(plane: ControlPlane, space: str, run: str, step: str = "train_autoregressive") -> str:
    """Creates a job of four nodes, all that the queue has room for, as a launcher does; returns its name."""
    (job,) = jobs_of("wan22-a14b")[step]
    name = f"m-{run}"
    made = trainjob(step, name, job.model_copy(update={"local_queue": QUEUE}), "/x/arguments.json", run)
    launcher_of(plane, space, []).ensure(made, lambda: None)
    return name


def running(plane: ControlPlane, space: str, name: str) -> list[dict]:
    pods = controllers.pods_of(plane, space, name)
    return pods if len(pods) == 4 and all(pod.get("status", {}).get("phase") == "Running" for pod in pods) else []


def test_a_gang_that_does_not_fit_waits_suspended_and_starts_as_a_whole_when_the_first_ends(kueue, space):
    first, second = start(kueue, space, "a"), start(kueue, space, "b")
    pods = wait_until("the first gang", lambda: running(kueue, space, first))
    assert all(pod["spec"]["nodeName"].startswith("npu-") and pod["spec"]["schedulerName"] == "volcano" for pod in pods)
    queue = kueue.get("-n", space, "podgroup", first)["spec"]["queue"]
    assert queue == QUEUE, "Volcano's queue is kept"

    lines: list[str] = []
    watch = threading.Thread(target=launcher_of(kueue, space, lines).follow, args=([second],), daemon=True)
    watch.start()
    wait_until("the reason", lambda: [line for line in lines if f"waits: Kueue's queue {QUEUE}: " in line and NPU in line])
    assert kueue.get("-n", space, "trainjob", second)["spec"]["suspend"] is True
    assert controllers.pods_of(kueue, space, second) == []

    for pod in pods:
        controllers.end_pod(kueue, space, pod["metadata"]["name"], 0)
    for pod in wait_until("the second gang", lambda: running(kueue, space, second)):
        controllers.end_pod(kueue, space, pod["metadata"]["name"], 0)
    watch.join(120)
    assert f"TrainJob {space}/{second} complete" in lines


def test_a_deleted_job_frees_its_quota(kueue, space):
    first, second = start(kueue, space, "c"), start(kueue, space, "d")
    wait_until("the first gang", lambda: running(kueue, space, first))
    kueue.kubectl("-n", space, "delete", "trainjob", first)  # as the reaper does for a cancelled run
    wait_until("the second gang", lambda: running(kueue, space, second))
    kueue.kubectl("-n", space, "delete", "trainjob", second)


def test_a_job_without_a_queue_of_kueue_is_not_held(kueue, space):
    (job,) = jobs_of("wan22-a14b")["quantize"]
    kueue.kubectl("-n", space, "create", "-f", "-", objects=[trainjob("quantize", "m-free", job, "/x/arguments.json", "e")])
    wait_until("its rank", lambda: controllers.pods_of(kueue, space, "m-free"))
    assert not [one for one in kueue.get("-n", space, "workloads")["items"] if "m-free" in one["metadata"]["name"]]


def test_preflight_finds_the_queue_and_what_is_wrong_with_it(kueue, space, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(kueue.account(space, "moworld-launcher")))
    monkeypatch.setenv("MOWORLD_NAMESPACE", space)
    kueue.kubectl("-n", space, "apply", "-f", "-", objects=[local_queue("stray", "none"), local_queue("unused", "moworld-low-noise")])

    def rows() -> dict[str, bool]:
        return {row["name"]: row["passed"] for row in checks(Requirements(local_queues=[QUEUE, "stray", "absent"]))}

    expected = {f"Kueue's queue {QUEUE}": True, "Kueue's queue stray": False, "Kueue's queue absent": False}
    wait_until("the queues' conditions", lambda: rows() == expected)


def local_queue(name: str, cluster_queue: str) -> dict:
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "LocalQueue",
        "metadata": {"name": name},
        "spec": {"clusterQueue": cluster_queue},
    }
