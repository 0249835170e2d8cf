"""The folder of a run: its record, the records of its steps, its artifacts, log and report.

    runs/<run>/run.json  steps/<step>.json  artifacts/  cache/  pipeline.yaml  log.txt  report.html  lock

One process at a time writes it (the lock). Every file survives a kill at any moment.
"""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld.files import read_json, write_json
from moworld_ops.components.platform.home import home
from moworld_ops.components.platform.source import code_revision
from moworld_ops.components.platform.steps import process_token
from moworld_ops.pipelines.run_record import read_run, read_step

MERGED = {  # step: the step that merges its partitions, and the output with the accepted rows
    **dict.fromkeys(("complete_geometry", "check_quality", "annotate"), ("merge_clips", "captioned")),
    "cache_features": ("merge_features", "features"),
}


class Run:
    """The folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name

    @staticmethod
    def new(pipeline: str, profile: str, suffix: str = "") -> "Run":
        """Returns a run that does not exist yet, named after pipeline, profile and UTC time."""
        name = stem = f"{pipeline}-{profile}-{datetime.now(UTC):%Y%m%d-%H%M%S}{suffix}"
        for count in range(2, 1000):
            if not (home() / "runs" / name).exists():
                break
            name = f"{stem}-{count}"
        return Run(home() / "runs" / name)

    @staticmethod
    def existing(name: str) -> "Run":
        """Returns a run by name, or "latest"; raises InputError if there is none."""
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
        """The content of run.json. Raises InputError if it is not one."""
        return read_run(self.file)

    def update(self, **values: Any) -> dict[str, Any]:
        """Changes keys of run.json atomically and returns the record."""
        record = {**(self.record if self.file.exists() else {}), **values}
        write_json(self.file, record)
        return record

    def begin(self, engine: str, pipeline: str, profile: str, settings: Any, **facts: Any) -> None:
        """Writes the record of a run that starts; `settings` is its profile."""
        self.update(
            run=self.name,
            engine=engine,
            pipeline=pipeline,
            profile=profile,
            status="running",
            started=time.time(),
            seeds={"seed": settings.seed},
            settings=settings.model_dump(mode="json"),
            git_commit=code_revision(),
            **facts,
        )

    @property
    def on_cluster(self) -> bool:
        """True for a run of engine kubeflow."""
        return self.record.get("engine") == "kubeflow"

    @property
    def page(self) -> str:
        """The address of the run's page in Kubeflow Pipelines; "" for a local run."""
        where = self.record.get("kubeflow")
        return f"{where['endpoint']}/#/runs/details/{where['id']}" if where else ""

    def steps(self) -> dict[str, dict[str, Any]]:
        """Returns the records of the started steps by name. Raises InputError for one that cannot be read."""
        return {path.stem: read_step(path) for path in sorted((self.folder / "steps").glob("*.json"))}

    def step(self, name: str) -> dict[str, Any]:
        """Returns the record of a step; of one that ran in partitions that of the step that merges them; {} if neither has started."""
        steps = self.steps()
        merging = MERGED[name][0] if name in MERGED else ""
        return steps.get(name) or steps.get(merging, {})

    def status(self) -> str:
        """Returns running, done, refused, failed, cancelled, or killed: recorded as running, but no process holds its lock.

        The status of a run on the cluster is the recorded one.
        """
        record = self.record
        if record["status"] != "running" or record.get("engine") == "kubeflow":
            return str(record["status"])
        try:
            with self.locked():
                return "killed"
        except InputError:  # a process works on the folder
            return "running"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder's lock; it ends with the process. Raises InputError if another process holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "a", encoding="ascii") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found = "another process at work on this run"
                raise InputError(self.folder, "lock", found, "one process at a time", "wait for it, or 'moworld runs cancel' it") from None
            yield

    def cancel(self) -> None:
        """Sends SIGTERM to the run's process, which ends its steps first; raises InputError if there is no such process."""
        token = str(self.record.get("engine_process", ""))
        if not token or process_token(int(token.split(":")[0])) != token:
            raise InputError(self.folder, "status", self.status(), "a run in progress", "there is nothing to cancel")
        os.kill(int(token.split(":")[0]), signal.SIGTERM)

    def output(self, step: str, name: str) -> Path | None:
        """Returns the folder of a finished step's output, or None; of a step that ran in partitions that of the step that merges them."""
        record = self.steps().get(step)
        if record is None and step in MERGED:
            record, name = self.step(step), name if name == "quarantine" else MERGED[step][1]
        found = (record or {}).get("outputs", {}).get(name)
        return Path(found["path"]) if found and Path(found["path"]).exists() else None

    def quarantine(self, step: str) -> Path | None:
        """Returns the folder of the rows that a step rejected, also if it refused the whole batch; None if there is none."""
        refused = self.folder / "refused" / step
        return self.output(step, "quarantine") or (refused if refused.is_dir() else None)

    def rejections(self) -> Iterator[tuple[str, Path, list[dict[str, Any]]]]:
        """Yields step, quarantine folder and the rows of its reasons.json, for each step that checks contracts."""
        steps = ("merge_clips",) if "merge_clips" in self.steps() else ("complete_geometry", "check_quality", "annotate")
        for step in steps:
            folder = self.quarantine(step)
            if folder is not None and (folder / "reasons.json").is_file():
                yield step, folder, read_json(folder / "reasons.json")


def all_runs() -> list[Run]:
    """Returns every run in the state folder whose record can be read, oldest first."""
    return _read_runs()[0]


def unreadable_runs() -> dict[str, str]:
    """Returns why the record of a run cannot be read, by the run's name."""
    return _read_runs()[1]


def _read_runs() -> tuple[list[Run], dict[str, str]]:
    started, unreadable = dict[Run, float](), dict[str, str]()
    for path in sorted((home() / "runs").glob("*/run.json")):
        run = Run(path.parent)
        try:
            started[run] = run.record.get("started") or 0.0
        except (InputError, OSError) as error:
            unreadable[run.name] = str(error)
    return sorted(started, key=lambda run: (started[run], run.name)), unreadable


def cluster_endpoints() -> list[str]:
    """Returns KFP_ENDPOINT and the endpoints of recorded cluster runs in progress."""
    records = [run.record for run in all_runs()]
    found = {one["kubeflow"]["endpoint"] for one in records if one.get("kubeflow") and one["status"] == "running"}
    return sorted(found | {endpoint.rstrip("/") for endpoint in (os.environ.get("KFP_ENDPOINT"),) if endpoint})


def latest_output(step: str, output: str, profile: str) -> str:
    """Returns the path of an output of the newest run of the profile that finished the step; raises InputError if there is none."""
    for run in reversed(all_runs()):
        found = run.output(step, output) if run.record.get("profile") == profile and run.step(step).get("status") == "done" else None
        if found is not None:
            return str(found)
    expected = f"a run of profile {profile} that finished step {step}"
    fix = "run the pipeline that makes it, or name the directory with --set inputs.NAME=PATH"
    raise InputError(home() / "runs", output, "none", expected, fix)


def summary(run: Run) -> dict[str, Any]:
    """Returns the JSON of `moworld run --json`."""
    record = run.record
    steps = {
        name: {"status": step["status"], "seconds": step.get("seconds", 0.0), "peak_bytes": step.get("peak_bytes", 0)}
        | ({"attempts": step["attempts"]} if "attempts" in step else {})
        for name, step in ordered(record)
    }
    facts: dict[str, Any] = {key: record[key] for key in ("run", "status", "seconds", "error") if key in record}
    if run.page:
        facts["page"] = run.page
    return {**facts, "steps": steps, "model": record.get("model"), "report": record.get("report")}


def ordered(record: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Returns the steps of a run's record in the order of the pipeline."""
    return sorted(record.get("steps", {}).items(), key=lambda item: item[1]["index"])
