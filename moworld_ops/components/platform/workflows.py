"""Whether a run is over, by its Workflow objects: they need the API server alone, and Kubeflow Pipelines deletes them after the end."""

import threading
from typing import Any

from moworld_ops.components.platform.cluster import REQUEST_SECONDS, with_retries

ENDED = ("Succeeded", "Failed", "Error")


def run_is_over(api: Any, space: str, run: str) -> bool:
    """Returns True if no Workflow of a KFP run still works: it is cancelled, ended or deleted."""
    from kubernetes import client

    custom, options = client.CustomObjectsApi(api), {"label_selector": f"pipeline/runid={run}", "_request_timeout": REQUEST_SECONDS}
    listed = with_retries(
        lambda: custom.list_namespaced_custom_object("argoproj.io", "v1alpha1", space, "workflows", **options), threading.Event(), 30.0
    )
    return all(map(workflow_is_over, listed["items"]))


def workflow_is_over(workflow: dict[str, Any]) -> bool:
    """Returns True if a Workflow has ended or is to end: KFP cancels a run by the deadline 0, Argo by `shutdown`."""
    spec = workflow.get("spec", {})
    cancelled = spec.get("activeDeadlineSeconds") == 0 or bool(spec.get("shutdown"))
    return cancelled or workflow.get("status", {}).get("phase") in ENDED
