"""The step `train_curriculum` that starts from published weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moworld.data.features import FeatureWriter
from moworld.errors import InputError
from moworld.files import read_json, write_json
from moworld.model.checkpoints import export_model
from moworld.model.world import WorldModel
from moworld.training.checkpoint import Checkpoints
from moworld_ops.components.quantize.step import quantize
from moworld_ops.components.register.step import lineage
from moworld_ops.components.train_curriculum.step import train_curriculum
from tests.moworld.worlds import tiny_batch, tiny_world

STAGE = {"frames": 25, "batch": 2, "steps": 0, "checkpoint_every": 1, "optimizer": {"lr": 1e-3}}


@pytest.fixture
def given(tmp_path: Path) -> dict:
    """Returns the arguments of the step for a base in Wan's layout."""
    (tmp_path / "features" / "codec").mkdir(parents=True)
    writer, batch = FeatureWriter(tmp_path / "features"), tiny_batch(9, batch=1)
    row = {"clip_id": "c", "split": "train", "scene": "", "source": "", "caption": "", "num_frames": 33, "video_sha256": ""}
    writer.add(row, {key: batch[key][0] for key in ("latents", "text", "c2w", "intrinsics")})
    writer.close()
    world = tiny_world(3, camera_gate=0.0)
    write_json(tmp_path / "features" / "licences.json", ["CC-BY-4.0"])
    config = world.config.model_dump(mode="json", include={"height", "width", "fps", "text"})
    write_json(tmp_path / "features" / "world.json", config)
    world.save(tmp_path / "wide")
    export_model(tmp_path / "wide", tmp_path / "wan", "wan")
    base = {"source": str(tmp_path / "wan"), "licence": "Apache-2.0"}
    return {"features": str(tmp_path / "features"), "previous": None, "out": str(tmp_path / "out"), "stage": STAGE, "seed": 1,
            "model": world.config.model.model_dump(mode="json"), "base": base, "checkpoints": str(tmp_path / "checkpoints")}  # fmt: skip


def test_before_its_first_step_a_stage_has_the_weights_of_its_base_and_carries_its_licence(given, tmp_path):
    train_curriculum(**given)
    found, base = WorldModel.load(tmp_path / "out"), WorldModel.load(tmp_path / "wide")
    own = base.experts.state_dict()
    for key, value in found.experts.state_dict().items():
        assert torch.equal(value, own[key]) == ("control_adapter" not in key or "gate" in key), key
    quantize(str(tmp_path / "out"), str(tmp_path / "int8"), {"max_layer_error": 9.0})
    tags = lineage(tmp_path / "features", tmp_path / "int8")
    assert (tags["base"], tags["licences"]) == (given["base"]["source"], "Apache-2.0, CC-BY-4.0")
    train_curriculum(**given | {"base": None})
    train_curriculum(**given | {"previous": str(tmp_path / "out"), "out": str(tmp_path / "fresh")})
    assert lineage(tmp_path / "features", tmp_path / "fresh")["licences"] == "CC-BY-4.0"


def test_a_base_that_changed_since_the_checkpoint_is_refused_by_name(given, tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoints, "clear", lambda self: self.wait())  # as if the process had been killed before the last step
    train_curriculum(**given | {"stage": {**STAGE, "steps": 2}})
    file = next((tmp_path / "wan" / "low_noise_model").glob("*.safetensors"))
    weights = load_file(file)
    save_file({key: value + 1 for key, value in weights.items()}, file)
    with pytest.raises(InputError, match=r"step-00000001: inputs\.base: found SHA-256"):
        train_curriculum(**given | {"stage": {**STAGE, "steps": 2}})
    save_file(weights, file)
    assert read_json(tmp_path / "checkpoints" / "step-00000001" / "task.json")["inputs"].keys() == {"features", "base"}
