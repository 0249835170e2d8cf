"""Inputs and results of ranks on the shared volume."""

import json
import threading
from pathlib import Path

import pytest
import torch

from components.platform.cluster import Stopped
from components.platform.exchange import stage_in, stage_out
from moworld.model.world import WorldModel
from tests.moworld.worlds import tiny_world


def test_what_is_staged_in_is_what_the_ranks_read_and_what_they_write_comes_out(tmp_path):
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "a").write_text("a")
    stage_in(tmp_path / "x", {"features": str(tmp_path / "features"), "previous": None, "out": "/elsewhere", "stage": {"steps": 2},
        "checkpoints": str(tmp_path / "features")})  # fmt: skip
    arguments = json.loads((tmp_path / "x" / "arguments.json").read_text())
    assert Path(arguments["features"], "a").read_text() == "a"
    assert arguments["previous"] is None and arguments["stage"] == {"steps": 2} and arguments["out"] == str(tmp_path / "x" / "out")
    assert arguments["checkpoints"] == str(tmp_path / "x" / "checkpoints")  # on the volume that outlives the pod
    Path(arguments["out"]).mkdir()
    Path(arguments["out"], "b").write_text("b")
    (tmp_path / "x" / "summary.json").write_text('{"n": 1}')
    assert stage_out([tmp_path / "x"], tmp_path / "out") == {"n": 1}
    assert (tmp_path / "out" / "b").read_text() == "b"
    assert stage_out([tmp_path / "x"], tmp_path / "out") == {"n": 1}  # a launcher that died is followed by one that does it again


def test_inputs_that_stand_are_not_written_again_under_the_ranks_that_read_them(tmp_path):
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "a").write_text("a")
    arguments = {"features": str(tmp_path / "features"), "out": "/elsewhere", "seed": 1}
    stage_in(tmp_path / "x", arguments)
    inode = (tmp_path / "x" / "in" / "features" / "a").stat()
    (tmp_path / "features" / "a").write_text("changed meanwhile")
    stage_in(tmp_path / "x", arguments)
    assert (tmp_path / "x" / "in" / "features" / "a").stat() == inode
    stage_in(tmp_path / "x", {**arguments, "seed": 2})
    assert (tmp_path / "x" / "in" / "features" / "a").read_text() == "changed meanwhile"


def test_staging_ends_between_two_files_when_the_pod_is_told_to_end(tmp_path):
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "a").write_text("a")
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        stage_in(tmp_path / "x", {"features": str(tmp_path / "features"), "out": "/elsewhere"}, stop)
    assert not (tmp_path / "x" / "arguments.json").exists()  # nothing says that the inputs stand


def test_an_old_summary_is_no_result_of_a_new_job(tmp_path):
    (tmp_path / "x" / "out").mkdir(parents=True)
    (tmp_path / "x" / "summary.json").write_text("{}")
    stage_in(tmp_path / "x", {"out": "/elsewhere"})
    with pytest.raises(RuntimeError, match="left no summary"):
        stage_out([tmp_path / "x"], tmp_path / "out")


def test_two_experts_trained_side_by_side_come_together_as_one_model(tmp_path):
    """Each job writes its own expert; neither may overwrite what the other has trained."""
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
