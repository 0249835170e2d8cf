"""The step `distill` with a start before it, in a process that is killed between the two."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from moworld.data.features import FeatureWriter
from moworld.errors import InputError
from moworld.files import read_json, write_json
from moworld.model.world import WorldModel
from moworld_ops.components.distill.step import distill
from tests.moworld.worlds import tiny_batch, tiny_world

OPTIMIZER = {"lr": 1e-3}
SETTINGS = {"chunks": 2, "batch": 2, "steps": 2, "fake_steps": 1, "student": OPTIMIZER, "fake": OPTIMIZER, "checkpoint_every": 1,
            "monitor": {"window": 9}}  # fmt: skip
START = {"steps": 2, "optimizer": {"lr": 1e-2}}
STARTS = pytest.mark.parametrize(("start", "curve"), [("consistency", "consistency"), ("guidance_start", "guidance")])


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("distill")
    for name, seed in (("teacher", 0), ("student", 1)):
        tiny_world(seed).save(folder / name)
    (folder / "features").mkdir()
    writer = FeatureWriter(folder / "features")
    for number in range(3):
        batch = tiny_batch(9, batch=1, seed=number)
        row = {
            "clip_id": f"clip-{number}",
            "split": "train",
            "scene": "",
            "source": "",
            "caption": "",
            "num_frames": 33,
            "video_sha256": "",
        }
        writer.add(row, {key: batch[key][0] for key in ("latents", "text", "c2w", "intrinsics")})
    writer.close()
    return folder


def arguments(folder: Path, settings: dict, out: Path) -> dict:
    places = {name: str(folder / name) for name in ("features", "teacher", "student")}
    return {**places, "out": str(out / "out"), "settings": settings, "seed": 7, "checkpoints": str(out / "checkpoints")}


def weights(out: Path) -> dict[str, torch.Tensor]:
    return WorldModel.load(out / "out").experts.state_dict()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Uses one thread, as the killed process does, because rounding depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@STARTS
def test_a_finished_start_is_reused_after_a_kill_with_equal_weights(folders, tmp_path, start, curve):
    settings = {**SETTINGS, start: START, "steps": 12}  # long enough to be killed in
    found = distill(**arguments(folders, settings, tmp_path / "whole"))
    assert found["steps"] == 12 and found[f"high_{curve}"] > 0 and not (tmp_path / "whole/checkpoints").exists()
    write_json(tmp_path / "arguments.json", arguments(folders, settings, tmp_path / "cut"))
    command = [sys.executable, "-m", "moworld_ops.components.platform.launch", "distill", str(tmp_path / "arguments.json")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    done = tmp_path / "cut/checkpoints" / f"{start}-done"
    while not done.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    assert process.wait() != 0
    with pytest.raises(InputError, match=r"inputs\.student.*SHA-256.*the student of now.*train this step again"):
        distill(**arguments(folders, settings, tmp_path / "cut") | {"student": str(folders / "teacher")})
    write_json(done / "losses.json", {f"high {curve}": [[0, 123.0]]})
    distill(**arguments(folders, settings, tmp_path / "cut"))
    assert read_json(tmp_path / "cut/out/losses.json")[f"high {curve}"] == [[0, 123.0]]  # reused, not trained again
    whole = weights(tmp_path / "whole")
    assert all(torch.equal(value, whole[key]) for key, value in weights(tmp_path / "cut").items())


@STARTS
def test_a_start_of_different_settings_is_trained_again(folders, tmp_path, start, curve):
    settings = {**SETTINGS, start: START}
    done = tmp_path / "checkpoints" / f"{start}-done"
    tiny_world(5).save(done, losses={f"high {curve}": [[0, 123.0]]}, task={"settings": {**settings, "steps": 3}})
    distill(**arguments(folders, settings, tmp_path))
    assert read_json(tmp_path / "out/losses.json")[f"high {curve}"][0][1] != 123.0


@STARTS
def test_a_start_changes_the_student_and_is_optional(folders, tmp_path, start, curve):
    found = distill(**arguments(folders, SETTINGS, tmp_path / "plain"))
    assert not any(curve in name for name in found)
    distill(**arguments(folders, {**SETTINGS, start: None}, tmp_path / "none"))
    distill(**arguments(folders, {**SETTINGS, start: START}, tmp_path / "with"))
    plain = weights(tmp_path / "plain")
    assert all(torch.equal(value, plain[key]) for key, value in weights(tmp_path / "none").items())
    assert any(not torch.equal(value, plain[key]) for key, value in weights(tmp_path / "with").items())


def test_an_autoregressive_teacher_is_the_student_before_distillation(folders, tmp_path):
    """The result then does not depend on the pretrained model; by default it does."""
    for teacher, same in (("autoregressive", True), ("bidirectional", False)):
        made = []
        for model in ("teacher", "student"):
            given = arguments(folders, {**SETTINGS, "teacher": teacher}, tmp_path / f"{teacher}-{model}")
            distill(**{**given, "teacher": str(folders / model)})
            made.append(weights(tmp_path / f"{teacher}-{model}"))
        assert all(torch.equal(value, made[1][key]) for key, value in made[0].items()) == same
