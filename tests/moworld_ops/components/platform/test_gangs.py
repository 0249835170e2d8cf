"""Why a gang waits, read from an API server: Kueue's Workload, Volcano's PodGroup and queue, events."""

import pytest

from moworld_ops.components.platform.cluster import connect
from moworld_ops.components.platform.gangs import waiting_reason
from tests.cluster import Cluster, running

NPU = "huawei.com/Ascend910"
NAME = "m-r-distill-0"
GROUP = f"/apis/scheduling.volcano.sh/v1beta1/namespaces/moworld/podgroups/{NAME}"
QUEUE = "/apis/scheduling.volcano.sh/v1beta1/queues/high-noise"
EVENTS = "/api/v1/namespaces/moworld/events"


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    with running(Cluster()) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
        yield server


def put_group(cluster, phase: str, **status):
    spec = {"queue": "high-noise", "minMember": 8, "minResources": {NPU: "64", "cpu": "1280"}}
    cluster.put(GROUP, {"metadata": {"name": NAME}, "spec": spec, "status": {"phase": phase, **status}})


def put_queue(cluster, capability: int, allocated: int):
    cluster.put(QUEUE, {"metadata": {"name": "high-noise"}, "spec": {"capability": {NPU: capability}}, "status": {"allocated": {NPU: str(allocated)}}})


def put_event(cluster, about: str, kind: str, reason: str, message: str, at: str = "2026-01-01T00:00:00Z"):
    name = f"{about}.{reason.lower()}"
    found = {"kind": kind, "name": about, "namespace": "moworld"}
    body = {"metadata": {"name": name, "namespace": "moworld"}, "involvedObject": found, "type": "Warning", "reason": reason, "message": message}
    cluster.put(f"{EVENTS}/{name}", {**body, "lastTimestamp": at})


def reason(pods: list[dict] | None = None, labels: dict[str, str] | None = None) -> str:
    return waiting_reason(connect(), "moworld", {"metadata": {"name": NAME, "labels": labels or {}, "uid": "u-1"}}, pods or [])


def test_a_full_queue_is_named_with_what_is_in_use_and_what_the_gang_needs(cluster):
    put_group(cluster, "Pending")
    put_queue(cluster, 72, 32)
    assert reason() == f"gang: queue high-noise is full: 32 of 72 {NPU} are in use, the gang needs 64"
    assert reason([{"status": {"phase": "Running"}}]) == "", "it has begun"


def test_a_queue_with_room_gives_the_scheduler_s_message_or_the_phase(cluster):
    put_queue(cluster, 128, 32)
    old = {"type": "Scheduled", "status": "True", "message": "tasks in gang are ready"}
    put_group(cluster, "Inqueue", conditions=[old, {"type": "Unschedulable", "status": "True", "message": "3/8 tasks in gang unschedulable"}])
    assert reason() == "gang: queue high-noise: 3/8 tasks in gang unschedulable"
    put_group(cluster, "Pending")
    assert reason() == "gang: queue high-noise has not admitted it yet (Pending)"
    put_group(cluster, "Running")
    assert reason() == ""


def test_without_a_gang_the_last_warning_about_the_job_s_own_objects_counts(cluster):
    put_event(cluster, "m-r-distill-01-node-0", "Job", "Other", "another job with a longer name")
    put_event(cluster, f"{NAME}-node-0", "Job", "FailedCreate", "forbidden: exceeded\n quota: runs", "2026-01-01T00:00:09Z")
    put_event(cluster, NAME, "TrainJob", "Older", "x", "2026-01-01T00:00:01Z")
    assert reason() == f"Job {NAME}-node-0: FailedCreate: forbidden: exceeded quota: runs"


def test_a_job_in_a_queue_of_kueue_waits_for_kueue_first(cluster):
    put_group(cluster, "Pending")
    put_queue(cluster, 128, 32)
    queue = {"kueue.x-k8s.io/queue-name": "high-noise"}
    assert reason(labels=queue) == "Kueue's queue high-noise: the job is not admitted yet"

    def put(uid: str, **conditions: str) -> None:
        status = {"conditions": [{"type": name, "status": state, "message": "no\n room"} for name, state in conditions.items()]}
        meta = {"name": f"trainjob-{uid}", "labels": {"kueue.x-k8s.io/job-uid": uid}}
        cluster.put(f"/apis/kueue.x-k8s.io/v1beta2/namespaces/moworld/workloads/trainjob-{uid}", {"metadata": meta, "status": status})

    put("u-1", QuotaReserved="False")
    put("u-2", QuotaReserved="True", Admitted="True")
    assert reason(labels=queue) == "Kueue's queue high-noise: no room"
    put("u-1", QuotaReserved="True", Admitted="True")
    assert reason(labels=queue) == "gang: queue high-noise has not admitted it yet (Pending)" == reason()


@pytest.mark.parametrize("fault", ["forbidden", "absent"])
def test_a_source_that_says_nothing_is_ignored(cluster, fault):
    if fault == "absent":
        assert reason() == ""
    else:
        cluster.answer = lambda *_: (403, {"kind": "Status", "reason": "Forbidden", "message": "no"})
        assert reason() == ""
