"""Whether a run is over, by its Workflow objects: they need the API server alone, and Kubeflow Pipelines deletes them after the end."""

import threading
from typing import Any

from moworld_ops.components.platform.cluster import REQUEST_SECONDS, with_retries

RUN_ID = "pipeline/runid"  # label of a run's Workflow and pods
ENDED = ("Succeeded", "Failed", "Error")


def working_runs(api: Any, space: str) -> set[str]:
    """Returns the ids of the KFP runs with a Workflow that still works, in one request; others are cancelled, ended or deleted."""
    from kubernetes import client

    custom, options = client.CustomObjectsApi(api), {"_request_timeout": REQUEST_SECONDS}
    listed = with_retries(
        lambda: custom.list_namespaced_custom_object("argoproj.io", "v1alpha1", space, "workflows", **options), threading.Event(), 30.0
    )
    return {one["metadata"].get("labels", {}).get(RUN_ID, "") for one in listed["items"] if not workflow_is_over(one)}


def run_is_over(api: Any, space: str, run: str) -> bool:
    """Returns True if no Workflow of a KFP run still works."""
    return run not in working_runs(api, space)


def workflow_is_over(workflow: dict[str, Any]) -> bool:
    """Returns True if a Workflow has ended or is to end: KFP cancels a run by the deadline 0, Argo by `shutdown`."""
    spec = workflow.get("spec", {})
    cancelled = spec.get("activeDeadlineSeconds") == 0 or bool(spec.get("shutdown"))
    return cancelled or workflow.get("status", {}).get("phase") in ENDED
