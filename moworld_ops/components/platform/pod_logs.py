"""Reads the logs of pods, also while they grow."""

import threading
import time
from collections.abc import Iterator
from typing import Any

from moworld.errors import InputError
from moworld_ops.components.platform.cluster import REQUEST_SECONDS, connect, namespace, with_retries

MAX_LOG_BYTES = 4 << 20


class LogReader:
    """Reads a pod's log repeatedly and returns each line once, by its timestamp. An unreadable log counts as empty."""

    def __init__(self, core: Any, space: str, pod: str, container: str) -> None:
        self.core, self.space, self.pod, self.container = core, space, pod, container
        self.last, self.read_at = "", 0.0

    def new_lines(self) -> list[str]:
        """Returns the lines since the previous call."""
        now = time.time()
        since = {"since_seconds": int(now - self.read_at) + 60} if self.read_at else {}
        stamped = [line.partition(" ")[::2] for line in self._read(timestamps=True, **since).splitlines()]
        new = [(stamp, text) for stamp, text in stamped if _sortable(stamp) > self.last]
        if stamped:
            self.read_at = now
        self.last = max([self.last, *(_sortable(stamp) for stamp, _ in new)])
        return [text for _, text in new]

    def tail(self, lines: int = 100) -> str:
        """Returns the last lines."""
        return self._read(tail_lines=lines)

    def _read(self, **options: Any) -> str:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        limits = {"limit_bytes": MAX_LOG_BYTES, "_request_timeout": REQUEST_SECONDS, "_preload_content": False}
        try:
            response = self.core.read_namespaced_pod_log(self.pod, self.space, container=self.container, **limits, **options)
            return str(response.data.decode("utf-8", "replace"))
        except (ApiException, HTTPError):
            return ""


def _sortable(stamp: str) -> str:
    """Returns an RFC 3339 timestamp in a form that sorts by time: Kubernetes drops trailing zeros of the fraction."""
    second, _, fraction = stamp.removesuffix("Z").partition(".")
    return f"{second}.{fraction:0<9}"


def run_logs(run_id: str, space: str = "") -> Iterator[str]:
    """Yields the log lines of a KFP run's existing pods in a namespace, oldest pod first.

    Raises InputError without pods or without a cluster. KFP itself keeps the log of each attempt as an artifact.
    """
    from kubernetes import client

    core, space, selector = client.CoreV1Api(connect()), space or namespace(), f"pipeline/runid={run_id}"
    listed = with_retries(
        lambda: core.list_namespaced_pod(space, label_selector=selector, _request_timeout=REQUEST_SECONDS), threading.Event(), 30.0
    )
    pods = [pod for pod in listed.items if "-driver-" not in pod.metadata.name]
    if not pods:
        fix = f"read artifact executor-logs of each step on the run's page, or in the artifact store: .../{run_id}/STEP/.../executor-logs-N"
        raise InputError(f"run {run_id}", "pods", f"none in namespace {space}", "pods that still exist", fix)
    for pod in sorted(pods, key=lambda pod: str(pod.metadata.creation_timestamp)):
        yield f"== {pod.metadata.name} ({pod.status.phase})"
        yield from LogReader(core, space, pod.metadata.name, "main").new_lines()
