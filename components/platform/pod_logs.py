"""Logs of pods, read while they grow."""

import threading
import time
from collections.abc import Iterator
from typing import Any

from components.platform.cluster import REQUEST_SECONDS, connect, namespace, patiently
from moworld.errors import InputError


class LogReader:
    """Lines of a pod's log by timestamp: read again and again, each line is given once. A log that cannot be read is no error."""

    def __init__(self, core: Any, space: str, pod: str, container: str) -> None:
        self.core, self.space, self.pod, self.container = core, space, pod, container
        self.last, self.read_at = "", 0.0

    def new_lines(self) -> list[str]:
        since = {"since_seconds": int(time.time() - self.read_at) + 60} if self.read_at else {}
        now = time.time()
        stamped = [line.partition(" ")[::2] for line in self._read(timestamps=True, **since).splitlines()]
        fresh = [(stamp, text) for stamp, text in stamped if _nanoseconds(stamp) > self.last]
        if stamped:
            self.read_at = now
        self.last = max([self.last, *(_nanoseconds(stamp) for stamp, _ in fresh)])
        return [text for _, text in fresh]

    def tail(self, lines: int = 100) -> str:
        return self._read(tail_lines=lines)

    def _read(self, **options: Any) -> str:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            answer = self.core.read_namespaced_pod_log(
                self.pod,
                self.space,
                container=self.container,
                limit_bytes=4 << 20,
                _preload_content=False,
                _request_timeout=REQUEST_SECONDS,
                **options,
            )
            return str(answer.data.decode("utf-8", "replace"))
        except (ApiException, HTTPError):
            return ""


def _nanoseconds(stamp: str) -> str:
    """A log's RFC 3339 stamp in a form whose order is the order of time: Kubernetes cuts trailing zeros of the fraction."""
    second, _, fraction = stamp.removesuffix("Z").partition(".")
    return f"{second}.{fraction:0<9}"


def run_logs(run_id: str) -> Iterator[str]:
    """Lines of the pods of a KFP run that still exist, oldest pod first. Raises InputError where there is none, or no cluster."""
    from kubernetes import client

    core, space = client.CoreV1Api(connect()), namespace()
    found = patiently(
        lambda: core.list_namespaced_pod(space, label_selector=f"pipeline/runid={run_id}", _request_timeout=REQUEST_SECONDS),
        threading.Event(),
        30.0,
    ).items
    pods = [pod for pod in found if "-driver-" not in pod.metadata.name]
    if not pods:
        wanted = "pods that still exist"
        raise InputError(f"run {run_id}", "pods", f"none in namespace {space}", wanted, "their logs stand in the artifact store of the run")
    for pod in sorted(pods, key=lambda pod: str(pod.metadata.creation_timestamp)):
        yield f"== {pod.metadata.name} ({pod.status.phase})"
        yield from LogReader(core, space, pod.metadata.name, "main").new_lines()
