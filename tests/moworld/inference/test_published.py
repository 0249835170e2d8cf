"""The plan's formula beside published times: operations against a count by hand, the fit, and scaling with cards."""

import pytest

from moworld.inference.published import SECONDS, compare_with_published
from moworld.model.settings import Device

DEVICE = Device(memory_bytes=64e9, flops=3.1e14, utilization=0.35, link_bytes_per_second=1.5e11)


def test_the_utilization_is_fitted_to_one_card_and_the_others_follow_from_the_formula():
    found = compare_with_published(DEVICE)
    width, mlp, tokens, text = 5120, 13824, 21 * 30 * 52, 512
    block = 12 * width**2 * tokens + 4 * width * mlp * tokens + 4 * width * tokens * (tokens + text) + 4 * width**2 * text
    assert found["operations"] == pytest.approx(100 * 40 * block, rel=0.01)  # embeddings, head and decoder are below 1 %
    assert found["utilization"] == pytest.approx(found["operations"] / SECONDS[1] / DEVICE.flops)
    one, four, eight = found["rows"]
    assert one["ratio"] == pytest.approx(1) and one["planned_seconds"] / 4 < four["planned_seconds"] < one["planned_seconds"] / 3
    assert eight["planned_seconds"] < four["planned_seconds"]


def test_a_device_with_another_peak_only_changes_the_fit():
    half = compare_with_published(DEVICE.model_copy(update={"flops": DEVICE.flops / 2}))
    full = compare_with_published(DEVICE)
    assert half["utilization"] == pytest.approx(2 * full["utilization"])
    assert [row["planned_seconds"] for row in half["rows"]] == [row["planned_seconds"] for row in full["rows"]]
