"""Scores of navigation against values computed by hand, and published properties of the intervals."""

import numpy as np
import pytest

from moworld.applications.navigation.metrics import (
    compare,
    mean_interval,
    path_length,
    progress_by_length,
    share_interval,
    success_by_length,
    warping_similarity,
)


def line(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, dtype=np.float64)


def test_path_length_and_success_weighted_by_it():
    assert path_length(line((0, 0), (3, 4), (3, 10))) == 11
    assert success_by_length(True, 8, 10) == 0.8 and success_by_length(False, 8, 10) == 0
    assert success_by_length(True, 8, 5) == 1  # stopped within the success distance: never more than 1
    assert progress_by_length(100, 25, 100, 150) == pytest.approx(0.75 * 100 / 150)
    assert progress_by_length(100, 130, 100, 150) == 0 and progress_by_length(100, np.inf, 100, 150) == 0


def test_warping_similarity_of_paths_computed_by_hand():
    reference = line((0, 0), (1, 0), (2, 0))
    assert warping_similarity(reference, reference, 3) == 1
    # aside by 1: every point is 1 from its partner, and no other alignment is cheaper: DTW = 3
    assert warping_similarity(reference + np.array([0, 1]), reference, 3) == pytest.approx(np.exp(-3 / (3 * 3)))
    # staying at the start: distances 0 + 1 + 2
    assert warping_similarity(line((0, 0)), reference, 3) == pytest.approx(np.exp(-3 / 9))
    # waiting costs nothing, going back and forth does: points 0 1 0 1 2 against 0 1 2 align as 0-0 1-1 0-1 1-1 2-2
    assert warping_similarity(line((0, 0), (0, 0), (1, 0), (2, 0)), reference, 3) == 1
    assert warping_similarity(line((0, 0), (1, 0), (0, 0), (1, 0), (2, 0)), reference, 3) == pytest.approx(np.exp(-1 / 9))


def test_wilson_interval_of_known_shares():
    found = share_interval([True] * 5 + [False] * 5)
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.2366, 0.7634), abs=1e-4)
    none = share_interval([False] * 20)
    assert none.low == 0 and none.high == pytest.approx(0.1611, abs=1e-4)


def test_bootstrap_interval_covers_the_mean_and_is_deterministic():
    values = np.random.default_rng(0).normal(1, 2, 400)
    found = mean_interval(values.tolist())
    assert found == mean_interval(values.tolist()) and found.low < values.mean() < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)
    assert mean_interval([0.5] * 4).low == mean_interval([0.5] * 4).high == 0.5


def test_comparison_uses_only_tasks_that_one_agent_solved():
    first = [True] * 8 + [False] * 2 + [True] * 5
    second = [False] * 8 + [True] * 0 + [False] * 2 + [True] * 5
    found = compare(first, second, [1.0] * 15, [0.5] * 15)
    assert (found.only_first, found.only_second) == (8, 0) and found.p_value == pytest.approx(2 / 2**8) and found.significant
    assert found.difference.low == found.difference.high == 0.5
    same = compare(first, first, [1.0] * 15, [1.0] * 15)
    assert same.p_value == 1 and not same.significant
    with pytest.raises(ValueError, match="same tasks"):
        compare(first, second[1:], [1.0] * 15, [0.5] * 15)
