"""Reasons why a TrainJob failed or waits, each as one line with a fix: from its conditions, its pods and their last log lines."""

import re
from typing import Any

HCCL = re.compile(r"\bEI000[26]\b|\bEE1002\b|HCCL.{0,80}tim(e|ed)[ _]?out|HcclCommInitRootInfo.{0,80}error", re.IGNORECASE)
DEVICE_MEMORY = re.compile(r"(NPU|CUDA) out of memory|\bEL0004\b|Tried to allocate [\d.]+ [MG]iB", re.IGNORECASE)
LOG_PATTERNS = (
    (HCCL, "HCCL timeout: a rank waited for another one; find the first rank that failed, then check HCCL_CONNECT_TIMEOUT"),
    (DEVICE_MEMORY, "out of device memory: use a smaller batch, or more ranks for sequence or parameters ('moworld plan')"),
)
IMAGE_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError"}
EVICTION_REASONS = {"Evicted", "Preempting", "NodeLost", "NodeAffinity", "Shutdown", "Terminated"}


def failure_reason(job: dict[str, Any], pods: list[dict[str, Any]], tail: str = "", started: bool = True) -> str:
    """Returns one line: what ended the job, where, and the fix.

    job:     TrainJob with its status
    pods:    its pods, as the API returns them
    tail:    the last lines of a pod's log
    started: False if none of its pods ever ran; after a deadline its pods are gone
    """
    conditions = job.get("status", {}).get("conditions", [])
    failed: dict[str, Any] = next((one for one in conditions if one["type"] == "Failed" and one["status"] == "True"), {})
    message = " ".join(str(failed.get(key, "")) for key in ("reason", "message")).strip()
    for reason in (_deadline(job, failed, started), *(_pod_failure(pod) for pod in pods), _log_failure(tail)):
        if reason:
            return f"{reason} [{message}]" if message else reason
    last = [f"last line: {line.strip()[:300]}" for line in tail.splitlines() if line.strip()][-1:]
    return "; ".join([message or "no reason given", *last])


def pending_reason(pods: list[dict[str, Any]]) -> str:
    """Returns why a pod has not started, from the scheduler or the image puller; "" if none is pending."""
    for pod in pods:
        name, status = pod["metadata"]["name"], pod.get("status", {})
        for condition in status.get("conditions") or []:
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return f"unschedulable: pod {name}: {condition.get('message', condition.get('reason', ''))}"
        for container in status.get("containerStatuses") or []:
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in IMAGE_REASONS:
                return f"image: pod {name}: {waiting['reason']}: {waiting.get('message', '')}"
    return ""


def _deadline(job: dict[str, Any], failed: dict[str, Any], started: bool) -> str:
    if failed.get("reason") != "DeadlineExceeded":
        return ""
    limit = f"{job['spec'].get('activeDeadlineSeconds')} s after its creation (`queue_seconds` + `seconds` of the pool)"
    if started:
        return f"deadline: it was still running {limit}; raise `seconds`, checkpoints are kept"
    return f"deadline: none of its pods had started {limit}; free nodes or its queue, or raise `queue_seconds`"


def _pod_failure(pod: dict[str, Any]) -> str:
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for container in status.get("containerStatuses") or []:
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            if (state.get("terminated") or {}).get("reason") == "OOMKilled":
                return f"out of memory: pod {name} was killed at its memory limit (OOMKilled); raise `memory` of the pool"
    disrupted = [one for one in status.get("conditions") or [] if one["type"] == "DisruptionTarget" and one["status"] == "True"]
    if status.get("reason") in EVICTION_REASONS or disrupted:
        facts = ": ".join(filter(None, (next((one[key] for one in (status, *disrupted) if one.get(key)), "") for key in ("reason", "message"))))
        return f"evicted: pod {name}: {facts}; a retry of the step continues from its checkpoint"
    return pending_reason([pod])


def _log_failure(tail: str) -> str:
    for pattern, reason in LOG_PATTERNS:
        if line := next((line.strip() for line in tail.splitlines() if pattern.search(line)), ""):
            return f"{reason}: {line[:300]}"
    return ""
