"""Failures of the machine as errors of one line: used-up memory, and ranks that are gone. They have different fixes."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from moworld.errors import InputError

# Allocators of CUDA and Ascend raise torch.OutOfMemoryError, that of the CPU a plain RuntimeError.
NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
NEEDED = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)
FREE = re.compile(r"([\d.]+ \w+) (?:is )?free\b", re.IGNORECASE)
# NCCL raises torch.distributed's errors, gloo and HCCL plain RuntimeErrors that name them.
BACKEND = re.compile(r"gloo|hccl", re.IGNORECASE)


@contextmanager
def memory_errors(field: str) -> Iterator[None]:
    """Converts an error of the device's or the CPU's allocator to an InputError. field: what was at work."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        known = {"needed": NEEDED.search(str(error)), "free": FREE.search(str(error))}
        found = ", ".join(f"{match[1]} {name}" for name, match in known.items() if match) or "no more memory"
        fix = "set --memory, use an INT8 model or --quantize, or a shorter chunk (play --low-latency)"
        raise InputError("memory", field, found, "memory for the model and a chunk", fix) from error


@contextmanager
def peer_errors(field: str) -> Iterator[None]:
    """Converts errors of the process group, such as a timeout or a rank that is gone, to an InputError; and errors of memory to another."""
    with memory_errors(field):
        try:
            yield
        except RuntimeError as error:
            if is_out_of_memory(error) or not (isinstance(error, dist.DistError) or BACKEND.search(str(error))):
                raise
            found = str(error).splitlines()[0]
            raise InputError("ranks", field, found, "all ranks at work", "start the ranks and the session again") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an allocator of the CPU or of a device raised the error."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or bool(NO_MEMORY.search(str(error)))
