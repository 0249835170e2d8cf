"""Scores of navigation and their uncertainty: SPL, SoftSPL, nDTW, intervals, and tests of paired tasks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RESAMPLES = 10_000
LEVEL = 0.95


def path_length(path: Array) -> float:
    """Returns the length of a path (T, 2)."""
    return float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())


def success_by_length(success: bool, shortest: float, walked: float) -> float:
    """Returns a task's part of SPL (Anderson et al. 2018): shortest / max(walked, shortest) at success, else 0."""
    return shortest / max(walked, shortest) if success else 0.0


def progress_by_length(first: float, last: float, shortest: float, walked: float) -> float:
    """Returns a task's part of SoftSPL (Datta et al. 2020): the share of the first distance that was covered, in place of success."""
    return max(0.0, 1 - last / first) * shortest / max(walked, shortest)


def warping_similarity(path: Array, reference: Array, success_units: float) -> float:
    """Returns nDTW (Ilharco et al. 2019): exp(-DTW / (length of the reference in points * success_units)), 1 for equal paths.

    path (T, 2) and reference (R, 2) are points at equal steps of time or space.
    """
    apart = np.linalg.norm(path[:, None] - reference[None], axis=-1)
    cost = np.full((len(path) + 1, len(reference) + 1), np.inf)
    cost[0, 0] = 0.0
    for row in range(len(path)):
        for column in range(len(reference)):
            cost[row + 1, column + 1] = apart[row, column] + min(cost[row, column], cost[row, column + 1], cost[row + 1, column])
    return float(np.exp(-cost[-1, -1] / (len(reference) * success_units)))


@dataclass(frozen=True)
class Interval:
    """A mean with an interval of LEVEL."""

    mean: float
    low: float
    high: float


def share_interval(successes: Sequence[bool]) -> Interval:
    """Returns a share with Wilson's interval, which holds near 0 and 1 and for few tasks."""
    from scipy.stats import binomtest

    found = binomtest(sum(successes), len(successes)).proportion_ci(LEVEL, method="wilson")
    return Interval(sum(successes) / len(successes), float(found.low), float(found.high))


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """Returns a mean with the percentile interval of the bootstrap over tasks."""
    numbers = np.asarray(values, dtype=np.float64)
    low, high = np.quantile(_resampled(numbers, seed), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(float(numbers.mean()), float(low), float(high))


@dataclass(frozen=True)
class Comparison:
    """Two agents on the same tasks: tasks that only one of them solved, McNemar's exact p value, and the difference of a measure."""

    only_first: int
    only_second: int
    p_value: float
    difference: Interval

    @property
    def significant(self) -> bool:
        """Whether the shares of solved tasks differ at LEVEL."""
        return self.p_value < 1 - LEVEL


def compare(first: Sequence[bool], second: Sequence[bool], first_values: Sequence[float], second_values: Sequence[float]) -> Comparison:
    """Compares two agents on the same tasks in the same order: solved or not, and a measure whose difference is bootstrapped in pairs.

    Raises ValueError for different numbers of tasks.
    """
    from scipy.stats import binomtest

    if len({len(first), len(second), len(first_values), len(second_values)}) != 1:
        raise ValueError("paired agents need the same tasks")
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    either = only_first + only_second
    p_value = float(binomtest(only_first, either).pvalue) if either else 1.0
    return Comparison(only_first, only_second, p_value, mean_interval(np.subtract(first_values, second_values).tolist()))


def _resampled(values: Array, seed: int) -> Array:
    """Returns RESAMPLES means of values drawn with replacement."""
    rng = np.random.default_rng(seed)
    return values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
