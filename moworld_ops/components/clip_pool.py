"""A function of every clip, in as many processes as there are CPUs. A clip that ends its process is tried twice and then given up."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from moworld.cpus import available_cpus
from moworld.data.clips import read_manifest
from moworld.disk import is_disk_full
from moworld.errors import InputError


@dataclass(frozen=True)
class Failed:
    """A clip that could not be processed, and why its last attempt failed."""

    reason: str


def map_clips(work: Callable[..., Any], clips: str, scratch: Path, settings: Any) -> list[Any]:
    """Returns `work(clip, scratch, settings)` for every clip of a folder, or `Failed` for one that failed twice.

    Each available CPU has a process of one thread. `scratch` holds a copy of the folder. A clip whose process ended is tried
    again alone. Raises the InputError of `work`.
    """
    return map_twice(work, [(clip, scratch, settings) for clip in read_manifest(clips)], work.__module__.split(".")[-2])


def map_twice(work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], title: str) -> list[Any]:
    """Returns `work(*arguments)` for each entry, in order, or `Failed` for one that failed twice (see `map_clips`)."""
    results: dict[int, Any] = {}
    waiting, suspects = list(range(len(arguments)))[::-1], dict[int, int]()
    workers = min(available_cpus(), len(arguments) or 1)
    with tqdm(total=len(arguments), desc=title, unit="clip", disable=None) as bar:
        while waiting:
            suspects |= _until_broken(work, arguments, waiting, results, workers, bar.update)
        for index, attempts in suspects.items():
            results[index] = _alone(work, arguments[index], attempts)
            bar.update()
    return [results[index] for index in range(len(arguments))]


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,))


def _until_broken(
    work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], waiting: list[int], results: dict[int, Any], workers: int, done: Callable[[], Any]
) -> dict[int, int]:
    """Takes entries from the end of `waiting` until none is left or a process has ended; returns the attempts left of those that may have failed."""
    suspects, running = dict[int, int](), dict[Future[Any], int]()
    with _pool(workers) as pool:
        try:
            while waiting or running:
                while waiting and len(running) <= workers:
                    future = pool.submit(work, *arguments[waiting[-1]])  # raises if the pool broke: then the entry is still waiting
                    running[future] = waiting.pop()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    index = running[future]
                    try:
                        results[index] = future.result()
                        done()
                    except Exception as error:
                        if isinstance(error, BrokenProcessPool):
                            raise
                        _raise_if_final(error)
                        suspects[index] = 1
                    del running[future]
        except BrokenProcessPool:  # one of the entries at work is the reason: each gets its two attempts alone
            return suspects | dict.fromkeys(running.values(), 2)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return suspects


def _alone(work: Callable[..., Any], arguments: tuple[Any, ...], attempts: int) -> Any:
    """Returns the value of an entry in a process of its own, or `Failed` with the reason of its last attempt."""
    failed = Failed("")
    for _ in range(attempts):
        with _pool(1) as pool:
            try:
                return pool.submit(work, *arguments).result()
            except BrokenProcessPool:
                failed = Failed("the process that read it ended")
            except Exception as error:  # whatever a clip does to the libraries that measure it is a property of the clip
                _raise_if_final(error)
                failed = Failed(" ".join(f"{type(error).__name__}: {error}".split())[:200])
    return failed


def _raise_if_final(error: Exception) -> None:
    """Raises an error that another clip would have, too."""
    if isinstance(error, InputError) or is_disk_full(error):
        raise error
