"""Exchange of inputs and results between a launcher and its ranks on the shared volume."""

import json
from pathlib import Path

import pytest
import torch

from moworld.files import write_json
from moworld.model.world import WorldModel
from moworld_ops.components.platform.exchange import refusal, stage_in, stage_out
from tests.moworld.worlds import tiny_world


def test_inputs_are_staged_for_the_ranks_and_their_results_are_copied_back(tmp_path):
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "a").write_text("a")
    stage_in(tmp_path / "x", {"features": str(tmp_path / "features"), "previous": None, "out": "/elsewhere", "stage": {"steps": 2},
        "checkpoints": str(tmp_path / "features")})  # fmt: skip
    arguments = json.loads((tmp_path / "x" / "arguments.json").read_text())
    assert Path(arguments["features"], "a").read_text() == "a"
    assert arguments["previous"] is None and arguments["stage"] == {"steps": 2} and arguments["out"] == str(tmp_path / "x" / "out")
    assert arguments["checkpoints"] == str(tmp_path / "x" / "checkpoints")  # on the volume, which outlives the pod
    Path(arguments["out"]).mkdir()
    Path(arguments["out"], "b").write_text("b")
    (tmp_path / "x" / "summary.json").write_text('{"n": 1}')
    assert stage_out([tmp_path / "x"], tmp_path / "out") == {"n": 1}
    assert (tmp_path / "out" / "b").read_text() == "b"
    assert stage_out([tmp_path / "x"], tmp_path / "out") == {"n": 1}  # a restarted launcher repeats this


@pytest.mark.parametrize(("home", "expected"), [("volume/home", "volume/home/encoded"), ("elsewhere", "volume/encoded")])
def test_the_cache_of_encoded_clips_is_on_the_volume_and_outlives_the_jobs_folder(tmp_path, home, expected):
    (tmp_path / home / "encoded").mkdir(parents=True)
    (tmp_path / home / "encoded/clip").write_text("encoded")
    for run in ("run-1", "run-2"):
        exchange = tmp_path / "volume" / run
        stage_in(exchange, {"cache": str(tmp_path / home / "encoded"), "out": "/elsewhere"})
        found = json.loads((exchange / "arguments.json").read_text())
        assert found["cache"] == str(tmp_path / expected) and found["out"] == str(exchange / "out")
        assert not (exchange / "in").exists()  # it is not copied
    stage_in(tmp_path / "volume/run-3", {"cache": None, "out": "/elsewhere"})
    assert json.loads((tmp_path / "volume/run-3/arguments.json").read_text())["cache"] is None


def test_complete_inputs_are_not_written_again_while_ranks_read_them(tmp_path):
    (tmp_path / "pod" / "features").mkdir(parents=True)
    (tmp_path / "pod" / "features" / "a").write_text("a")
    arguments = {"features": str(tmp_path / "pod" / "features"), "out": "/elsewhere", "seed": 1}
    stage_in(tmp_path / "volume" / "x", arguments)
    inode = (tmp_path / "volume" / "x" / "in" / "features" / "a").stat()
    (tmp_path / "pod" / "features" / "a").write_text("changed meanwhile")
    stage_in(tmp_path / "volume" / "x", arguments)
    assert (tmp_path / "volume" / "x" / "in" / "features" / "a").stat() == inode
    stage_in(tmp_path / "volume" / "x", {**arguments, "seed": 2})
    assert (tmp_path / "volume" / "x" / "in" / "features" / "a").read_text() == "changed meanwhile"


def test_the_error_of_a_rank_is_found_until_the_inputs_are_staged_again(tmp_path):
    stage_in(tmp_path / "x", {"out": "/elsewhere"})
    assert refusal([tmp_path / "x"]) is None
    write_json(tmp_path / "x" / "refused.json", ["file", "field", "bad", "good", "fix it"])
    assert str(refusal([tmp_path / "x"])) == "file: field: found bad, expected good; fix it"
    stage_in(tmp_path / "x", {"out": "/elsewhere"})
    assert refusal([tmp_path / "x"]) is None


def test_an_old_summary_is_not_taken_for_the_result_of_a_new_job(tmp_path):
    (tmp_path / "x" / "out").mkdir(parents=True)
    (tmp_path / "x" / "summary.json").write_text("{}")
    stage_in(tmp_path / "x", {"out": "/elsewhere"})
    with pytest.raises(RuntimeError, match="left no summary"):
        stage_out([tmp_path / "x"], tmp_path / "out")


def test_two_experts_of_parallel_jobs_are_joined_into_one_model(tmp_path):
    """Each job writes its own expert; neither overwrites the other's."""
    made = {}
    for index, name in enumerate(("high", "low")):
        world = tiny_world(seed=index)
        exchange = tmp_path / name
        world.save(exchange / "out", names=[name], losses={name: [[0, float(index)]]})
        (exchange / "summary.json").write_text(json.dumps({f"loss_{name}": index}))
        made[name] = dict(world.experts.named_experts())[name].proj_out.weight
    assert stage_out([tmp_path / "high", tmp_path / "low"], tmp_path / "out") == {"loss_high": 0, "loss_low": 1}
    together = WorldModel.load(tmp_path / "out").experts
    assert torch.equal(together.high.proj_out.weight, made["high"]) and torch.equal(together.low.proj_out.weight, made["low"])
    assert json.loads((tmp_path / "out" / "losses.json").read_text()) == {"high": [[0, 0.0]], "low": [[0, 1.0]]}
