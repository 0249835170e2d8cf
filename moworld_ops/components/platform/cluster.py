"""Connection to the cluster's API server, and retries of requests during a temporary failure."""

import json
import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from moworld.errors import InputError
from moworld.extras import require
from moworld_ops.components.platform.context import context

TRANSIENT = {0, 408, 429, 500, 502, 503, 504}  # HTTP statuses that are retried; every other status is final
REQUEST_SECONDS = (3.05, 10.0)  # connect, read: less than the 30 s between a pod's SIGTERM and SIGKILL
MAX_WAIT_SECONDS = 30.0
Response = TypeVar("Response")


class Stopped(Exception):
    """Raised by a wait that the stop event ends."""


def namespace() -> str:
    """Returns the namespace of the runs: that of this pod, else moworld."""
    return context().namespace or "moworld"


class OwnPod(NamedTuple):
    """The pod of this process.

    uid:      of the pod, "" outside one
    workflow: owner reference to the Workflow of its run, {} outside a run
    """

    uid: str
    workflow: dict[str, Any]


def own_pod(api: Any, space: str) -> OwnPod:
    """Returns the pod of this process, which KFP names in KFP_POD_NAME and KFP_POD_UID."""
    from kubernetes import client

    name, uid = os.environ.get("KFP_POD_NAME", ""), os.environ.get("KFP_POD_UID", "")
    if not name:
        return OwnPod(uid, {})
    core = client.CoreV1Api(api)
    meta = with_retries(lambda: core.read_namespaced_pod(name, space, _request_timeout=REQUEST_SECONDS), threading.Event()).metadata
    owners = [one for one in meta.owner_references or [] if one.kind == "Workflow"]
    references = [{"apiVersion": one.api_version, "kind": one.kind, "name": one.name, "uid": one.uid} for one in owners]
    return OwnPod(uid or str(meta.uid), references[0] if references else {})


def connect() -> Any:
    """Returns a kubernetes ApiClient for the surrounding cluster or for KUBECONFIG. Raises InputError if there is neither."""
    client, config = require("kubernetes.client", "cluster"), require("kubernetes.config", "cluster")
    settings = client.Configuration()
    try:
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(client_configuration=settings)
        else:
            config.load_kube_config(config_file=os.environ.get("KUBECONFIG") or None, client_configuration=settings)
    except config.ConfigException as error:
        fix = "set KUBECONFIG, or run with --engine local"
        raise InputError("KUBECONFIG", "", str(error), "a kubeconfig of the cluster", fix) from None
    settings.retries = False  # `with_retries` is the only place that retries
    return client.ApiClient(settings)


def with_retries(
    request: Callable[[], Response],
    stop: threading.Event,
    seconds: float = 600.0,
    first_wait: float = 0.5,
    api_error: type[Any] | None = None,
) -> Response:
    """Returns the response of `request`, which is retried while the server fails temporarily.

    Waits double up to 30 s; a Retry-After header replaces the wait.
    stop:      when set, the next wait raises Stopped
    seconds:   time limit for all attempts
    api_error: the client's exception with status, reason and headers; default kubernetes' ApiException
    Raises ConnectionError at the time limit, and `api_error` at once for a final status.
    """
    from kubernetes.client import ApiException
    from tenacity import RetryCallState, RetryError, Retrying, retry_if_exception, stop_before_delay, wait_exponential
    from urllib3.exceptions import HTTPError

    status_error: type[Any] = api_error or ApiException
    backoff = wait_exponential(multiplier=first_wait, max=MAX_WAIT_SECONDS)

    def is_transient(error: BaseException) -> bool:
        return isinstance(error, HTTPError) or (isinstance(error, status_error) and (error.status or 0) in TRANSIENT)  # type: ignore[attr-defined]

    def wait(state: RetryCallState) -> float:
        header = (getattr(state.outcome.exception(), "headers", None) or {}).get("Retry-After", "")  # type: ignore[union-attr]
        return min(float(header), MAX_WAIT_SECONDS) if header.isdigit() else backoff(state)

    def sleep(wait_seconds: float) -> None:
        if stop.wait(wait_seconds):
            raise Stopped

    try:
        return Retrying(retry=retry_if_exception(is_transient), wait=wait, stop=stop_before_delay(seconds), sleep=sleep)(request)
    except RetryError as failure:
        error = failure.last_attempt.exception()
        reason = f"{error.status} {error.reason}" if isinstance(error, status_error) else f"{type(error).__name__}: {error}"  # type: ignore[attr-defined]
        raise ConnectionError(f"the cluster's API server did not respond within {seconds:.0f} s ({reason})") from None


def server_message(error: Any) -> str:
    """Returns the message in the body of an ApiException of Kubernetes or KFP, or else its reason."""
    try:
        body = json.loads(error.body)
        return str(body.get("error_message") or body.get("message") or body.get("error") or error.reason)
    except (TypeError, ValueError, AttributeError):
        return str(error.reason)
