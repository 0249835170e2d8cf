"""Frame around one step: measures time and peak memory, checks outputs, turns errors into one line, and records all of it.

A component calls its step inside `recorded(...)`. In a local run the record is written to `steps/<name>.json` in the run's folder;
otherwise the frame only logs and checks.
"""

import ctypes
import json
import logging
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from moworld.cpus import limit_threads
from moworld.disk import full_directory, is_disk_full
from moworld.errors import InputError, IntegrityError
from moworld.files import sha256_file, sha256_tree, write_json
from moworld.kernels import NoKernel
from moworld_ops.components.platform import attempts, store
from moworld_ops.components.platform.context import PARTITION, StepContext, context

log = logging.getLogger("moworld.steps")
SAMPLE_SECONDS = 0.5
PR_SET_CHILD_SUBREAPER = 36  # of prctl(2)


class Refused(Exception):
    """A contract or a gate failed: one line, and the facts in `details`. Exit status 1."""

    def __init__(self, line: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(line)
        self.details = details or {}


@contextmanager
def recorded(*outputs: Any, may_be_empty: tuple[Any, ...] = (), partition: str = "") -> Iterator[Callable[[dict[str, Any]], None]]:
    """Runs the body as one step that writes the artifacts `outputs` (each with .name, .path, .metadata).

    The body receives a function that records the step's summary, a dict that JSON can represent.
    partition: number of the partition, for a step of a loop; it becomes part of the step's name

    After the body, every output must exist and, except those in `may_be_empty`, not be empty. Each gets the summary's scalars as
    metadata. The record says `done` with seconds, peak resident bytes of this process and its children, and each output's SHA-256.
    Libraries that the body imports start no more threads than there are CPUs (`moworld.cpus`).
    After an error the outputs are removed. InputError, NoKernel and a full disk exit with status 2, Refused with 1, each as one line.
    On a cluster any other error restarts the process while attempts are left (attempts.py).
    """
    if partition:
        os.environ[PARTITION] = partition
    place = context()
    name = place.step or (Path(outputs[0].path).parent.name if outputs else "step")
    if (ended := attempts.final_failure(place)) is not None:
        print(f"{name}: not run again: {ended[1]}", flush=True)
        sys.exit(ended[0])
    limit_threads()
    outputs, monitor, started = (*outputs, *may_be_empty), ProcessMonitor(place.engine), time.time()
    summary: dict[str, Any] = {}
    _write(place, name, {"status": "running", "process": process_token(os.getpid()), "started": started})
    monitor.start()
    try:
        yield summary.update
        for output in may_be_empty:
            Path(output.path).mkdir(parents=True, exist_ok=True)
        hashes = {o.name: {"path": o.path, "sha256": store.keep(o.path) or _output_hash(name, o.path, o in may_be_empty)} for o in outputs}
    except BaseException as error:  # torch's CheckpointException is no Exception
        if isinstance(error, KeyboardInterrupt | GeneratorExit):
            raise
        monitor.end_others()
        exit_status, line = _record_failure(place, name, error, outputs, started, monitor.stop())
        deterministic = isinstance(error, InputError | NoKernel | Refused) or is_disk_full(error)
        if not isinstance(error, SystemExit) and (wait := attempts.seconds_to_retry(place, exit_status, line, not deterministic)) is not None:
            traceback.print_exc()
            print(f"{name}: {line}: next attempt in {wait:.0f} s", flush=True)
            attempts.restart(place, wait)
        if deterministic:
            print(f"{name}: {line}", flush=True)
            sys.exit(exit_status)
        raise
    for output in outputs:
        output.metadata.update({key: value for key, value in summary.items() if isinstance(value, str | int | float | bool)})
    seconds, peak = time.time() - started, monitor.stop()
    log.info("%s: done in %.1f s, peak %.0f MB", name, seconds, peak / 1e6)
    facts = {"seconds": seconds, "peak_bytes": peak, "outputs": hashes, "summary": summary}
    _write(place, name, {"status": "done", "started": started, **facts})
    attempts.forget(place)


def _record_failure(
    place: StepContext, name: str, error: BaseException, outputs: Sequence[Any], started: float, peak_bytes: int
) -> tuple[int, str]:
    """Removes the outputs of a failed step and writes its record. Returns the exit status and the error in one line."""
    written = [str(Path(output.path).parent) for output in outputs]
    exit_status, line = explain(error, [*written, *([place.folder] if place.folder else [])])
    for output in outputs:
        store.discard(output.path)
        shutil.rmtree(output.path, ignore_errors=True)
        Path(output.path).unlink(missing_ok=True)
    status, details = ("refused", error.details) if isinstance(error, Refused) else ("failed", {})
    facts = {"status": status, "error": line, "exit": exit_status, "started": started, "seconds": time.time() - started}
    try:
        _write(place, name, {**facts, "peak_bytes": peak_bytes, "summary": details})
    except OSError as problem:  # the run's disk is full, too
        print(f"{name}: no record of the failure: {problem}", flush=True)
    return exit_status, line


def explain(error: BaseException, places: Sequence[str | Path] = ()) -> tuple[int, str]:
    """Returns the exit status and one line for an error. `places`: directories that were written, in case that a disk is full."""
    if isinstance(error, InputError | NoKernel):
        return (1 if isinstance(error, IntegrityError) else 2), str(error)
    if is_disk_full(error):
        folder, free = full_directory(error, places)
        return 2, str(InputError(folder, "", f"a full disk ({free} bytes free)", "free space", "free some space, then resume the run"))
    return 1, " ".join(f"{'' if isinstance(error, Refused) else type(error).__name__ + ': '}{error}".split())


class ProcessMonitor:
    """Samples the resident bytes of this process and its children; kills them all if the process `engine` has ended.

    engine: token of the local engine that started this process for one step; "" if the process may have work besides the step
    """

    def __init__(self, engine: str) -> None:
        self.peak, self.engine = 0, engine
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._loop, daemon=True, name="step-monitor")

    def start(self) -> None:
        self.thread.start()
        if self.engine and sys.platform == "linux":  # processes whose parent ends become children of this one, so that `end_others` finds them
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def end_others(self) -> None:
        """Kills what the step started: an orphan that holds the step's output open would make the engine wait for that output's end."""
        import psutil

        for process in psutil.Process().children(recursive=True) if self.engine else []:
            with suppress(psutil.Error):  # it has ended
                process.kill()

    def stop(self) -> int:
        """Returns the peak of resident bytes; pages shared between processes count once per process."""
        import resource

        self.ended.set()
        return max(self.peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

    def _loop(self) -> None:
        import psutil

        me, engine = psutil.Process(), self.engine
        while not self.ended.wait(SAMPLE_SECONDS):
            family = [me, *me.children(recursive=True)]
            resident = 0
            for process in family:
                with suppress(psutil.Error):  # it has ended
                    resident += process.memory_info().rss
            self.peak = max(self.peak, resident)
            if engine and process_token(int(engine.split(":")[0])) != engine:  # an orphan must not write to the run any more
                for process in reversed(family):  # this process last
                    with suppress(psutil.Error):
                        process.kill()


def process_token(pid: int) -> str:
    """Returns an identifier of a running process that a later process with the same pid does not share; "" if there is none."""
    import psutil

    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{pid}:{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return ""


def _output_hash(name: str, path: str, may_be_empty: bool) -> str:
    """Returns the SHA-256 of an output. Raises RuntimeError if it is missing or empty, which kfp itself accepts."""
    target = Path(path)
    if target.is_file() and target.stat().st_size:
        return sha256_file(target)
    if not (target.is_dir() and (may_be_empty or any(target.iterdir()))):
        raise RuntimeError(f"step {name} ended without writing its output {target}")
    return sha256_tree(target)


def _write(place: StepContext, name: str, record: dict[str, Any]) -> None:
    if place.folder:
        record = {"name": name, "attempt": place.attempt, **record}
        write_json(place.folder / "steps" / f"{name}.json", json.loads(json.dumps(record, default=str)))
