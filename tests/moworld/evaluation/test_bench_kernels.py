"""The bench of the kernels, as far as a CPU goes: its sizes, its roofline, its rollout, and that a failing section does not end it."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from moworld.evaluation.bench_kernels import _chunks, bench_kernels, config_of, line, roofline, written
from moworld.inference.placement import denoising_flops

PROFILE = Path(__file__).parents[3] / "pipelines" / "profiles" / "wan22-a14b.yaml"


def a14b():
    return config_of(yaml.safe_load(PROFILE.read_text()))


def tiny(history_attention: str):
    sizes = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 96, "text_dim": 32}
    model = a14b().model.model_copy(update={**sizes, "history_attention": history_attention})
    return a14b().model_copy(update={"model": model, "height": 32, "width": 48})


def test_the_roofline_is_operations_over_what_was_reached():
    config = a14b()
    by_linears, by_others = denoising_flops(config.model, 480, 832, 512)
    found = roofline(config, "bfloat16", 1e15, 2e15)
    assert found["chunk_flops"] == by_linears + by_others and found["roofline_fps"] == pytest.approx(12e15 / (by_linears + by_others))
    assert roofline(config, "int8", 1e15, 2e15)["roofline_fps"] == pytest.approx(12e15 / (by_linears / 2 + by_others))


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("history_attention", ["joint", "block_causal"])
def test_a_pair_of_random_weights_generates_finite_chunks(history_attention, precision):
    row = _chunks(tiny(history_attention), precision, 2, torch.device("cpu"))
    assert row["finite"] and len(row["chunk_seconds"]) == 2 and row["fps"] == pytest.approx(12 / min(row["chunk_seconds"]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is asked for is there")
def test_a_section_that_fails_is_in_the_result_and_the_next_one_runs(tmp_path):
    take = written(tmp_path / "rows.json")
    for row in bench_kernels(tiny("joint"), ("ceilings", "norms")):
        take(row)
        assert line(row)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["section"], row["kind"]) for row in rows] == [
        ("ceilings", "failed"), ("ceilings", "time"), ("norms", "failed"), ("norms", "time")
    ]  # fmt: skip
