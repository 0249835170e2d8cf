"""Failure reasons of jobs, one per state of the cluster."""

import pytest

from moworld_ops.components.platform.failures import failure_reason, pending_reason


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
        (failed(reason="DeadlineExceeded"), [], "", ["deadline: it was still running 60 s after"]),
        (failed(message="jobset failed"), [pod(), OOM], "", ["out of memory: pod m-x-node-0-0", "[jobset failed]"]),
        (failed(), [EVICTED], "", ["evicted", "low on resource: memory", "continues from its checkpoint"]),
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
        ({"status": {}}, [], "", ["no reason given"]),
    ],
)
def test_each_reason_is_named_in_one_line(job, pods, tail, words):
    line = failure_reason(job, pods, tail)
    assert "\n" not in line and all(word in line for word in words), line


def test_a_memory_failure_has_priority_over_its_consequences():
    """Ranks that wait for a killed one time out: the log shows HCCL, the cause is memory."""
    assert failure_reason(failed(), [OOM], SOCKET).startswith("out of memory")


def test_pending_pods_have_a_reason_and_running_pods_have_none():
    assert "Insufficient" in pending_reason([pod(phase="Running"), UNSCHEDULABLE])
    assert pending_reason([pod(phase="Running"), pod(containerStatuses=[{"state": {"waiting": {"reason": "ContainerCreating"}}}])]) == ""
