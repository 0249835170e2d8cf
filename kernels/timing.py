"""Time on a GPU: the median of runs that start with a cold cache, by the device's own clock."""

import statistics
from collections.abc import Callable
from typing import Any

import torch

CACHE_BYTES = 256 * 2**20  # overwritten before each run: five times the L2 of an H100
HEAD_START = 1_000_000  # cycles that the device waits before a run, so that what launches it is ahead of it


def milliseconds(run: Callable[[], Any], budget: float = 100.0, most: int = 50) -> float:
    """The median of at least five runs, of at most `most`, that take about `budget` milliseconds together."""
    run()
    run()
    torch.cuda.synchronize()
    cache = torch.empty(CACHE_BYTES, dtype=torch.int8, device="cuda")
    (first,) = _times(run, cache, 1)
    return statistics.median(_times(run, cache, max(5, min(most, int(budget / max(first, 1e-3))))))


def _times(run: Callable[[], Any], cache: torch.Tensor, count: int) -> list[float]:
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
    for started, ended in pairs:
        cache.zero_()
        torch.cuda._sleep(HEAD_START)  # type: ignore[no-untyped-call]
        started.record()
        run()
        ended.record()
    torch.cuda.synchronize()
    return [started.elapsed_time(ended) for started, ended in pairs]


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """||found - wanted|| / ||wanted||, not a number where either is not finite."""
    found, wanted = found.float(), wanted.float()
    return (torch.linalg.vector_norm(found - wanted) / torch.linalg.vector_norm(wanted)).item()
