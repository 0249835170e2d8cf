"""The frame around one step: time, peak memory, outputs checked, errors turned into one line, all written to the run's folder.

A component's face calls its step inside `recorded(...)`. Where MOWORLD_RUN_FOLDER is set (the local engine sets it) a record
`steps/<name>.json` is kept there; elsewhere the frame only logs and checks.
"""

import atexit
import errno
import json
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kernels import NoKernel
from moworld.errors import InputError
from moworld.files import sha256_file, sha256_tree, write_json

log = logging.getLogger("moworld.steps")
SAMPLE_SECONDS = 0.5


class Refused(Exception):
    """The answer is no (a contract or a gate failed): one line, and the facts behind it. Exit status 1."""

    def __init__(self, line: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(line)
        self.details = details or {}


class Record:
    """Called with the step's summary (a JSON-able dict); keeps it for the record."""

    def __init__(self) -> None:
        self.summary: dict[str, Any] = {}
        self.done = False

    def __call__(self, summary: dict[str, Any] | None) -> None:
        self.summary = summary or {}


@contextmanager
def recorded(*outputs: Any, may_be_empty: tuple[Any, ...] = ()) -> Iterator[Record]:
    """Run the body as one step whose results are the artifacts `outputs` (each with .name, .path, .metadata).

    After the body: every output exists and is not empty (save those in `may_be_empty`), its metadata holds the scalars of the
    summary, and the record says `done` with seconds, peak resident bytes of this process with its children, and the SHA-256 of each output.
    On an error nothing half-written stays. InputError, NoKernel and a full disk exit with status 2, Refused with 1, each as one line.
    """
    name = os.environ.get("MOWORLD_STEP") or (Path(outputs[0].path).parent.name if outputs else "step")
    outputs, record, watch, started = (*outputs, *may_be_empty), Record(), Watch(), time.time()
    atexit.register(_leave, record)
    _write(name, {"status": "running", "process": process_token(os.getpid()), "started": started})
    watch.start()
    try:
        yield record
        for output in may_be_empty:
            Path(output.path).mkdir(parents=True, exist_ok=True)
        hashes = {o.name: {"path": o.path, "sha256": _checked_hash(name, o.path, o in may_be_empty)} for o in outputs}
    except (Exception, SystemExit) as error:
        status, line = explain(error)
        for output in outputs:
            shutil.rmtree(output.path, ignore_errors=True)
            Path(output.path).unlink(missing_ok=True)
        details = error.details if isinstance(error, Refused) else {}
        _write(name, {"status": "refused" if isinstance(error, Refused) else "failed", "error": line, "exit": status, "started": started,
                      "seconds": time.time() - started, "peak_bytes": watch.stop(), "summary": details})  # fmt: skip
        if isinstance(error, InputError | NoKernel | Refused) or is_disk_full(error):
            print(f"{name}: {line}", flush=True)
            sys.exit(status)
        raise
    for output in outputs:
        output.metadata.update({key: value for key, value in record.summary.items() if isinstance(value, str | int | float | bool)})
    seconds, peak = time.time() - started, watch.stop()
    log.info("%s: done in %.1f s, peak %.0f MB", name, seconds, peak / 1e6)
    facts = {"seconds": seconds, "peak_bytes": peak, "outputs": hashes, "summary": record.summary}
    _write(name, {"status": "done", "started": started, **facts})
    record.done = True


def _leave(record: Record) -> None:
    """Skip the interpreter's teardown after a step that went well: with torch loaded it takes a second, and nothing is left to save.

    Registered before the step's own imports, so it runs after their exit handlers.
    """
    if record.done and getattr(sys, "last_value", None) is None and _is_task():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _is_task() -> bool:
    """Whether this process is one that kfp started for one task."""
    return "kfp.dsl.executor_main" in " ".join(sys.orig_argv)


def explain(error: BaseException) -> tuple[int, str]:
    """Exit status and one line for an error."""
    if isinstance(error, InputError | NoKernel):
        return 2, str(error)
    if is_disk_full(error):
        path = getattr(error, "filename", None) or os.getcwd()
        free = shutil.disk_usage(Path(path).anchor or "/").free
        return 2, str(InputError(path, "", f"a full disk ({free} bytes free)", "room to write", "free some space, then resume the run"))
    return 1, " ".join(f"{'' if isinstance(error, Refused) else type(error).__name__ + ': '}{error}".split())


def is_disk_full(error: BaseException | None) -> bool:
    """True where the error, or what caused it, is 'no space left' or 'quota exceeded'."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


class Watch:
    """Samples the resident bytes of this process and its children, and ends them all when the engine that started them is gone."""

    def __init__(self) -> None:
        self.peak = 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._loop, daemon=True, name="step-watch")

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> int:
        """Peak resident bytes seen; pages shared between processes count once for each."""
        import resource

        self.ended.set()
        return max(self.peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

    def _loop(self) -> None:
        import psutil

        me, engine = psutil.Process(), os.environ.get("MOWORLD_ENGINE")
        while not self.ended.wait(SAMPLE_SECONDS):
            family = [me, *me.children(recursive=True)]
            self.peak = max(self.peak, sum(_if_alive(lambda p=p: p.memory_info().rss) or 0 for p in family))  # type: ignore[misc]
            if engine and process_token(int(engine.split(":")[0])) != engine:  # killed outright: an orphan must not write on
                for process in reversed(family[1:]):
                    _if_alive(process.kill)
                os._exit(137)


def process_token(pid: int) -> str:
    """A name for a running process that its pid's next owner will not share; "" when there is none."""
    import psutil

    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{pid}:{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return ""


def _if_alive(call: Callable[[], Any]) -> Any:
    """The call's value, or None where its process has ended meanwhile."""
    import psutil

    try:
        return call()
    except psutil.Error:
        return None


def _checked_hash(name: str, path: str, may_be_empty: bool) -> str:
    """SHA-256 of an output. Raises RuntimeError where the step left it unwritten or empty (kfp itself lets that pass)."""
    target = Path(path)
    if target.is_file() and target.stat().st_size:
        return sha256_file(target)
    if not (target.is_dir() and (may_be_empty or any(target.iterdir()))):
        raise RuntimeError(f"step {name} ended without writing its output {target}")
    return sha256_tree(target)


def _write(name: str, record: dict[str, Any]) -> None:
    folder = os.environ.get("MOWORLD_RUN_FOLDER")
    if folder:
        record = {"name": name, "attempt": int(os.environ.get("MOWORLD_ATTEMPT", "1")), **record}
        write_json(Path(folder) / "steps" / f"{name}.json", json.loads(json.dumps(record, default=str)))
