"""The local engine: kfp.local with a process per step, and kfp's own cache kept per run, which is what `--resume` stands on.

A finished step's cache entry is written after its outputs; a killed run therefore continues behind its last finished step.
"""

import os
import re
import shutil
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.platform.home import writable_home
from components.platform.images import ROOT
from components.platform.steps import process_token
from moworld.errors import InputError
from moworld.files import write_json
from pipelines.runs import Run, elapsed

Progress = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Step:
    """One task of a compiled pipeline: its name, and the steps whose outputs it takes."""

    name: str
    needs: tuple[str, ...]


class Cancelled(BaseException):
    """The run was told to end."""


def preflight(run: Run, disk_bytes: int) -> None:
    """Raises InputError when the state folder cannot be written or the disk has less room than the profile needs."""
    folder = writable_home()
    free = shutil.disk_usage(folder).free
    if free < disk_bytes:
        mend = "free some space, or set MOWORLD_HOME to a larger disk"
        raise InputError(folder, "disk", f"{free / 1e9:.1f} GB free", f"{disk_bytes / 1e9:.1f} GB for run {run.name}", mend)


def execute(pipeline: Any, arguments: dict[str, str], run: Run, progress: Progress) -> str:
    """Run a pipeline to its end and keep run.json; the caller holds the run's lock.

    pipeline:  a compiled kfp pipeline whose tasks carry MOWORLD_STEP
    arguments: its parameters
    progress:  called with a step's name and record at its start, at its end, and when it is kept from an earlier attempt
    returns:   the run's status: done, refused, failed or cancelled
    """
    from kfp import local

    plan = steps_of(pipeline.pipeline_spec)
    started = time.time()
    earlier = [{**one, "status": "killed"} if one["status"] == "running" else one for one in run.record.get("attempts", [])]
    attempt = len(earlier) + 1
    now = {"started": started, "seconds": 0.0, "status": "running"}
    run.update(status="running", error=None, engine_process=process_token(os.getpid()), attempts=[*earlier, now])
    _end_leftovers(run)
    _remove_half_written(run)
    error = None
    with (
        _environment(run, attempt),
        _cancelled_by_signal(),
        open(run.folder / "log.txt", "a", encoding="utf-8", buffering=1) as log,
        _reporting(run, [step.name for step in plan], attempt, progress),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # kfp warns of settings that have no effect locally
        try:
            with redirect_stdout(log):
                root = str(run.folder / "artifacts")
                local.init(local.SubprocessRunner(use_venv=False), root, enable_caching=True, cache_root=str(run.folder / "cache"))
                pipeline(**arguments)
            status = "done"
        except Cancelled:
            status = "cancelled"
        except RuntimeError as problem:  # kfp's word for a failed task
            status, error = "failed", re.sub(r"\x1b\[\d+m", "", str(problem))
    _remove_half_written(run)
    return _close(run, plan, status, error, started, attempt)


def steps_of(spec: Any) -> list[Step]:
    """The named steps of a compiled pipeline, producers first."""
    from google.protobuf import json_format
    from kfp.local import graph_utils

    tasks = spec.root.dag.tasks
    executors = json_format.MessageToDict(spec.deployment_spec)["executors"]
    names: dict[str, str] = {}
    order = graph_utils.topological_sort_tasks(tasks)
    steps = []
    while order:
        task = order.pop()
        executor = executors[spec.components[tasks[task].component_ref.name].executor_label]
        container = executor.get("container", {})
        env = {entry["name"]: entry["value"] for entry in container.get("env", [])}
        if "MOWORLD_STEP" in env:
            names[task] = env["MOWORLD_STEP"]
            needs = {names[parent] for parent in tasks[task].dependent_tasks if parent in names}
            steps.append(Step(names[task], tuple(sorted(needs))))
    return steps


def _close(run: Run, plan: list[Step], status: str, error: str | None, started: float, attempt: int) -> str:
    records, told = run.steps(), status != "failed"
    for name, record in records.items():
        if record["status"] == "running":  # killed from outside (out of memory, or a signal)
            record.update(status="cancelled" if status == "cancelled" else "failed", error="the step's process was killed", exit=1)
            write_json(run.folder / "steps" / f"{name}.json", record)
        if status == "failed" and record["status"] in ("failed", "refused") and record["attempt"] == attempt:
            status, error, told = record["status"], f"{name}: {record['error']}", True
    if not told:  # the step ended before its frame began
        error = _last_error(run) or error
    steps = {}
    for index, step in enumerate(plan):
        record = records.get(step.name, {"status": "waiting"})
        keep = ("status", "seconds", "peak_bytes", "attempt", "error", "exit")
        steps[step.name] = {"index": index, "needs": list(step.needs), **{key: record[key] for key in keep if key in record}}
    ran = [s for s in records.values() if s.get("attempt") == attempt]
    seconds = elapsed(started)
    attempts = [*run.record["attempts"][:-1], {"started": started, "seconds": seconds, "status": status}]
    artifacts = {name: record["outputs"] for name, record in records.items() if "outputs" in record}
    run.update(
        status=status,
        error=error,
        exit={"done": 0, "cancelled": 1}.get(status) if status in ("done", "cancelled") else max([1, *[s.get("exit", 0) for s in ran]]),
        seconds=sum(a["seconds"] for a in attempts),
        orchestration_seconds=seconds - sum(s.get("seconds", 0.0) for s in ran),
        attempts=attempts,
        steps=steps,
        artifacts=artifacts,
    )
    return status


def _last_error(run: Run) -> str | None:
    """The last line of the log that names an exception, as Python prints one."""
    lines = (run.folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    named = re.compile(r"\s*[\w.]*(Error|Exception|Exit|Interrupt)\b.*")
    return next((line.strip() for line in reversed(lines) if named.fullmatch(line)), None)


@contextmanager
def _environment(run: Run, attempt: int) -> Iterator[None]:
    """What the steps' processes inherit; a temporary folder of their own, removed at the end."""
    temporary = tempfile.mkdtemp(prefix="moworld-")
    values = {
        "MOWORLD_RUN_FOLDER": str(run.folder.absolute()),
        "MOWORLD_HOME": str(run.folder.absolute().parents[1]),
        "MOWORLD_RUN": run.name,
        "MOWORLD_ATTEMPT": str(attempt),
        "MOWORLD_ENGINE": process_token(os.getpid()),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "TMPDIR": temporary,
    }
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _cancelled_by_signal() -> Iterator[None]:
    """SIGTERM and Ctrl-C end the running step with all its children, then raise Cancelled."""
    import psutil

    def end(signum: int, frame: Any) -> None:
        _kill(psutil.Process().children(recursive=True))  # first: leaving kfp's Popen block waits for the step
        raise Cancelled

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _reporting(run: Run, order: list[str], attempt: int, progress: Progress) -> Iterator[None]:
    """Calls progress for every change in the steps' records while the block runs.

    A record of an earlier attempt is told as kept once a later step has begun: until then the step may still run again.
    """
    ended, told = threading.Event(), dict[str, str]()

    def look() -> None:
        records = run.steps()
        here = [name for name in order if name in records]
        now = [name for name in here if records[name]["attempt"] == attempt]
        for name in here:
            record = records[name]
            kept = record["attempt"] != attempt
            if kept and not (record["status"] == "done" and now and order.index(now[-1]) > order.index(name)):
                continue
            state = f"{record['status']}{record['attempt']}"
            if told.get(name) != state:
                told[name] = state
                progress(name, {**record, "status": "kept"} if kept else record)

    def loop() -> None:
        while not ended.wait(0.3):
            look()

    thread = threading.Thread(target=loop, daemon=True, name="run-progress")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        look()


def _end_leftovers(run: Run) -> None:
    """End a step that outlived its engine; it also ends itself within a second (components.platform.steps.Watch)."""
    import psutil

    for record in run.steps().values():
        token = record.get("process", "")
        if record["status"] == "running" and token and process_token(int(token.split(":")[0])) == token:
            process = psutil.Process(int(token.split(":")[0]))
            _kill([*process.children(recursive=True), process])


def _kill(processes: list[Any]) -> None:
    import psutil

    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=5)


def _remove_half_written(run: Run) -> None:
    """Remove the folders of tasks that did not end well; kfp writes executor_output.json last."""
    for folder in (run.folder / "artifacts").glob("*/*"):
        if folder.is_dir() and not (folder / "executor_output.json").exists():
            shutil.rmtree(folder)
    for path in (run.folder / "steps").glob(".*.tmp"):
        Path(path).unlink()
