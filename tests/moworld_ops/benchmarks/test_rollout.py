"""`moworld bench rollout` and `linear`: rows beside their peers, and peers that do the same work."""

import pytest
import torch

from moworld.inference import WorldSession
from moworld.kernels.attention import OPERATOR
from moworld_ops.benchmarks.linear import bench_linear
from moworld_ops.benchmarks.rollout import KeyValueRollout, bench_rollout
from tests.moworld.inference.worlds import Letters, served_world
from tests.moworld.worlds import tiny_world
from tests.moworld_ops.benchmarks.test_measure import KEYS


def test_a_session_is_timed_beside_its_peers_and_its_state_is_smaller_than_a_cache(tmp_path):
    config = tiny_world(num_layers=2, num_attention_heads=4, history_attention="block_causal").config
    rows = {row["case"]: row for row in bench_rollout(config, 8, tmp_path, frames=240, text_encoder=Letters())}
    assert all(list(row) == KEYS for row in rows.values())
    assert [row["peer_name"] for row in rows.values() if "chunk" in row["case"]][1:3] == [
        "Diffusers over a sliding window, 50 steps", "4 steps, KV cache"]  # fmt: skip
    state = next(row for case, row in rows.items() if case.startswith("state"))
    assert 0 < state["ours"] < state["peer"] and state["unit"] == "MB"
    assert any(case.startswith("frames a second over 240 frames") for case in rows)


@torch.no_grad()
def test_the_peer_with_a_cache_attends_to_all_earlier_tokens(tmp_path):
    world = served_world(tmp_path)
    rollout = KeyValueRollout(WorldSession(world, Letters()), latent_frames=10)
    block = rollout.experts.high.blocks[0]
    filled = block.keys[:, :, : 10 * 2].clone()
    rollout.chunk()
    assert torch.equal(block.keys[:, :, : 10 * 2], filled)  # two tokens a frame
    query, rotary = torch.randn(1, 6, 48), rollout.experts.high.rope(torch.arange(10, 13), 2, 4)
    torch.nn.init.normal_(block.attn1.to_out[0].weight)  # fresh weights may give some heads no effect
    torch.nn.init.normal_(block.attn1.to_q.weight, std=0.1)  # sharp attention
    before = block.attend(query, rotary)[0]
    block.values[:, :, 0] += 100
    assert not torch.allclose(before, block.attend(query, rotary)[0])


def test_int8_is_timed_beside_other_precisions_and_compared_with_float32(tmp_path):
    rows = bench_linear(tiny_world(num_layers=2).config, 8, tmp_path, Letters())
    assert all(list(row) == KEYS for row in rows)
    peers = [row["peer_name"] for row in rows if row["unit"] == "ms" and "torchao" not in row["peer_name"]]
    assert peers[:4] == ["float32", "bfloat16"] * 2  # a linear, and a chunk with PyTorch's attention
    assert peers[4:] == (["float32, our attention", "bfloat16, our attention"] if OPERATOR.choose("cpu").name != "sdpa" else [])
    size, near = rows[-2:]
    assert size["unit"] == "MB" and size["ratio"] == pytest.approx(size["peer"] / size["ours"], rel=0.1) and size["ratio"] > 1
    assert near["unit"] == "dB" and 20 < near["ours"] < 100  # close, and not the same model
