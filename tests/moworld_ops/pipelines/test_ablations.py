"""Variants of a run's student: what they change, what they reuse, and that nothing is trained twice."""

import json
from pathlib import Path

import pytest
import torch

from moworld.data.features import FeatureWriter
from moworld.distillation.settings import ConsistencySettings
from moworld.errors import InputError
from moworld.files import read_json
from moworld.model.world import WorldModel
from moworld_ops.pipelines import profile as profiles
from moworld_ops.pipelines.ablations import ABLATIONS, parse_names, train_variants
from moworld_ops.pipelines.runs import Run
from tests.moworld.worlds import SIZES, tiny_batch, tiny_world

OVERRIDES = ["autoregressive.frames=25", "autoregressive.steps=4", "autoregressive.optimizer.final_lr=0.5", "distill.steps=1"]


@pytest.fixture
def made(tmp_path):
    """A run with a distilled student, and the folders of its inputs."""
    folders = {name: str(tmp_path / name) for name in ("features", "teacher", "before")}
    tiny_world(0).save(folders["teacher"])
    tiny_world(1).save(folders["before"])
    Path(folders["features"]).mkdir()
    writer = FeatureWriter(folders["features"])
    for number in range(2):
        batch = tiny_batch(9, batch=1, seed=number)
        row = {"clip_id": f"c{number}", "split": "train", "scene": "", "source": "", "video_sha256": "", "caption": "", "num_frames": 33}
        writer.add(row, {key: batch[key][0] for key in ("latents", "text", "c2w", "intrinsics")})
    writer.close()
    _, profile = profiles.load("test", [*OVERRIDES, f"model={json.dumps(SIZES)}"])
    run = Run(tmp_path / "run")
    run.update(run="run", status="done", started=1.0, settings=profile.model_dump(mode="json"), artifacts={"distill": {}})
    return run, folders, profile


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return WorldModel.load(folder).experts.state_dict()


def test_each_variant_changes_one_thing():
    _, profile = profiles.load("test", OVERRIDES)
    without = ABLATIONS["anchor"](profile)
    assert without.settings.autoregressive == profile.autoregressive.model_copy(update={"anchor_weight": 0.0})
    assert without.settings.model_copy(update={"autoregressive": profile.autoregressive}) == profile
    for name, field, called in (("consistency", "consistency", "consistency start"), ("guidance", "guidance_start", "guided start")):
        start = ABLATIONS[name](profile)
        assert start.name == f"student, {called}" and getattr(start.settings.distill, field).steps == 1
        assert getattr(start.settings.distill, field).optimizer.lr == pytest.approx(0.5 * profile.autoregressive.optimizer.lr)
        assert start.settings.distill.model_copy(update={field: None}) == profile.distill
        back = ABLATIONS[name](start.settings)
        assert back.name == f"student, no {called}" and back.settings == profile


def test_an_unknown_ablation_is_refused():
    assert parse_names("anchor, consistency") == ["anchor", "consistency"] and parse_names("") == []
    with pytest.raises(InputError, match="anchor, consistency"):
        parse_names("anchors")


def test_variants_are_trained_beside_the_run_and_kept_while_their_inputs_are_unchanged(made):
    run, folders, _ = made
    found = train_variants(run, ["anchor", "consistency"], folders)
    assert list(found) == ["student, no anchor loss", "student, consistency start"]
    anchor, start = (Path(folder) for folder in found.values())
    assert anchor == run.folder / "variants/anchor/distilled" and (anchor.parent / "student").is_dir()
    assert "low consistency" in read_json(start / "losses.json") and not (start.parent / "student").exists()  # the run's own student
    first, second = weights(anchor), weights(start)
    assert any(not torch.equal(first[key], second[key]) for key in first)

    kept = {path: path.stat().st_mtime_ns for path in (run.folder / "variants").rglob("*.safetensors")}
    assert train_variants(run, ["anchor", "consistency"], folders) == found
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    tiny_world(2).save(folders["before"])  # another autoregressive student: the variant that starts from it is trained again
    train_variants(run, ["anchor", "consistency"], folders)
    changed = {path.relative_to(run.folder / "variants").parts[0] for path in kept if path.stat().st_mtime_ns != kept[path]}
    assert changed == {"consistency"}


def test_a_variant_without_a_local_teacher_is_refused(made):
    run, folders, _ = made
    with pytest.raises(InputError, match="teacher"):
        train_variants(run, ["anchor"], {**folders, "teacher": "s3://elsewhere/teacher"})


def test_one_value_adds_the_consistency_start():
    _, profile = profiles.load("pocket", ["distill.consistency.steps=200"])
    assert profile.distill.consistency == ConsistencySettings(steps=200)
    assert profiles.load("pocket")[1].distill.consistency is None
