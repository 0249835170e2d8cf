"""Reasons why the ranks of a TrainJob have not started that no pod shows: Kueue, its PodGroup, Volcano's queue, events of objects without pods."""

import threading
from collections.abc import Callable
from typing import Any

from moworld_ops.components.platform.cluster import REQUEST_SECONDS, with_retries

VOLCANO = ("scheduling.volcano.sh", "v1beta1")
KUEUE = ("kueue.x-k8s.io", "v1beta2")  # Kueue 0.16 and newer
LOCAL_QUEUE = "kueue.x-k8s.io/queue-name"  # label of a job that Kueue admits
JOB_UID = "kueue.x-k8s.io/job-uid"  # label of the Workload that Kueue makes of a job
BEGUN = ("Running", "Succeeded", "Failed")  # phases of a pod that has run


def waiting_reason(api: Any, space: str, job: dict[str, Any], pods: list[dict[str, Any]]) -> str:
    """Returns why the pods of a TrainJob wait or do not exist, as one line; "" once one has begun, or if nothing says why.

    A source that may not be read, or does not respond within seconds, is ignored: a reason is not worth the job.
    """
    if any(pod.get("status", {}).get("phase") in BEGUN for pod in pods):
        return ""
    name = job["metadata"]["name"]  # its PodGroup has the same
    return _admission(api, space, job["metadata"]) or _gang(api, space, name) or _warning(api, space, name)


def _admission(api: Any, space: str, meta: dict[str, Any]) -> str:
    """Returns why Kueue has not admitted a job; "" if it has, or if the job is in no queue of Kueue's."""
    from kubernetes import client

    queue = meta.get("labels", {}).get(LOCAL_QUEUE)
    if not queue:
        return ""
    custom = client.CustomObjectsApi(api)
    options = {"label_selector": f"{JOB_UID}={meta.get('uid', '')}", "_request_timeout": REQUEST_SECONDS}
    found = (_read(lambda: custom.list_namespaced_custom_object(*KUEUE, space, "workloads", **options)) or {}).get("items", [])
    conditions = {one["type"]: one for workload in found for one in workload.get("status", {}).get("conditions", [])}
    if conditions.get("Admitted", {}).get("status") == "True":
        return ""
    message = " ".join(str(conditions.get("QuotaReserved", {}).get("message", "")).split())
    return f"Kueue's queue {queue}: {message or 'the job is not admitted yet'}"


def _gang(api: Any, space: str, name: str) -> str:
    from kubernetes import client

    custom = client.CustomObjectsApi(api)
    group = _read(lambda: custom.get_namespaced_custom_object(*VOLCANO, space, "podgroups", name, _request_timeout=REQUEST_SECONDS)) or {}
    status, spec = group.get("status", {}), group.get("spec", {})
    if not group or status.get("phase") == "Running":
        return ""
    queue, needs = spec.get("queue", "default"), spec.get("minResources", {})
    found = _read(lambda: custom.get_cluster_custom_object(*VOLCANO, "queues", queue, _request_timeout=REQUEST_SECONDS)) or {}
    limit, used = found.get("spec", {}).get("capability", {}), found.get("status", {}).get("allocated", {})
    full = [key for key in sorted(limit) if key in needs and _number(used.get(key)) + _number(needs[key]) > _number(limit[key])]
    if full:
        parts = (f"{_number(used.get(key)):g} of {_number(limit[key]):g} {key} are in use, the gang needs {_number(needs[key]):g}" for key in full)
        return f"gang: queue {queue} is full: {'; '.join(parts)}"
    messages = [str(one.get("message", "")) for one in status.get("conditions") or [] if (one.get("type"), one.get("status")) == ("Unschedulable", "True")]
    return f"gang: queue {queue}: {messages[-1]}" if messages else f"gang: queue {queue} has not admitted it yet ({status.get('phase') or 'no phase'})"


def _warning(api: Any, space: str, name: str) -> str:
    """Returns the last warning about the job or an object made for it, such as a refusal of its pods by a quota or an admission policy."""
    from kubernetes import client

    core = client.CoreV1Api(api)
    listed = _read(lambda: core.list_namespaced_event(space, field_selector="type=Warning", _request_timeout=REQUEST_SECONDS))
    events = api.sanitize_for_serialization(listed.items) if listed is not None else []
    own = [one for one in events if f"{one['involvedObject'].get('name', '')}-".startswith(f"{name}-")]
    if not own:
        return ""
    last = max(own, key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or one["metadata"].get("creationTimestamp") or ""))
    about = last["involvedObject"]
    return f"{about.get('kind', 'object')} {about.get('name', '')}: {last.get('reason', '')}: {' '.join(str(last.get('message', '')).split())[:300]}"


def _read(request: Callable[[], Any]) -> Any:
    """Returns the response, or None if it is refused or does not come."""
    from kubernetes.client import ApiException

    try:
        return with_retries(request, threading.Event(), seconds=5.0)
    except (ApiException, ConnectionError):
        return None


def _number(quantity: Any) -> float:
    from kubernetes.utils.quantity import parse_quantity

    return float(parse_quantity(quantity)) if quantity else 0.0
