"""Reports a training's progress to Kubeflow Trainer, which keeps it in `status.trainerStatus` of the TrainJob.

Trainer 2.2 and newer has this behind its feature gate TrainJobStatus (alpha, off by default): the pods of a job then get the address of
its status server, a certificate and a token in three variables. Without them nothing is reported. kubeflow's SDK has a function for
this, but the NPU images cannot have the SDK (CANN pins protobuf 3.20).
"""

import json
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

log = logging.getLogger("moworld.steps")
URL, CA, TOKEN = "KUBEFLOW_TRAINER_SERVER_URL", "KUBEFLOW_TRAINER_SERVER_CA_CERT", "KUBEFLOW_TRAINER_SERVER_TOKEN"
SECONDS = 10.0  # between two reports; the server takes five requests a second from all jobs together
TIMEOUT_SECONDS = 5.0
MAX_CHARACTERS, MAX_METRICS = 64, 256  # of a name and a value; of a report
Report = Callable[[int, int, dict[str, float]], None]


def status_reporter() -> Report | None:
    """Returns a function of (steps done, steps in all, losses by name), None where Trainer does not take reports."""
    url, ca, token = (os.environ.get(name, "") for name in (URL, CA, TOKEN))
    return StatusReporter(url, ca, token) if url and ca and token else None


class StatusReporter:
    """Sends reports in a thread, so that a server that does not respond delays no training step. A failure is logged once.

    url, ca, token: address of the job's status; files with the server's certificate and the pod's token, which Kubernetes renews
    """

    def __init__(self, url: str, ca: str, token: str, seconds: float = SECONDS) -> None:
        self.url, self.ca, self.token, self.seconds = url, ca, Path(token), seconds
        self.first: tuple[float, int] | None = None
        self.sent, self.failed = float("-inf"), False
        self.thread: threading.Thread | None = None

    def __call__(self, done: int, steps: int, losses: dict[str, float]) -> None:
        """Reports a step, at most every `seconds`; the last one always, and waits for its response."""
        now, last = time.monotonic(), done >= steps
        self.first = self.first or (now, done)
        if self.thread is not None and last:
            self.thread.join(TIMEOUT_SECONDS)
        if not last and (now - self.sent < self.seconds or (self.thread is not None and self.thread.is_alive())):
            return
        self.sent = now
        body = status(done, steps, losses, remaining(done, steps, now - self.first[0], done - self.first[1]))
        self.thread = threading.Thread(target=self._send, args=(body,), daemon=True, name="trainer-status")
        self.thread.start()
        if last:
            self.thread.join(TIMEOUT_SECONDS)

    def _send(self, body: dict[str, Any]) -> None:
        try:
            headers = {"Authorization": f"Bearer {self.token.read_text().strip()}", "Content-Type": "application/json"}
            context = ssl.create_default_context(cafile=self.ca)
            with urlopen(Request(self.url, json.dumps(body).encode(), headers), timeout=TIMEOUT_SECONDS, context=context):
                self.failed = False
        except OSError as error:  # also statuses, timeouts and certificates
            if not self.failed:
                log.warning("progress was not reported to Trainer: %s", error)
            self.failed = True


def status(done: int, steps: int, losses: dict[str, float], remaining_seconds: int | None) -> dict[str, Any]:
    """Returns the body of a report: UpdateTrainJobStatusRequest of Trainer's API v1alpha1."""
    metrics = [{"name": name[:MAX_CHARACTERS], "value": f"{value:.5g}"} for name, value in losses.items()][: MAX_METRICS - 1]
    facts: dict[str, Any] = {"progressPercentage": 100 * done // steps, "metrics": [*metrics, {"name": "step", "value": f"{done}/{steps}"}]}
    if remaining_seconds is not None:
        facts["estimatedRemainingSeconds"] = remaining_seconds
    return {"trainerStatus": {**facts, "lastUpdatedTime": datetime.now(UTC).isoformat(timespec="seconds")}}


def remaining(done: int, steps: int, seconds: float, measured: int) -> int | None:
    """Returns the seconds that the remaining steps take at the speed of the last `measured` ones; None if none was measured."""
    return round(seconds / measured * (steps - done)) if measured else None
