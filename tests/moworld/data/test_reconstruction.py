"""Verified trajectories: the engine's cameras agree with its pictures, cameras of another time or another lens do not."""

from dataclasses import replace

import numpy as np
import pytest

from data_contracts.load import load_contract
from moworld.camera.cameras import Cameras
from moworld.camera.formats import read_cameras
from moworld.data.game import GameSettings, record_game
from moworld.data.reconstruction import GeometrySettings, complete_clip, verify_cameras

SETTINGS = GeometrySettings()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("recorded")
    settings = GameSettings(train_maps=("MAP01", "MAP05"), train_episodes_per_map=1, frames_per_episode=97, workers=1)
    clips, _ = record_game(folder, settings, seed=7)
    return folder, clips


def limit() -> float:
    rule = next(rule for rule in load_contract("clips").rules if rule.name == "cameras-agree-with-pictures")
    assert rule.maximum is not None
    return rule.maximum


def test_the_engines_cameras_agree_with_its_pictures(recorded):
    folder, clips = recorded
    for clip in clips:
        found = complete_clip(clip, folder, SETTINGS)
        assert found.epipolar_error_px is not None and found.epipolar_error_px < limit()
        assert found.epipolar_inliers is not None and found.epipolar_inliers > 0.8


@pytest.mark.parametrize("wrong", ["mirrored turns", "another lens", "another time"])
def test_wrong_cameras_are_found_out(recorded, wrong):
    folder, clips = recorded
    errors = []
    for clip in clips:
        cameras = read_cameras(folder / clip.camera)
        w2c, intrinsics = cameras.w2c, cameras.intrinsics
        if wrong == "mirrored turns":
            w2c = np.linalg.inv(w2c)
        elif wrong == "another lens":
            intrinsics = intrinsics * [2.5, 2.5, 1, 1]
        else:
            w2c = np.roll(w2c, 31, axis=0)
        errors.append(verify_cameras(clip, folder, Cameras(intrinsics, w2c), SETTINGS)[0])
    assert all(error is not None for error in errors)
    assert max(error for error in errors if error is not None) > limit()


def test_a_clip_of_nothing_says_nothing(recorded, tmp_path):
    from moworld.data.clips import write_video

    folder, clips = recorded
    clip = clips[0]
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / clip.video, np.zeros((97, clip.height, clip.width, 3), np.uint8), clip.fps)
    assert verify_cameras(replace(clip), tmp_path, read_cameras(folder / clip.camera), SETTINGS) == (None, None)
