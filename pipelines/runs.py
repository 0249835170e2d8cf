"""A run's folder: run.json, the records of its steps, its artifacts, its log and its report.

    runs/<run>/run.json  steps/<step>.json  artifacts/  cache/  pipeline.yaml  log.txt  report.html  lock

Written by one process at a time (the lock); everything in it survives a kill at any moment.
"""

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.platform.home import home
from components.platform.images import ROOT
from components.platform.steps import process_token
from moworld.errors import InputError
from moworld.files import read_json, write_json


class Run:
    """One run's folder and its record."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name

    @staticmethod
    def new(pipeline: str, profile: str, suffix: str = "") -> "Run":
        """A run that does not exist yet, named after pipeline, profile and the time (UTC)."""
        name = stem = f"{pipeline}-{profile}-{datetime.now(UTC):%Y%m%d-%H%M%S}{suffix}"
        for count in range(2, 1000):
            if not (home() / "runs" / name).exists():
                break
            name = f"{stem}-{count}"
        return Run(home() / "runs" / name)

    @staticmethod
    def existing(name: str) -> "Run":
        """A run by name, or "latest". Raises InputError when there is none."""
        if name == "latest" and (runs := all_runs()):
            return runs[-1]
        run = Run(home() / "runs" / name)
        if not run.file.is_file() or not name or "/" in name:
            known = ", ".join(r.name for r in all_runs()[-3:]) or "no runs yet"
            raise InputError(home() / "runs", name, "no such run", f"a run's name ({known})", "see 'moworld runs list'")
        return run

    @property
    def file(self) -> Path:
        return self.folder / "run.json"

    @property
    def record(self) -> dict[str, Any]:
        """run.json as it stands."""
        return dict(read_json(self.file))

    def update(self, **values: Any) -> dict[str, Any]:
        """Change keys of run.json, atomically; returns the record."""
        record = {**(self.record if self.file.exists() else {}), **values}
        write_json(self.file, record)
        return record

    @property
    def on_cluster(self) -> bool:
        """True for a run of engine kubeflow."""
        return self.record.get("engine") == "kubeflow"

    def steps(self) -> dict[str, dict[str, Any]]:
        """The records of the steps that have started, by name."""
        return {path.stem: dict(read_json(path)) for path in sorted((self.folder / "steps").glob("*.json"))}

    def status(self) -> str:
        """running, done, refused, failed, cancelled, or killed: a local one that says it runs while nobody holds its lock.

        A run on the cluster is as it was at the last look.
        """
        status = str(self.record["status"])
        if self.on_cluster:
            return status
        return "killed" if status == "running" and not self.is_locked() else status

    def is_locked(self) -> bool:
        """True while a process works on the folder."""
        try:
            with self.locked():
                return False
        except InputError:
            return True

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock; it goes with the process, however that ends. Raises InputError when another holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "a", encoding="ascii") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found = "another process at work on this run"
                raise InputError(self.folder, "lock", found, "one process at a time", "wait for it, or 'moworld runs cancel' it") from None
            yield

    def cancel(self) -> None:
        """Ask the run's process to end (SIGTERM); it ends its steps first. Raises InputError when none is at work."""
        import signal

        token = str(self.record.get("engine_process", ""))
        if not token or process_token(int(token.split(":")[0])) != token:
            raise InputError(self.folder, "status", self.status(), "a run that is at work", "there is nothing to cancel")
        os.kill(int(token.split(":")[0]), signal.SIGTERM)


def all_runs() -> list[Run]:
    """Every run under the state folder, oldest first."""
    runs = [Run(path.parent) for path in (home() / "runs").glob("*/run.json")]
    return sorted(runs, key=lambda run: (run.record.get("started", 0), run.name))


def latest_output(step: str, output: str, profile: str) -> str:
    """Path of an output in the newest run of the profile whose step finished. Raises InputError when there is none."""
    for run in reversed(all_runs()):
        record = run.steps().get(step, {})
        if run.record.get("profile") == profile and record.get("status") == "done" and Path(record["outputs"][output]["path"]).exists():
            return str(record["outputs"][output]["path"])
    wanted = f"a run of profile {profile} that finished step {step}"
    raise InputError(
        home() / "runs", output, "none", wanted, "run the pipeline that makes it, or name the folder with --set inputs.NAME=PATH"
    )


def git_commit() -> str:
    """Commit of the source tree, with "+changes" where it was edited; "" outside a git checkout."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=ROOT, capture_output=True, text=True, check=False)
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "") if head.returncode == 0 else ""


def summary(run: Run) -> dict[str, Any]:
    """What `moworld run --json` prints."""
    record = run.record
    steps = {
        name: {"status": step["status"], "seconds": step.get("seconds", 0.0), "peak_bytes": step.get("peak_bytes", 0)}
        for name, step in ordered(record)
    }
    facts: dict[str, Any] = {key: record[key] for key in ("run", "status", "seconds", "error") if key in record}
    return {**facts, "steps": steps, "model": record.get("model"), "report": record.get("report")}


def ordered(record: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The steps of a run's record in the order of the pipeline."""
    return sorted(record.get("steps", {}).items(), key=lambda item: item[1]["index"])


def elapsed(since: float) -> float:
    """Seconds since a time.time()."""
    return time.time() - since
