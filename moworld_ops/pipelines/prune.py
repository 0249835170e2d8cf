"""Deletes what finished runs no longer need: checkpoints, and the folders of old runs. What others use is kept, each with a reason.

Checkpoints of a run that is done are superseded by its outputs. The folder of an old run is kept as long as a registered model names the run,
another run reads its outputs, or it has the newest output of a step for its profile: the next run would take that as its input.
"""

import json
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld_ops.components.platform.home import home
from moworld_ops.pipelines.runs import Run, all_runs

DAY = 86400.0


@dataclass(frozen=True)
class Policy:
    """The newest `keep` runs of each pipeline and profile keep their folders, and so do runs younger than `days` days."""

    keep: int = 5
    days: float = 30.0


@dataclass(frozen=True)
class Decision:
    """What is deleted of a run: "checkpoints", "run" or "" for nothing; `size` in bytes, and why."""

    run: str
    status: str
    delete: str
    size: int
    reason: str

    def as_json(self) -> dict[str, Any]:
        """Returns the fields, `size` as `bytes`."""
        fields = asdict(self)
        return {**fields, "bytes": fields.pop("size")}


def decide(policy: Policy, now: float | None = None) -> list[Decision]:
    """Returns a decision for each run of this machine, oldest first. Changes nothing.

    Raises InputError if a registry that a run may be registered in cannot be read.
    """
    runs, now = all_runs(), time.time() if now is None else now
    records = {run.name: run.record for run in runs}
    reasons = _newest(runs, records, policy.keep) | _newest_outputs(runs, records) | _young(records, now - policy.days * DAY)
    old = [run for run in runs if run.name not in reasons and not run.on_cluster]
    reasons |= _registered(old, records) if old else {}
    reasons |= _inputs(records, {run.name for run in old} - set(reasons))
    return [_decision(run, reasons.get(run.name, "")) for run in runs]


def delete(decision: Decision) -> bool:
    """Deletes what was decided; returns False, and deletes nothing, if a process works on the run. A folder of a run disappears at once."""
    run = Run(home() / "runs" / decision.run)
    try:
        with run.locked():
            if decision.delete == "checkpoints":
                shutil.rmtree(run.folder / "checkpoints")
            elif decision.delete == "run":
                leaving = home() / "pruned" / run.name
                leaving.parent.mkdir(exist_ok=True)
                os.replace(run.folder, leaving)
    except InputError:  # another process holds the lock
        return False
    shutil.rmtree(home() / "pruned", ignore_errors=True)  # also what an interrupted call left there
    return True


def _decision(run: Run, kept: str) -> Decision:
    status, checkpoints = run.status(), run.folder / "checkpoints"
    if run.on_cluster:
        return Decision(run.name, status, "", 0, "its data is on the cluster")
    if status == "running":
        return Decision(run.name, status, "", 0, "in progress")
    if run.folder.is_symlink() or checkpoints.is_symlink():
        return Decision(run.name, status, "", 0, "a link")
    if not kept:
        return Decision(run.name, status, "run", size_of(run.folder), "old, and nothing uses it")
    if status == "done" and checkpoints.is_dir():
        return Decision(run.name, status, "checkpoints", size_of(checkpoints), f"finished; the run is kept: {kept}")
    return Decision(run.name, status, "", 0, kept)


def size_of(folder: Path) -> int:
    """Returns the bytes that deleting a folder frees: files with further hard links elsewhere do not count."""
    inside: dict[tuple[int, int], tuple[int, int, int]] = {}
    for path in folder.rglob("*"):
        facts = path.lstat()
        if path.is_file() and not path.is_symlink():
            seen = inside.get((facts.st_dev, facts.st_ino), (0, 0, 0))[0]
            inside[facts.st_dev, facts.st_ino] = (seen + 1, facts.st_nlink, facts.st_blocks * 512)
    return sum(size for seen, links, size in inside.values() if seen == links)


def _newest(runs: list[Run], records: dict[str, Any], keep: int) -> dict[str, str]:
    counted: dict[tuple[Any, Any], int] = {}
    found = {}
    for run in reversed(runs):
        kind = (records[run.name].get("pipeline"), records[run.name].get("profile"))
        counted[kind] = counted.get(kind, 0) + 1
        if counted[kind] <= keep:
            found[run.name] = f"among the newest {keep} of its pipeline and profile"
    return found


def _newest_outputs(runs: list[Run], records: dict[str, Any]) -> dict[str, str]:
    seen, found = set(), {}
    for run in reversed(runs):
        try:
            steps = [step for step, facts in run.steps().items() if facts["status"] == "done"]
        except InputError as error:  # its outputs are unknown
            found[run.name] = f"{Path(error.file).name} of its steps cannot be read"
            continue
        new = [step for step in steps if (records[run.name].get("profile"), step) not in seen]
        seen |= {(records[run.name].get("profile"), step) for step in steps}
        if new:
            found[run.name] = f"the newest output of {new[0]} for its profile"
    return found


def _young(records: dict[str, Any], since: float) -> dict[str, str]:
    def last(record: dict[str, Any]) -> float:
        return max([record.get("started") or 0.0, *(one["started"] for one in record.get("attempts", []))])

    return {name: "younger than the limit" for name, record in records.items() if last(record) > since}


def _registered(old: list[Run], records: dict[str, Any]) -> dict[str, str]:
    """Returns the old runs that a registered model names, in the state folder's registry, MLFLOW_TRACKING_URI's and those of their profiles."""
    from moworld_ops.components.platform.registry import ModelRegistry
    from moworld_ops.components.platform.tracking import sqlite_uri

    database = home() / "mlflow" / "mlflow.db"
    places = {str(records[run.name].get("settings", {}).get("registry", {}).get("tracking", "")) for run in old}
    places |= {os.environ.get("MLFLOW_TRACKING_URI", ""), sqlite_uri(database) if database.exists() else ""}
    found: dict[str, str] = {}
    for tracking in sorted(places - {""}):
        try:
            registry = ModelRegistry(tracking)
            versions = [version for name in registry.names() for version in registry.versions(name)]
        except Exception as error:  # MLflow raises any exception of its database or connection
            expected, fix = "a registry that says which runs its models come from", "make it reachable: without it no old run is deleted"
            raise InputError(tracking, "", " ".join(str(error).split())[:200], expected, fix) from None
        found |= {version.tags.get("run", ""): f"model {version.name} version {version.version} names it" for version in versions}
    return found


def _inputs(records: dict[str, Any], old: set[str]) -> dict[str, str]:
    """Returns the runs among `old` whose folders a kept run reads, also by way of others that are kept for this reason."""
    found: dict[str, str] = {}
    texts = {name: json.dumps([record.get("arguments"), record.get("settings")]) for name, record in records.items()}
    waiting = [name for name in records if name not in old]
    while waiting:
        reader = waiting.pop()
        for name in sorted(old - set(found)):
            if f"/runs/{name}/" in texts[reader]:
                found[name] = f"run {reader} reads its outputs"
                waiting.append(name)
    return found
