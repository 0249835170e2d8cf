"""Rows of a benchmark, and the clocks behind them. A ratio above 1 means that ours is faster, or smaller, than the peer."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

Row = dict[str, Any]
CACHE_BYTES = 256 * 2**20  # overwritten before each run on a GPU: five times the L2 of an H100
HEAD_START = 1_000_000  # cycles that a GPU waits before a run, so that kernels are queued before it starts


def row(case: str, ours: float, unit: str, peer: float | None = None, peer_name: str = "", ratio: float | None = None) -> Row:
    """Returns {"case", "ours", "peer", "peer_name", "ratio", "unit"} with numbers rounded to three digits."""
    numbers = {name: value if value is None else round(value, 3) for name, value in (("ours", ours), ("peer", peer), ("ratio", ratio))}
    return {"case": case, "ours": numbers["ours"], "peer": numbers["peer"], "peer_name": peer_name, "ratio": numbers["ratio"], "unit": unit}


def side_by_side(case: str, ours: Callable[[], Any], peer: Callable[[], Any], peer_name: str, turns: int = 7) -> Row:
    """Returns the median milliseconds of both. They alternate, so that a busy machine slows both; each runs once before."""
    seconds: dict[Callable[[], Any], list[float]] = {ours: [], peer: []}
    for run in (ours, peer):
        run()
    for turn in range(turns):
        for run in (ours, peer) if turn % 2 else (peer, ours):
            started = time.perf_counter()
            run()
            seconds[run].append(time.perf_counter() - started)
    mine, theirs = (1000 * statistics.median(seconds[run]) for run in (ours, peer))
    return row(case, mine, "ms", theirs, peer_name, theirs / mine)


def gpu_milliseconds(run: Callable[[], Any]) -> float:
    """Returns the median of 5 to 50 runs that take about 100 milliseconds together, by the GPU's clock, each with a cold cache."""
    run()
    run()
    torch.cuda.synchronize()
    cache = torch.empty(CACHE_BYTES, dtype=torch.int8, device="cuda")
    (first,) = _times(run, cache, 1)
    return statistics.median(_times(run, cache, max(5, min(50, int(100 / max(first, 1e-3))))))


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


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Returns ||found - exact|| / ||exact||, NaN if either is not finite."""
    found, exact = found.float(), exact.float()
    return (torch.linalg.vector_norm(found - exact) / torch.linalg.vector_norm(exact)).item()
