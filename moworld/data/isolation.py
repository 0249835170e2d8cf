"""Runs work on untrusted files in separate processes, so that a decoder that crashes, hangs or exhausts memory affects nothing else."""

import multiprocessing
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from moworld.errors import InputError

STALL_SECONDS = 30.0
START_SECONDS = 60.0  # a busy machine starts a process slowly, whatever the file
MEMORY_BYTES = 6 * 2**30


def run_isolated(
    work: Callable[..., Any],
    arguments: list[tuple[Any, ...]],
    workers: int = 2,
    stall: float = STALL_SECONDS,
    memory: int = MEMORY_BYTES,
    attempts: int = 1,
) -> Iterator[Any]:
    """Yields `work(*arguments, heartbeat)` for each entry, in order: its value, or an InputError. Runs at most `workers` processes.

    work:   a function of a module; it calls `heartbeat()` as it progresses, and raises InputError for invalid input
    stall:  seconds without a heartbeat after which the process is killed; memory: bytes of address space it may use
    attempts: how often an entry is tried whose process ends without an answer or hangs; the last failure is its InputError
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__, "av", "cv2"])

    def one(values: tuple[Any, ...]) -> Any:
        for left in reversed(range(attempts)):
            try:
                return once(values)
            except _Broken as broken:
                if not left:
                    times = f"{broken}, {attempts} times" if attempts > 1 else str(broken)
                    return InputError(values[0], "", times, "a readable file", "replace the file")

    def once(values: tuple[Any, ...]) -> Any:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(theirs, memory, work, values), daemon=True)
        process.start()
        theirs.close()
        try:
            return _answer(ours, process, stall)
        finally:
            if process.is_alive():
                process.kill()
            process.join()
            ours.close()

    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(one, arguments)


class _Broken(Exception):
    """A process ended without an answer, or hung."""


def _answer(ours: Connection, process: Any, stall: float) -> Any:
    """Returns the answer of a process. Raises _Broken if there is none."""
    wait = START_SECONDS
    while ours.poll(wait):
        wait = stall
        try:
            kind, value = ours.recv()
        except EOFError:
            process.join()
            found = f"a decoder that ended with signal {-process.exitcode}" if (process.exitcode or 0) < 0 else "a decoder that ended"
            raise _Broken(found) from None
        if kind != "alive":
            return value
    raise _Broken(f"no progress in {stall:g} s")


def _child(theirs: Connection, memory: int, work: Callable[..., Any], values: tuple[Any, ...]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    theirs.send(("alive", None))  # started
    try:
        answer = work(*values, lambda: theirs.send(("alive", None)))
    except InputError as error:
        answer = error
    except MemoryError:
        answer = InputError(values[0], "", f"more than {memory >> 20} MiB of memory", "a smaller video", "scale it down")
    except Exception as error:  # any failure of a decoder is a property of the file, reported in one line
        answer = InputError(values[0], "", f"{type(error).__name__}: {error}"[:200], "a readable file", "replace the file")
    theirs.send(("done", answer))
