"""`moworld bench environments`: chunks a second of one Gymnasium environment, and of several that share the model.

An engine denoises one chunk at a time with all threads that PyTorch has, so on few cores several environments gain only what one leaves
idle between its steps: decoding, rewards, copies.
"""

import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from moworld.inference.environment import ID
from moworld_ops.benchmarks.measure import Row, row

NAME = f"moworld.inference.environment:{ID}"
COUNTS = (1, 2, 4)
MODES = ("vector_entry_point", "async")


def bench_environments(model: Path, steps: int = 6) -> list[Row]:
    """Returns rows of chunks a second for each mode and number of environments, beside one environment (`peer`).

    steps: of every environment, after one that is not timed
    """
    alone = _measure(gymnasium.make_vec(NAME, num_envs=1, model=model, max_chunks=None), steps)
    rows = [row("1 environment", alone, "chunks/s")]
    for mode in MODES:
        for count in COUNTS[1:]:
            found = _measure(gymnasium.make_vec(NAME, num_envs=count, vectorization_mode=mode, model=model, max_chunks=None), steps)
            rows.append(row(f"{count} environments, {mode}", found, "chunks/s", alone, "1 environment", found / alone))
    return rows


def _measure(vector: Any, steps: int) -> float:
    """Returns the chunks a second of all environments of a vector, which is closed."""
    actions = np.tile([1, 0, 1, 0], (vector.num_envs, 1))
    try:
        vector.reset(seed=0)
        vector.step(actions)
        started = time.perf_counter()
        for _ in range(steps):
            vector.step(actions)
        return float(vector.num_envs * steps / (time.perf_counter() - started))
    finally:
        vector.close()
