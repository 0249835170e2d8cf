"""Reasons of failed jobs: what each cluster state reads like."""

import pytest

from components.platform.failures import why_failed, why_waiting


def pod(**status):
    return {"metadata": {"name": "m-x-node-0-0"}, "status": status}


def failed(**condition):
    return {"spec": {"activeDeadlineSeconds": 60}, "status": {"conditions": [{"type": "Failed", "status": "True", **condition}]}}


OOM = pod(containerStatuses=[{"lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}])
EVICTED = pod(reason="Evicted", message="The node was low on resource: memory")
PREEMPTED = pod(
    conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "a higher priority"}]
)
UNSCHEDULABLE = pod(
    conditions=[
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/4 nodes: Insufficient huawei.com/Ascend910"}
    ]
)
NO_IMAGE = pod(containerStatuses=[{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}])
SOCKET = "step 12\nEI0006: [PID: 12] 2025-04-08-18:07:20 Getting socket times out. Reason: Remote Rank did not send the data in time.\n"
DEVICE = "RuntimeError: NPU out of memory. Tried to allocate 2.00 GiB (NPU 0; 60.96 GiB total capacity)\nTraceback"


@pytest.mark.parametrize(
    ("job", "pods", "tail", "words"),
    [
        (failed(reason="DeadlineExceeded"), [], "", ["deadline: it ran past 60 s"]),
        (failed(message="jobset failed"), [pod(), OOM], "", ["out of memory: pod m-x-node-0-0", "[jobset failed]"]),
        (failed(), [EVICTED], "", ["evicted", "low on resource: memory", "goes on from its checkpoint"]),
        (failed(), [PREEMPTED], "", ["evicted", "PreemptionByScheduler", "a higher priority"]),
        (failed(), [UNSCHEDULABLE], "", ["unschedulable", "Insufficient huawei.com/Ascend910"]),
        (failed(), [NO_IMAGE], "", ["image", "ImagePullBackOff"]),
        (failed(), [pod()], SOCKET, ["HCCL timeout", "EI0006", "HCCL_CONNECT_TIMEOUT"]),
        (failed(), [pod()], DEVICE, ["out of device memory", "2.00 GiB"]),
        (
            failed(message="rank 3 ended with 1"),
            [pod()],
            "a\nValueError: 7 heads\n",
            ["rank 3 ended with 1", "last line: ValueError: 7 heads"],
        ),
        ({"status": {}}, [], "", ["says no reason"]),
    ],
)
def test_each_reason_is_named_in_one_line(job, pods, tail, words):
    line = why_failed(job, pods, tail)
    assert "\n" not in line and all(word in line for word in words), line


def test_memory_comes_before_what_it_caused():
    """Ranks that wait for one that was killed time out: the log speaks of HCCL, the cause is memory."""
    assert why_failed(failed(), [OOM], SOCKET).startswith("out of memory")


def test_what_pods_wait_for_is_said_and_running_pods_wait_for_nothing():
    assert "Insufficient" in why_waiting([pod(phase="Running"), UNSCHEDULABLE])
    assert why_waiting([pod(phase="Running"), pod(containerStatuses=[{"state": {"waiting": {"reason": "ContainerCreating"}}}])]) == ""
