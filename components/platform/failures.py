"""Why a TrainJob failed, in one line a person can act on: read from its conditions, its pods and their last lines. Pure."""

import re
from typing import Any

HCCL = re.compile(r"\bEI000[26]\b|\bEE1002\b|HCCL.{0,80}tim(e|ed)[ _]?out|HcclCommInitRootInfo.{0,80}error", re.IGNORECASE)
DEVICE_MEMORY = re.compile(r"(NPU|CUDA) out of memory|\bEL0004\b|Tried to allocate [\d.]+ [MG]iB", re.IGNORECASE)
IMAGE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError"}


def why_failed(job: dict[str, Any], pods: list[dict[str, Any]], tail: str = "") -> str:
    """One line: what ended the job, where, and the mend.

    job:  TrainJob with its status; pods: its pods as the API gives them; tail: the last lines of a pod's log
    """
    condition: dict[str, Any] = next(
        (c for c in job.get("status", {}).get("conditions", []) if c["type"] == "Failed" and c["status"] == "True"), {}
    )
    said = " ".join(str(condition.get(key, "")) for key in ("reason", "message")).strip()
    for found in (_deadline(job, condition), *(_pod(pod) for pod in pods), _lines(tail)):
        if found:
            return f"{found} [{said}]" if said else found
    last = [line for line in tail.splitlines() if line.strip()][-1:]
    return "; ".join(part for part in (said or "it says no reason", *(f"last line: {line.strip()[:300]}" for line in last)) if part)


def why_waiting(pods: list[dict[str, Any]]) -> str:
    """Why pods have not started: the scheduler's or the image puller's words; "" when none waits."""
    for pod in pods:
        for condition in pod.get("status", {}).get("conditions") or []:
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return f"unschedulable: pod {pod['metadata']['name']}: {condition.get('message', condition.get('reason', ''))}"
        for status in pod.get("status", {}).get("containerStatuses") or []:
            waiting = (status.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in IMAGE:
                return f"image: pod {pod['metadata']['name']}: {waiting['reason']}: {waiting.get('message', '')}"
    return ""


def _deadline(job: dict[str, Any], condition: dict[str, Any]) -> str:
    if condition.get("reason") != "DeadlineExceeded":
        return ""
    return f"deadline: it ran past {job['spec'].get('activeDeadlineSeconds')} s; raise `seconds` of the pool, checkpoints are kept"


def _pod(pod: dict[str, Any]) -> str:
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for container in status.get("containerStatuses") or []:
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            ended = state.get("terminated") or {}
            if ended.get("reason") == "OOMKilled":
                return f"out of memory: pod {name} was killed at its memory limit (OOMKilled); raise `memory` of the pool"
    taken = [c for c in status.get("conditions") or [] if c["type"] == "DisruptionTarget" and c["status"] == "True"]
    if status.get("reason") in {"Evicted", "Preempting", "NodeLost", "NodeAffinity", "Shutdown", "Terminated"} or taken:
        reason = status.get("reason") or taken[0].get("reason", "")
        message = status.get("message") or (taken[0].get("message", "") if taken else "")
        return f"evicted: pod {name}: {reason}: {message}; the step goes on from its checkpoint when run again".replace(": ;", ";")
    return why_waiting([pod])


def _lines(tail: str) -> str:
    for pattern, words in (
        (HCCL, "HCCL timeout: a rank waited in vain for another; look for the first rank that failed, then at HCCL_CONNECT_TIMEOUT"),
        (DEVICE_MEMORY, "out of device memory: a smaller batch, or more ranks for sequence or parameters ('moworld plan')"),
    ):
        if match := pattern.search(tail):
            start = tail.rfind("\n", 0, match.start()) + 1
            line = tail[start:].splitlines()[0].strip()
            return f"{words}: {line[:300]}"
    return ""
