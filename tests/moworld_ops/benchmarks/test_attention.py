"""`moworld bench attention` and `parallel`: rows beside their peers."""

import pytest

from moworld.model.settings import ModelSettings
from moworld_ops.benchmarks.attention import bench_attention
from moworld_ops.benchmarks.parallel import bench_parallel
from tests.moworld_ops.benchmarks.test_measure import KEYS

MODEL = ModelSettings(num_layers=1, num_attention_heads=2, attention_head_dim=24, ffn_dim=64, text_dim=8, camera_gate=1.0)


def test_attention_is_timed_beside_diffusers_and_sdpa():
    rows = bench_attention(MODEL, 24)
    assert [row["peer_name"] for row in rows] == ["Diffusers' WanAttnProcessor", "SDPA"] and all(list(row) == KEYS for row in rows)


@pytest.mark.slow
def test_training_steps_are_timed_on_real_ranks():
    rows = bench_parallel(MODEL, 9, 16, 32, 4)
    assert len(rows) == 3 and all(list(row) == KEYS and row["ours"] > 0 and row["peer"] > 0 for row in rows)
    assert ["Ulysses" in row["case"] for row in rows] == [False, True, False]
