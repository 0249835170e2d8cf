"""The cluster's API server: a connection, and questions asked again while it fails for a while."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from moworld.errors import InputError

PASSING = {0, 408, 429, 500, 502, 503, 504}  # statuses that say "not now"; every other one is an answer
REQUEST_SECONDS = (3.05, 10.0)  # to connect, to answer: less than the 30 s that a pod gets between SIGTERM and SIGKILL
Answer = TypeVar("Answer")


class Stopped(Exception):
    """This process was told to end while it waited."""


def namespace() -> str:
    """Namespace of the runs: MOWORLD_NAMESPACE, else moworld."""
    return os.environ.get("MOWORLD_NAMESPACE") or "moworld"


def connect() -> Any:
    """An ApiClient of the cluster that this process runs in, or of KUBECONFIG. Raises InputError where there is neither."""
    from kubernetes import client, config

    settings = client.Configuration()
    try:
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(client_configuration=settings)
        else:
            config.load_kube_config(config_file=os.environ.get("KUBECONFIG") or None, client_configuration=settings)
    except config.ConfigException as error:
        raise InputError(
            "KUBECONFIG", "", str(error), "a kubeconfig of the cluster", "set KUBECONFIG, or run with --engine local"
        ) from None
    settings.retries = False  # `patiently` alone decides what is asked again
    return client.ApiClient(settings)


def patiently(
    ask: Callable[[], Answer], stop: threading.Event, seconds: float = 600.0, first_wait: float = 0.5, api_error: type[Any] | None = None
) -> Answer:
    """The answer of `ask`, asked again with doubling waits (at most 30 s, Retry-After is kept) while the server fails in passing.

    stop:    set from elsewhere when this process should end
    seconds: how long to go on asking
    api_error: the client's exception with status, reason and headers; kubernetes' ApiException where none is given
    Raises Stopped when `stop` is set, ConnectionError when the time is over, and `api_error` for an answer that is a refusal.
    """
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    refusal: type[Any] = api_error or ApiException
    wait, end = first_wait, time.monotonic() + seconds
    while True:
        pause = wait
        try:
            return ask()
        except refusal as error:
            if (error.status or 0) not in PASSING:
                raise
            reason = f"{error.status} {error.reason}"
            asked = (error.headers or {}).get("Retry-After", "")
            pause = min(float(asked), 30.0) if asked.isdigit() else wait
        except HTTPError as error:
            reason = f"{type(error).__name__}: {error}"
        if time.monotonic() + pause > end:
            raise ConnectionError(f"the cluster's API server gave no answer for {seconds:.0f} s ({reason})")
        if stop.wait(pause):
            raise Stopped
        wait = min(2 * wait, 30.0)
