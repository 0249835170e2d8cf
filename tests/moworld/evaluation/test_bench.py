"""`moworld bench`: rows that machines can read, ratios that mean what they say; no test asserts a time."""

import time

import pytest

from moworld.evaluation.bench import bench_attention, bench_parallel, side_by_side
from moworld.model.world import ModelSettings

MODEL = ModelSettings(num_layers=1, num_attention_heads=2, attention_head_dim=24, ffn_dim=64, text_dim=8, camera_gate=1.0)
KEYS = ["case", "ours", "peer", "peer_name", "ratio", "unit"]


def test_a_ratio_above_one_says_that_ours_is_faster():
    row = side_by_side("sleep", lambda: time.sleep(0.002), lambda: time.sleep(0.02), "a longer sleep", turns=3)
    assert list(row) == KEYS and row["unit"] == "ms" and row["ratio"] > 1
    assert row["ratio"] == pytest.approx(row["peer"] / row["ours"], rel=0.01)


def test_attention_is_timed_beside_diffusers_and_sdpa():
    rows = bench_attention(MODEL, 24)
    assert [row["peer_name"] for row in rows] == ["Diffusers' WanAttnProcessor", "SDPA"] and all(list(row) == KEYS for row in rows)


@pytest.mark.slow
def test_training_steps_are_timed_on_real_ranks():
    rows = bench_parallel(MODEL, 9, 16, 32, 4)
    assert len(rows) == 3 and all(list(row) == KEYS and row["ours"] > 0 and row["peer"] > 0 for row in rows)
    assert ["Ulysses" in row["case"] for row in rows] == [False, True, False]
