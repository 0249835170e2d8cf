"""PyTorch's threads while a world is served on a CPU. A pool of several waits by spinning: beside another pool or a busy process it is slow."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from moworld.model.rollout import ExpertsDenoiser
from moworld.model.world import WorldModel

WORTHWHILE = 1.5  # how many times as fast as one thread several must be: two gave 1.3 alone, and a third beside a busy process
REPEATS = 2


@contextmanager
def serving_threads(chunk: Callable[[], object]) -> Iterator[None]:
    """Uses one thread in the block, or as many as before if these denoise a chunk at least `WORTHWHILE` times as fast.

    OMP_NUM_THREADS, if it is set, decides instead.
    """
    before = torch.get_num_threads()
    if before > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
        alone = _least_seconds(chunk, REPEATS)
        torch.set_num_threads(before)
        chunk()  # starts the threads
        torch.set_num_threads(before if _least_seconds(chunk, 1) * WORTHWHILE <= alone else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def decodes_beside(codec: Any) -> bool:
    """Returns whether a chunk is to be decoded while the next one is denoised: not if both use several threads of the same CPU."""
    on_cpu = isinstance(codec, nn.Module) and all(tensor.device.type == "cpu" for tensor in codec.parameters())
    return torch.get_num_threads() == 1 or not on_cpu


def denoising_workers(world: WorldModel) -> int:
    """Returns how many chunks of different sessions an engine should denoise at once: the number of cores where a chunk uses one of them.

    1 on an accelerator, where PyTorch uses several threads, and for denoisers other than experts in memory: OpenVINO uses all cores for a
    chunk, and modules within a memory budget are loaded for one chunk at a time.
    """
    if world.device.type != "cpu" or torch.get_num_threads() > 1 or not isinstance(world.denoiser, ExpertsDenoiser):
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _least_seconds(run: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
