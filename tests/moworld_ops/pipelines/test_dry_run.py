"""`moworld plan --dry-run`: real steps of the paper's model on fake tensors; here with four layers of its forty, at full width."""

import json

import pytest
from typer.testing import CliRunner

from moworld.errors import InputError
from moworld_ops.pipelines import profile
from moworld_ops.pipelines.cli.app import app
from moworld_ops.pipelines.dry_run import dry_run, phases

SMALL = ("--set", "model.num_layers=4", "--set", "distill.chunks=2")


def run(*arguments: str) -> tuple[int, list[dict]]:
    done = CliRunner().invoke(app, ["plan", "--profile", "wan22-a14b", "--dry-run", "--json", *SMALL, *arguments])
    assert done.exit_code in (0, 1), done.output
    return done.exit_code, json.loads(done.stdout)["phases"]


def test_all_phases_are_listed_and_unknown_ones_refused():
    settings = profile.load("wan22-a14b")[1]
    names = [phase.name for phase in phases(settings)]
    assert names == [*(f"stage-{n}" for n in range(1, 6)), "autoregressive", "distill-fake", "distill-student", "quantize", "serve"]
    with pytest.raises(InputError, match="one of stage-1, "):
        next(dry_run(settings, ["stage-9"]))


@pytest.mark.slow
def test_training_phases_agree_with_the_plan():
    code, rows = run("--phase=stage-5", "--phase=autoregressive", "--phase=distill-fake", "--phase=distill-student")
    assert code == 0 and [(row["phase"], row["devices"]) for row in rows] == [
        ("stage-5", 32), ("autoregressive", 32), ("distill-fake", 64), ("distill-student", 64),
    ]  # fmt: skip
    for row in rows:
        peak, planned = row["peak"], row["planned"]
        assert peak["total"] == row["total_bytes"] == sum(value for kind, value in peak.items() if kind != "total")
        for kind in ("parameters", "optimizer"):
            assert planned[kind] == pytest.approx(peak[kind], rel=0.1), (row["phase"], kind)
        for kind, most in (("gathered", 1.02), ("activations", 1.1)):  # what each layer keeps by mistake shows here, before there are forty
            assert peak[kind] <= most * planned[kind], (row["phase"], kind)
        assert planned["total"] == pytest.approx(peak["total"], rel=0.2), row["phase"]


@pytest.mark.slow
def test_a_served_chunk_fits_a_large_device_and_no_small_one():
    code, (quantized, served) = run("--phase=quantize", "--phase=serve")
    assert code == 0 and quantized["fits"] and served["fits"] and served["peak"]["gradients"] == served["peak"]["optimizer"] == 0
    assert served["planned"]["parameters"] == pytest.approx(served["peak"]["parameters"], rel=0.1)
    assert served["total_bytes"] <= served["planned"]["total"]  # the plan counts modulations per token twice
    code, (served,) = run("--phase=serve", "--set=resources.pools.single.device.memory_bytes=2.0e+10")
    assert code == 1 and not served["fits"]
