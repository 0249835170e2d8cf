"""`moworld bench environments`: chunks a second of one Gymnasium environment, and of several that share the model.

An engine denoises one chunk at a time with all threads that PyTorch has, so on few cores several environments gain only what one leaves
idle between its steps: decoding, rewards, copies.
"""

import statistics
import time
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from moworld.inference.environment import ID
from moworld_ops.benchmarks.measure import Row, row

NAME = f"moworld.inference.environment:{ID}"
COUNTS = (2, 4)
MODES = ("vector_entry_point", "async")


def bench_environments(model: Path, steps: int = 6) -> list[Row]:
    """Returns rows of chunks a second for each mode and number of environments, beside one environment (`peer`).

    steps: of every environment, after one that is not timed. The vectors take turns, so that a busy machine slows all; medians count
    """
    with ExitStack() as stack:
        vectors: dict[str, Any] = {}
        for mode, count in (("vector_entry_point", 1), *product(MODES, COUNTS)):
            vector = gymnasium.make_vec(NAME, num_envs=count, vectorization_mode=mode, model=model, max_chunks=None)
            stack.callback(vector.close)
            vectors["1 environment" if count == 1 else f"{count} environments, {mode}"] = vector
        rates: dict[str, list[float]] = {case: [] for case in vectors}
        for vector in vectors.values():
            vector.reset(seed=0)
        for turn in range(steps + 1):
            for case, vector in vectors.items():
                rate = _step(vector)
                if turn:
                    rates[case].append(rate)
    found = {case: statistics.median(values) for case, values in rates.items()}
    alone = found.pop("1 environment")
    return [row("1 environment", alone, "chunks/s"), *(row(case, rate, "chunks/s", alone, "1 environment", rate / alone) for case, rate in found.items())]


def _step(vector: Any) -> float:
    """Returns the chunks a second of one step of all environments of a vector."""
    started = time.perf_counter()
    vector.step(np.tile([1, 0, 1, 0], (vector.num_envs, 1)))
    return float(vector.num_envs / (time.perf_counter() - started))
