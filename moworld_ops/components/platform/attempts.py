"""Retries of a step on a cluster: the step's own process counts and repeats its failures, because Argo's defaults decide what Argo repeats.

Stock Kubeflow Pipelines 2.17 repeats pods that were lost and no pod that failed; other installations repeat every failure, exit status 2
too. Here a failure is repeated in its pod, up to `StepContext.retries` times, and counted on the shared volume. A pod that Argo starts
after the last failure, or after a refusal, ends at once with the same status. docs/runbook.md has the whole policy.
"""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from moworld.files import read_json, write_json
from moworld_ops.components.platform.context import NODE, StepContext, context
from moworld_ops.components.platform.home import home

FOLDER = "attempts"  # in the state folder: RUN_ID/STEP.json
FACTOR = 2.0  # of the wait before each further attempt
NOTHING: dict[str, Any] = {"nodes": [], "failures": 0, "final": False, "exit": 0, "error": ""}  # nodes: of Argo, each a pod that started


def final_failure(place: StepContext) -> tuple[int, str] | None:
    """Registers the start of a pod; returns exit status and error of a step that must not run again, None for one that may.

    Argo starts each of its nodes once. A node that comes back belongs to a resumed run, so what was counted before is forgotten.
    """
    if not place.node:
        return None
    found = _counted(place)
    if place.node in found["nodes"]:
        found = dict(NOTHING)
    write_json(_file(place), {**found, "nodes": [*found["nodes"], place.node]})
    return (int(found["exit"]), str(found["error"])) if found["final"] else None


def seconds_to_retry(place: StepContext, exit_status: int, error: str, repeatable: bool) -> float | None:
    """Counts a failure; returns the seconds to wait before the next attempt in this pod, None if it was the last one.

    repeatable: False for bad input and for refusals, which would be the same again
    """
    if not place.node:
        return None
    found = _counted(place)
    failures = int(found["failures"]) + 1
    final = not repeatable or failures > place.retries
    write_json(_file(place), {**found, "failures": failures, "final": final, "exit": exit_status, "error": error})
    return None if final else place.retry_seconds * FACTOR ** (failures - 1)


def forget(place: StepContext) -> None:
    """Removes what was counted of a step that has succeeded. A run's folder goes with its last step; of a failed run, `leftovers` removes it."""
    if not place.node:
        return
    file = _file(place)
    file.unlink(missing_ok=True)
    with suppress(OSError):  # other steps are in it, or have removed it
        file.parent.rmdir()


def restart(place: StepContext, seconds: float) -> None:
    """Waits, then replaces this process by a new one with the same arguments: nothing of the failed attempt remains in memory."""
    os.environ[NODE] = f"{place.node}+"  # not the node of a resumed run
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(seconds)
    if pod := os.environ.get("KFP_POD_UID"):  # a launcher's identity: the new attempt must not take the failed TrainJob for its own
        os.environ["KFP_POD_UID"] = f"{pod}-again"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def spending_file() -> str | None:
    """Returns the file in which this step of this run counts what it has spent of a budget, over all its attempts; None outside a run."""
    place = context()
    if not place.run or not place.step:
        return None
    folder = place.folder / "spending" if place.folder else home() / FOLDER / place.run
    return str(folder / f"{place.step}.spending.jsonl")


def _counted(place: StepContext) -> dict[str, Any]:
    return NOTHING | (read_json(_file(place)) if _file(place).is_file() else {})


def _file(place: StepContext) -> Path:
    return home() / FOLDER / place.run_id / f"{place.step}.json"
