"""What this machine reads of the cluster's API server, if a kubeconfig allows it: before a run what its pods need, after it why it failed.

Step `preflight` checks much more, inside the cluster. It cannot start without what is checked here.
"""

import os
import threading
from typing import Any

from moworld.errors import InputError
from moworld_ops.components.platform.cluster import REQUEST_SECONDS, connect, with_retries

SECONDS = 10.0


def check_namespace(space: str, account: str, required: dict[str, Any]) -> str:
    """Returns "", or one line that says what was not checked and why.

    required: of `placement.requirements_of`: its claims and secrets, with their keys
    Raises InputError for a service account, claim, secret or key that is not there. KFP would report that as a failed run, without a reason.
    """
    what = f"service account, claim and secrets in namespace {space}"
    try:
        if _get(f"/api/v1/namespaces/{space}") is None:
            return f"{what} were not checked: the kubeconfig's cluster has no such namespace"
        missing = "nothing", "the object that the runs' pods need"
        fix = f"kubectl apply -k an overlay of manifests/ (docs/runbook.md), or set MOWORLD_SERVICE_ACCOUNT; seen with {_kubeconfig()}"
        if _get(f"/api/v1/namespaces/{space}/serviceaccounts/{account}") is None:
            raise InputError(f"namespace {space}", f"service account {account}", *missing, fix)
        for claim in required["claims"]:
            if _get(f"/api/v1/namespaces/{space}/persistentvolumeclaims/{claim}") is None:
                raise InputError(f"namespace {space}", f"claim {claim}", *missing, fix)
        for name, keys in required["secrets"].items():
            secret = _get(f"/api/v1/namespaces/{space}/secrets/{name}")
            absent = sorted(set(keys) - set((secret or {}).get("data") or {}))
            if secret is None or ("forbidden" not in secret and absent):
                found = "nothing" if secret is None else f"no key {', '.join(absent)}"
                raise InputError(f"namespace {space}", f"secret {name}", found, f"keys {', '.join(keys)}", fix)
    except _NoCluster as reason:
        return f"{what} were not checked: {reason}"
    return ""


def workflow_of(space: str, run_id: str) -> dict[str, Any]:
    """Returns the Argo Workflow of a run, {} if it is gone or this machine may not read it."""
    try:
        found = _get(f"/apis/argoproj.io/v1alpha1/namespaces/{space}/workflows?labelSelector=pipeline%2Frunid%3D{run_id}")
    except _NoCluster:
        return {}
    return dict(next(iter((found or {}).get("items") or []), {}))


def object_of(space: str, path: str) -> dict[str, Any] | None:
    """Returns "configmaps/NAME" or "secrets/NAME" of a namespace, None if it is not there or there is no cluster to ask."""
    try:
        return _get(f"/api/v1/namespaces/{space}/{path}")
    except _NoCluster:
        return None


class _NoCluster(Exception):
    """No kubeconfig, or an API server that does not answer."""


def _get(path: str) -> dict[str, Any] | None:
    """Returns an object, None if there is none, {"forbidden": True} without the permission to read it."""
    from kubernetes.client import ApiException

    if not (os.environ.get("KUBECONFIG") or os.environ.get("KUBERNETES_SERVICE_HOST")):
        raise _NoCluster("KUBECONFIG is not set")
    options = {"response_type": "object", "auth_settings": ["BearerToken"], "_request_timeout": REQUEST_SECONDS}
    try:
        return dict(with_retries(lambda: connect().call_api(path, "GET", **options)[0], threading.Event(), seconds=SECONDS))
    except ApiException as error:
        if error.status == 404:
            return None
        if error.status in (401, 403):
            return {"forbidden": True}
        raise _NoCluster(f"{error.status} {error.reason}") from None
    except (ConnectionError, InputError) as error:
        raise _NoCluster(str(error)) from None


def _kubeconfig() -> str:
    return f"KUBECONFIG={os.environ['KUBECONFIG']}" if os.environ.get("KUBECONFIG") else "the pod's own account"
