"""The steps of a run on the cluster, from the nodes that Kubeflow Pipelines lists as its tasks.

KFP 2.17 lists every node of the Argo Workflow. Step `collect` is `collect` (all attempts of its graph), `collect(0)`, `collect-driver`,
`collect-driver(0)`, and `executor` with one `executor(N)` for each pod. Only the ids of nodes say which executor is that of which step.
"""

import re
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from moworld_ops.pipelines.kubeflow_api import STATES

ATTEMPTS = range(10)
INNER = re.compile(r"\(\d+\)$|-driver$|^root$|^executor$")  # nodes that are part of a step, or of the whole run
ENDED = ("done", "failed", "cancelled")


def steps_of(tasks: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """Returns a record for each step that has started, by name in the order of their starts; `attempts` is the number of its pods."""
    nodes = [node for node in tasks if node.display_name]
    children = {child.pod_name for node in nodes for child in node.child_tasks or [] if child.pod_name}
    workflow = next(iter(children), "").rpartition("-")[0]
    failed_drivers = {
        node.display_name.removesuffix("-driver") for node in nodes if node.display_name.endswith("-driver") and str(node.state) == "FAILED"
    }
    found = [node for node in nodes if not INNER.search(node.display_name) and node.display_name != workflow]
    steps: dict[str, dict[str, Any]] = {}
    for node in sorted(found, key=lambda node: (seconds_of(node.start_time) or float("inf"), node.task_id or "")):
        step = _step(node, len(steps), failed=node.display_name in failed_drivers)
        steps[node.display_name] = {
            **step,
            "attempts": _attempts(workflow, node.display_name, {one.display_name for one in nodes}, children),
        }
    return steps


def failures(workflow: dict[str, Any]) -> dict[str, str]:
    """Returns the first message of each failed step of an Argo Workflow; key "" is the message of the whole run.

    A pod that could not be created, because of a missing service account or a quota, has its reason here alone.
    """
    status = workflow.get("status") or {}
    nodes = [node for node in (status.get("nodes") or {}).values() if node.get("phase") in ("Failed", "Error") and node.get("message")]
    found: dict[str, str] = {}
    for node in sorted(nodes, key=lambda node: (node.get("type") != "Pod", node.get("finishedAt") or "")):
        path = [re.sub(r"\(\d+\)$", "", part) for part in str(node.get("name", "")).split(".")]
        step = path[2] if len(path) > 2 else path[1] if len(path) > 1 else ""
        if step not in ("", "root"):
            found.setdefault(step.removesuffix("-driver"), " ".join(str(node["message"]).split()))
    if message := " ".join(str(status.get("message") or "").split()):
        found[""] = message
    return found


def seconds_of(moment: datetime | None) -> float | None:
    """Returns a time of KFP's API in seconds, None if it has not come: the API then returns the year 1, or 1970."""
    return None if moment is None or moment.year <= 1970 else moment.timestamp()


def node_id(workflow: str, name: str) -> str:
    """Returns Argo's id of a node: the Workflow's name and the FNV-1a hash of the node's."""
    value = 0x811C9DC5
    for byte in name.encode():
        value = (value ^ byte) * 0x01000193 % 2**32
    return f"{workflow}-{value}"


def _attempts(workflow: str, step: str, names: set[str], children: set[str]) -> int:
    """Returns how many pods a step has had: nodes executor(N) below the step, whose graph and the graphs around it may be retried too.

    names: of all nodes; children: ids of the nodes that others list as theirs
    """

    def attempts(name: str) -> list[str]:
        return [name, *(found for number in ATTEMPTS if (found := f"{name}({number})") in names)]

    graphs = [f"{outer}.{root}.{graph}" for outer in attempts(workflow) for root in attempts("root") for graph in attempts(step)]
    pods = {node_id(workflow, f"{graph}.executor({number})") for graph in graphs for number in ATTEMPTS}
    return max(1, len(pods & children))


def _step(node: Any, index: int, failed: bool) -> dict[str, Any]:
    state = str(node.state)
    status = "failed" if failed else "waiting" if state == "SKIPPED" else STATES.get(state, "running" if state == "RUNNING" else "waiting")
    started = seconds_of(node.start_time) or time.time()
    ended = (seconds_of(node.end_time) if status in ENDED else None) or time.time()
    step = {"index": index, "status": status, "started": started, "seconds": max(0.0, ended - started), "peak_bytes": 0}
    return {**step, "error": str(node.error.message)} if node.error else step
