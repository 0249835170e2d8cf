"""The local engine: kfp.local with one process per step. `--resume` relies on kfp's own cache, one per run.

kfp writes a step's cache entry after its outputs, so a killed run continues after its last finished step.
"""

import builtins
import json
import logging
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

from moworld.files import write_json
from moworld_ops.components.platform.context import CONTEXT, StepContext, partition_suffix
from moworld_ops.components.platform.home import environment
from moworld_ops.components.platform.source import ROOT
from moworld_ops.components.platform.steps import process_token
from moworld_ops.pipelines.runs import Run

Progress = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Step:
    """A task of a compiled pipeline, and the steps whose outputs it reads."""

    name: str
    needs: tuple[str, ...]


class Cancelled(BaseException):
    """The run received a signal to end; `status` is its exit status, 128 plus the signal."""

    def __init__(self, status: int) -> None:
        self.status = status


def execute(pipeline: Any, arguments: dict[str, str], run: Run, progress: Progress, begun: Callable[[], None] = lambda: None) -> str:
    """Runs a pipeline, keeps run.json up to date, and returns the run's status: done, refused, failed or cancelled.

    pipeline:  a compiled kfp pipeline whose tasks have a context (`platform.context`)
    arguments: its parameters
    progress:  called with name and record of a step at its start, at its end, and if it is kept from an earlier attempt
    begun:     called once when run.json has the new attempt
    The caller holds the run's lock.
    """
    from kfp import local

    plan, started = steps_of(pipeline.pipeline_spec), time.time()
    earlier = [{**one, "status": "killed"} if one["status"] == "running" else one for one in run.record.get("attempts", [])]
    attempt = len(earlier) + 1
    now = {"started": started, "seconds": 0.0, "status": "running"}
    run.update(status="running", error=None, engine_process=process_token(os.getpid()), attempts=[*earlier, now])
    begun()
    _end_orphans(run)
    _remove_unfinished(run)
    status, error, exit_status = "done", None, 0
    with (
        _step_environment(run),
        _cancelled_by_signal(),
        open(run.folder / "log.txt", "a", encoding="utf-8", buffering=1) as log,
        _output_restored(),
        _reporting(run, [step.name for step in plan], attempt, progress),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # kfp warns of settings without effect in local runs
        try:
            with redirect_stdout(log):
                root = str(run.folder / "artifacts")
                local.init(local.SubprocessRunner(use_venv=False), root, enable_caching=True, cache_root=str(run.folder / "cache"))
                pipeline(**arguments)
        except Cancelled as signalled:
            status, exit_status = "cancelled", signalled.status
        except RuntimeError as problem:  # raised by kfp for a failed task
            status, error = "failed", re.sub(r"\x1b\[\d+m", "", str(problem))
    _remove_unfinished(run)
    return _close(run, plan, status, error, exit_status, started, attempt)


def steps_of(spec: Any) -> list[Step]:
    """Returns the named steps of a compiled pipeline, producers first; those of a loop once for each of its items."""
    from google.protobuf import json_format

    executors = json_format.MessageToDict(spec.deployment_spec)["executors"]
    return _steps_of(spec, spec.root.dag.tasks, executors, "", ())


def _steps_of(spec: Any, tasks: Any, executors: dict[str, Any], suffix: str, outer: tuple[str, ...]) -> list[Step]:
    """Returns the steps of a graph. suffix: of their names, in a loop; outer: steps that the whole graph needs"""
    from kfp.local import graph_utils

    names: dict[str, tuple[str, ...]] = {}
    steps = list[Step]()
    for task in reversed(graph_utils.topological_sort_tasks(tasks)):
        component = spec.components[tasks[task].component_ref.name]
        needs = tuple(sorted({name for parent in tasks[task].dependent_tasks for name in names.get(parent, ())})) or outer
        inner = list[Step]()
        if component.HasField("dag"):
            items = tasks[task].parameter_iterator.items.raw
            for item in json.loads(items) if items else [""]:
                inner += _steps_of(spec, component.dag.tasks, executors, suffix + partition_suffix(item), needs)
        else:
            env = {entry["name"]: entry["value"] for entry in executors[component.executor_label].get("container", {}).get("env", [])}
            if CONTEXT in env:
                inner.append(Step(StepContext.model_validate_json(env[CONTEXT]).step + suffix, needs))
        if inner:
            names[task] = tuple(step.name for step in inner)
            steps += inner
    return steps


def _close(run: Run, plan: list[Step], status: str, error: str | None, exit_status: int, started: float, attempt: int) -> str:
    """Writes the outcome to run.json and returns the status."""
    records, explained = run.steps(), status != "failed"
    for name, record in records.items():
        if record["status"] == "running":  # killed: out of memory, or by a signal
            record.update(status="cancelled" if status == "cancelled" else "failed", error="the step's process was killed", exit=1)
            write_json(run.folder / "steps" / f"{name}.json", record)
        if status == "failed" and record["status"] in ("failed", "refused") and record["attempt"] == attempt:
            status, error, explained = record["status"], f"{name}: {record['error']}", True
    if not explained:  # the step ended before it kept a record
        error = _last_error(run) or error
    steps = {}
    for index, step in enumerate(plan):
        record = records.get(step.name, {"status": "waiting"})
        kept = ("status", "seconds", "peak_bytes", "attempt", "error", "exit")
        steps[step.name] = {"index": index, "needs": list(step.needs), **{key: record[key] for key in kept if key in record}}
    ran = [record for record in records.values() if record.get("attempt") == attempt]
    seconds = time.time() - started
    attempts = [*run.record["attempts"][:-1], {"started": started, "seconds": seconds, "status": status}]
    run.update(
        status=status,
        error=error,
        exit=exit_status if status in ("done", "cancelled") else max([1, *[record.get("exit", 0) for record in ran]]),
        seconds=sum(one["seconds"] for one in attempts),
        orchestration_seconds=max(0.0, seconds - sum(record.get("seconds", 0.0) for record in ran)),  # partitions overlap
        attempts=attempts,
        steps=steps,
        artifacts={name: record["outputs"] for name, record in records.items() if "outputs" in record},
    )
    return status


def _last_error(run: Run) -> str | None:
    """Returns the last line of the log that names an exception."""
    lines = (run.folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    named = re.compile(r"\s*[\w.]*(Error|Exception|Exit|Interrupt)\b.*")
    return next((line.strip() for line in reversed(lines) if named.fullmatch(line)), None)


@contextmanager
def _step_environment(run: Run) -> Iterator[None]:
    """Sets the environment of the steps' processes, with a temporary folder that is removed at the end."""
    with (
        tempfile.TemporaryDirectory(prefix="moworld-", ignore_cleanup_errors=True) as temporary,
        environment(
            MOWORLD_HOME=str(run.folder.absolute().parents[1]),
            MOWORLD_RUN=run.name,
            MLFLOW_DISABLE_TELEMETRY="true",
            DO_NOT_TRACK="true",
            PYTHONPATH=os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            TMPDIR=temporary,
        ),
    ):
        yield


@contextmanager
def _output_restored() -> Iterator[None]:
    """Restores `print` and the root logger's handlers: kfp replaces them around each task, and tasks of a loop overlap."""
    printing, root = builtins.print, logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        builtins.print = printing
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def _cancelled_by_signal() -> Iterator[None]:
    """On SIGTERM and SIGINT ends the running steps with their children, then raises Cancelled."""
    import psutil

    left = threading.Event()

    def keep_ending() -> None:  # kfp starts the iterations of a loop that still wait, before it gives up
        while not left.wait(0.1):
            _kill(psutil.Process().children(recursive=True), wait_seconds=0)  # not waiting: the next one may start meanwhile

    def end(signum: int, frame: Any) -> None:
        threading.Thread(target=keep_ending, daemon=True, name="run-cancel").start()
        _kill(psutil.Process().children(recursive=True))  # before raising: leaving kfp's Popen block waits for the step
        raise Cancelled(128 + signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        left.set()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _reporting(run: Run, order: list[str], attempt: int, progress: Progress) -> Iterator[None]:
    """Calls progress for every change in the steps' records while the block runs.

    A record of an earlier attempt is reported as kept when a later step has begun: until then the step may run again.
    """
    ended, reported = threading.Event(), dict[str, str]()

    def look() -> None:
        records = run.steps()
        present = [name for name in order if name in records]
        now = [name for name in present if records[name]["attempt"] == attempt]
        for name in present:
            record = records[name]
            kept = record["attempt"] != attempt
            if kept and not (record["status"] == "done" and now and order.index(now[-1]) > order.index(name)):
                continue
            state = f"{record['status']}{record['attempt']}"
            if reported.get(name) != state:
                reported[name] = state
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


def _end_orphans(run: Run) -> None:
    """Kills a step that outlived its engine; it also ends itself within a second (moworld_ops.components.platform.steps.Watch)."""
    import psutil

    for record in run.steps().values():
        token = record.get("process", "")
        if record["status"] == "running" and token and process_token(int(token.split(":")[0])) == token:
            process = psutil.Process(int(token.split(":")[0]))
            _kill([*process.children(recursive=True), process])


def _kill(processes: list[Any], wait_seconds: float = 5) -> None:
    import psutil

    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=wait_seconds)


def _remove_unfinished(run: Run) -> None:
    """Removes the folders of unfinished tasks; kfp writes executor_output.json last."""
    attempts = (run.folder / "artifacts").glob("*")
    for folder in (folder for attempt in attempts if attempt.is_dir() for folder in _task_folders(attempt)):
        if not (folder / "executor_output.json").exists():
            shutil.rmtree(folder)
    for path in (run.folder / "steps").glob(".*.tmp"):
        path.unlink()


def _task_folders(folder: Path) -> Iterator[Path]:
    """Yields the folders of tasks in that of a graph; each iteration of a loop has a folder with those of its tasks."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and re.search(r"-iteration-\d+$", path.name):
            yield from _task_folders(path)
        elif path.is_dir():
            yield path
