"""Rows that machines can read and ratios with the documented meaning. No test asserts a time."""

import time

import pytest

from moworld_ops.benchmarks.measure import row, side_by_side

KEYS = ["case", "ours", "peer", "peer_name", "ratio", "unit"]


def test_a_ratio_above_one_means_that_ours_is_faster():
    timed = side_by_side("sleep", lambda: time.sleep(0.002), lambda: time.sleep(0.02), "a longer sleep", turns=3)
    assert list(timed) == KEYS and timed["unit"] == "ms" and timed["ratio"] > 1
    assert timed["ratio"] == pytest.approx(timed["peer"] / timed["ours"], rel=0.01)


def test_a_row_without_a_peer_has_the_same_keys():
    assert row("a case", 1.23456, "MB") == dict(zip(KEYS, ("a case", 1.235, None, "", None, "MB"), strict=True))
