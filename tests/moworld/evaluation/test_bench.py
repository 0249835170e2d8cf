"""`moworld bench`: rows that machines can read, ratios that mean what they say; no test asserts a time."""

import time

import pytest
import torch

from kernels.sdpa import selected
from moworld.evaluation.bench import bench_attention, bench_parallel, side_by_side
from moworld.evaluation.bench_int8 import bench_linear
from moworld.evaluation.bench_rollout import KeyValueRollout, bench_rollout
from moworld.inference import WorldSession
from moworld.model.world import ModelSettings
from tests.moworld.inference.worlds import Letters, served_world
from tests.moworld.worlds import tiny_world

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


def test_a_session_is_timed_beside_its_peers_and_its_state_is_a_small_share_of_a_cache(tmp_path):
    config = tiny_world(num_layers=4, num_attention_heads=4, history_attention="block_causal").config
    rows = {row["case"]: row for row in bench_rollout(config, 8, tmp_path, frames=240, text_encoder=Letters())}
    assert all(list(row) == KEYS for row in rows.values())
    assert [row["peer_name"] for row in rows.values() if "chunk" in row["case"]][1:3] == [
        "Diffusers over a sliding window, 50 steps", "4 steps, KV cache"]  # fmt: skip
    state = next(row for case, row in rows.items() if case.startswith("state"))
    assert 0 < state["ours"] < state["peer"] and state["unit"] == "MB"
    assert any(case.startswith("frames a second over 240 frames") for case in rows)


@torch.no_grad()
def test_the_peer_with_a_cache_attends_to_all_that_was_before(tmp_path):
    world = served_world(tmp_path)
    rollout = KeyValueRollout(WorldSession(world, Letters()), latent_frames=10)
    filled = rollout.caches[0].keys[:, :, : 10 * 2].clone()
    rollout.chunk()
    assert torch.equal(rollout.caches[0].keys[:, :, : 10 * 2], filled)  # two tokens a frame
    query, rotary = torch.randn(1, 6, 48), rollout.experts.high.rope(torch.empty(1, 1, 3, 2, 4), torch.arange(10, 13))
    attention, cache = rollout.experts.high.blocks[0].attn1, rollout.caches[0]
    torch.nn.init.normal_(attention.to_out[0].weight)  # fresh weights let some heads say nothing
    torch.nn.init.normal_(attention.to_q.weight, std=0.1)  # and look sharply at one place
    before = cache(attention, query, rotary_emb=rotary)
    cache.values[:, :, 0] += 100
    assert not torch.allclose(before, cache(attention, query, rotary_emb=rotary))


def test_int8_is_timed_beside_other_precisions_and_told_how_near_it_stays(tmp_path):
    rows = bench_linear(tiny_world(num_layers=2).config, 8, tmp_path, Letters())
    assert all(list(row) == KEYS for row in rows)
    peers = [row["peer_name"] for row in rows if row["unit"] == "ms" and "torchao" not in row["peer_name"]]
    assert peers[:4] == ["float32", "bfloat16"] * 2  # a linear, and a chunk as PyTorch attends
    assert peers[4:] == (["float32, our attention", "bfloat16, our attention"] if selected("cpu").name != "reference" else [])
    size, near = rows[-2:]
    assert size["unit"] == "MB" and size["ratio"] == pytest.approx(size["peer"] / size["ours"], rel=0.1) and size["ratio"] > 1
    assert near["unit"] == "dB" and 20 < near["ours"] < 100  # near, and not the same model
