"""The head: targets from poses, learning, continuing a stopped training to the same weights, and refusals."""

import json

import cv2
import numpy as np
import pytest
import torch

from moworld.applications.navigation import head_training
from moworld.applications.navigation.agents import HeadAgent
from moworld.applications.navigation.head import LENGTH, NavigationHead, as_pictures
from moworld.applications.navigation.head_training import FLIP, Pairs, measure_head, targets_of, train_head
from moworld.applications.navigation.planners import chunk_of
from moworld.applications.navigation.player import Seen
from moworld.applications.navigation.settings import HeadSettings
from moworld.applications.navigation.tasks import Task
from moworld.camera.controls import controls_to_c2w
from moworld.errors import InputError

SPEEDS = (1 / 54, 3.0)
SETTINGS = HeadSettings(width=8, steps=12, batch=8, reach=12, save_every=5)
SIZE = (32, 48)


def panorama(c2w: np.ndarray) -> np.ndarray:
    """Pictures of a wall all around: turning moves them, walking ahead enlarges them. What the head can learn."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 400, 3)).astype(np.uint8)
    wall, pictures = cv2.GaussianBlur(noise, (9, 9), 0), []
    for pose in c2w:
        scale, centre = 1 + 2 * pose[2, 3], 200 + 3 * np.degrees(np.arctan2(pose[0, 2], pose[2, 2]))
        rows, columns = (20 + (np.arange(SIZE[0]) - 16) / scale).clip(0, 39), (centre + (np.arange(SIZE[1]) - 24) / scale).clip(0, 399)
        x, y = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
        pictures.append(cv2.remap(wall, x, y, cv2.INTER_LINEAR))
    return np.stack(pictures)


@pytest.fixture(scope="module")
def pairs():
    walks = [controls_to_c2w(keys, *SPEEDS) for keys in ("w*16,l*8", "j*8,w*16", "l*12,wl*12", "s*6,w*18")]
    c2w = np.stack(walks)
    frames = np.stack([panorama(walk) for walk in walks])
    return Pairs(frames, frames, c2w, SPEEDS)


def test_targets_are_in_the_pictures_camera():
    first, second = controls_to_c2w("l*30", *SPEEDS)[[0, -1]], controls_to_c2w("l*30,w*12", *SPEEDS)[[-1, 0]]
    there, back = targets_of(first, second, np.array([100, 100]), SPEEDS)
    assert there.tolist() == pytest.approx([1.0, 0.0, 1.0, 0.0, np.log1p(42 / 24)], abs=1e-5)  # right of it, looking right
    assert back[:2].tolist() == pytest.approx([0, 0], abs=1e-6) and back[2].item() == pytest.approx(-1)
    near = targets_of(first[:1], second[:1], np.array([6]), SPEEDS)
    assert near[0, 4].item() == pytest.approx(np.log1p(6 / 24))  # never more than the walk took


def test_mirrored_pictures_have_mirrored_targets():
    left, right = (controls_to_c2w(f"{turn}*10,w*6,{side}*4", *SPEEDS)[[0, -1]] for turn, side in (("j", "a"), ("l", "d")))
    one, other = (targets_of(ends[:1], ends[1:], np.array([20]), SPEEDS) for ends in (left, right))
    assert torch.allclose(one * FLIP, other, atol=1e-6)


def test_training_learns_and_a_stopped_one_continues_to_the_same_weights(pairs, tmp_path, monkeypatch):
    measured = train_head(pairs, pairs, SETTINGS, 1, tmp_path / "whole")
    calls, real = [], head_training.functional.smooth_l1_loss

    def stops(*values, **settings):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(*values, **settings)

    monkeypatch.setattr(head_training.functional, "smooth_l1_loss", stops)
    with pytest.raises(KeyboardInterrupt):
        train_head(pairs, pairs, SETTINGS, 1, tmp_path / "cut")
    assert not (tmp_path / "cut").exists() and len(list(tmp_path.glob(".cut-*"))) == 1
    assert train_head(pairs, pairs, SETTINGS, 1, tmp_path / "cut") == measured and len(calls) == 8 + 7  # from step 5 on
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    assert not list(tmp_path.glob(".cut-*"))
    longer = train_head(pairs, pairs, SETTINGS.model_copy(update={"steps": 200, "batch": 16, "rate": 5e-3}), 1, tmp_path / "longer")
    assert longer["units"] < 0.75 * longer["units_of_mean"] and longer["frames_correlation"] > measured["frames_correlation"]
    head = NavigationHead.load(tmp_path / "longer", SIZE)
    assert measure_head(head, pairs, SETTINGS) == longer


def test_an_estimate_is_in_units_and_frames():
    head = NavigationHead(SIZE, 8).eval()
    with torch.no_grad():
        head.out[-1].weight.zero_()
        head.out[-1].bias.copy_(torch.tensor([0.5, 2.0, 0.6, 0.8, np.log1p(0.5)]))
    found = head.estimate([np.zeros((*SIZE, 3), np.uint8)] * 2, np.zeros((*SIZE, 3), np.uint8))
    assert found.position[1].tolist() == pytest.approx([0.5 * LENGTH, 2 * LENGTH]) and found.frames.tolist() == pytest.approx(
        [12, 12], rel=1e-5
    )
    assert found.yaw_degrees[0] == pytest.approx(np.degrees(np.arctan2(0.6, 0.8)), abs=1e-4)
    assert as_pictures(np.full((1, 2, 2, 3), 255, np.uint8)).unique().tolist() == [1.0]


@pytest.mark.parametrize(("outputs", "wanted"), [([0, 1, 0, 1, 0], "w*12"), ([0, 0, 0.6, 0.8, 0], "l*12"), ([0, 0, 0, 1, 0], None)])
def test_the_head_as_policy_goes_where_it_sees_the_goal(outputs, wanted):
    head = NavigationHead(SIZE, 8).eval()
    with torch.no_grad():
        head.out[-1].weight.zero_()
        head.out[-1].bias.copy_(torch.tensor(outputs, dtype=torch.float32))
    picture = np.zeros((*SIZE, 3), np.uint8)
    actions = tuple(chunk_of(controls, 12) for controls in ("w*12", "l*12", "j*12", "s*12"))
    task = Task("MAP07", (0.0, 0.0, 0.0), None, picture, np.zeros((1, 2)), 0.0, None)
    seen = Seen(picture[None], np.eye(4)[None], np.zeros((1, 3)))
    found = HeadAgent(head, actions, SPEEDS).act(seen, task, np.random.default_rng(0))
    assert found == (None if wanted is None else chunk_of(wanted, 12))


def test_a_folder_without_a_fitting_head_is_refused_in_one_line(tmp_path):
    NavigationHead(SIZE, 8).save(tmp_path / "head")
    with pytest.raises(InputError, match=r"48x32, expected 96x64.*--train"):
        NavigationHead.load(tmp_path / "head", (64, 96))
    with pytest.raises(InputError, match="no such file"):
        NavigationHead.load(tmp_path)
    config = tmp_path / "head" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "width": 16}))
    with pytest.raises(InputError, match="weights that config"):
        NavigationHead.load(tmp_path / "head")
    config.write_text("{}")
    with pytest.raises(InputError, match="NavigationHead"):
        NavigationHead.load(tmp_path / "head")
