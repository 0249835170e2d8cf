"""Summaries of loss curves."""

import pytest

from moworld_ops.components.losses import tail_mean


def test_the_tail_is_the_last_fifth_and_at_least_one_step() -> None:
    curve = [[step, float(step)] for step in range(10)]
    assert tail_mean(curve) == 8.5
    assert tail_mean(curve[:3]) == 2.0
    assert tail_mean(curve, tail=1.0) == pytest.approx(4.5)
