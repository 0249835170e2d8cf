"""`moworld bench kernels`, as far as a CPU can run it: sizes, roofline, rollout, and a failing section that does not end it."""

import pytest
import torch

from moworld.inference.placement import denoising_flops
from moworld.model.world import WorldConfig
from moworld_ops.benchmarks.kernel_rollout import rollout_row, roofline
from moworld_ops.benchmarks.kernels import bench_kernels, line
from moworld_ops.pipelines import profile as profiles

_, PROFILE = profiles.load("wan22-a14b")
A14B = WorldConfig(model=PROFILE.model, text=PROFILE.text, height=480, width=832, fps=16.0)


def tiny(history_attention: str):
    sizes = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 96, "text_dim": 32}
    model = A14B.model.model_copy(update={**sizes, "history_attention": history_attention})
    return A14B.model_copy(update={"model": model, "height": 32, "width": 48})


def test_the_roofline_is_operations_over_the_measured_ceilings():
    in_linears, elsewhere = denoising_flops(A14B.model, 480, 832, 512)
    found = roofline(A14B, "bfloat16", 1e15, 2e15)
    assert found["chunk_flops"] == in_linears + elsewhere and found["roofline_fps"] == pytest.approx(12e15 / (in_linears + elsewhere))
    assert roofline(A14B, "int8", 1e15, 2e15)["roofline_fps"] == pytest.approx(12e15 / (in_linears / 2 + elsewhere))


@pytest.mark.parametrize(("history_attention", "precision"), [("joint", "bfloat16"), ("block_causal", "int8")])
def test_a_pair_of_random_weights_generates_finite_chunks(history_attention, precision):
    row = rollout_row(tiny(history_attention), precision, torch.device("cpu"))
    assert row["finite"] and len(row["chunk_seconds"]) == 2 and row["fps"] == pytest.approx(12 / min(row["chunk_seconds"]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="sections do not fail where there is a GPU")
def test_a_section_that_fails_is_a_row_and_the_next_one_runs():
    rows = list(bench_kernels(tiny("joint"), ("norms", "rollout int8 short")))
    assert [(row["section"], row["kind"]) for row in rows] == [
        ("norms", "failed"), ("norms", "time"), ("rollout int8 short", "failed"), ("rollout int8 short", "time")
    ]  # fmt: skip
    assert "Error" in rows[0]["case"] and line(rows[0]).startswith("failed: ") and "Traceback" in line(rows[0])
    assert line({"kind": "time", "case": "one", "seconds": 1.23456, "parts": {"a": 1e-07}}) == "time: one: seconds: 1.235, parts: {a: 1e-07"
