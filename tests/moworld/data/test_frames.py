"""Clips at the model's size: pixels and cameras in the same crop, cut to 4 k + 1, refused where video and manifest disagree."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moworld.camera.cameras import Cameras
from moworld.camera.formats import write_realestate10k
from moworld.data.clips import Clip
from moworld.data.frames import model_cameras, model_depth, model_frames
from moworld.errors import InputError
from moworld.files import sha256_file
from moworld.video import write_video


def make_clip(folder: Path, name: str = "a", num_frames: int = 11, split: str = "train", caption: str = "a hall", seed: int = 0) -> Clip:
    """A clip of 60 x 80 with a moving gradient and a camera that walks 3 native units a frame; a model unit is 6 of them."""
    grid = np.mgrid[0:60, 0:80].sum(0)
    frames = [np.stack([(grid + 3 * t + seed * 40) % 256, grid, 255 - grid], -1).astype(np.uint8) for t in range(num_frames)]
    video, camera = folder / f"videos/{name}.mp4", folder / f"cameras/{name}.txt"
    for path in (video, camera):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_video(video, frames, fps=16, crf=10)
    w2c = np.tile(np.eye(4), (num_frames, 1, 1))
    w2c[:, 2, 3] = -3.0 * np.arange(num_frames) - 7
    write_realestate10k(camera, Cameras(np.tile([0.5, 0.8, 0.5, 0.5], (num_frames, 1)), w2c))
    return Clip(
        name, "game", f"MAP-{name}", split, num_frames, 16.0, 60, 80, f"videos/{name}.mp4", sha256_file(video),
        f"cameras/{name}.txt", sha256_file(camera), "engine", 6.0, caption=caption,
    )  # fmt: skip


def test_frames_and_cameras_of_a_clip_go_together(tmp_path: Path):
    clip = make_clip(tmp_path)
    frames, cameras = model_frames(tmp_path, clip, (16, 32)), model_cameras(tmp_path, clip, (16, 32))
    assert frames.shape == (9, 16, 32, 3) and frames.dtype == np.uint8 and len(cameras) == 9
    np.testing.assert_allclose(cameras.c2w[0], np.eye(4), atol=1e-9)
    np.testing.assert_allclose(cameras.c2w[:, 2, 3], 0.5 * np.arange(9), atol=1e-6)  # 3 native units of 6 a model unit
    np.testing.assert_allclose(cameras.intrinsics[4], [0.5, 0.8 * 60 / 40, 0.5, 0.5], atol=1e-6)  # 40 of 60 rows are left


def test_depth_is_read_at_the_cells_of_the_crop_in_model_units(tmp_path: Path):
    clip = make_clip(tmp_path)
    depth = np.zeros((11, 6, 8), np.uint16)
    depth[:] = 60 * np.arange(1, 7)[:, None] + np.arange(8)  # rows 60, 120 ... of ten pixels each; the crop keeps the middle 40 of 60
    np.savez(tmp_path / "depth.npz", depth=depth)
    found = model_depth(tmp_path, replace(clip, depth="depth.npz"), (16, 32), (4, 4))
    assert found is not None and found.shape == (9, 4, 4)
    np.testing.assert_allclose(found[5], (60 * np.arange(2, 6)[:, None] + np.array([1, 3, 5, 7])) / 6)
    assert model_depth(tmp_path, clip, (16, 32), (4, 4)) is None


def test_a_clip_without_cameras_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="camera of a"):
        model_cameras(tmp_path, replace(make_clip(tmp_path), camera=None), (16, 32))


def test_a_video_or_camera_file_shorter_than_the_manifest_says_is_named(tmp_path: Path):
    clip = replace(make_clip(tmp_path), num_frames=20)
    with pytest.raises(InputError, match=r"a\.mp4.*11 frames"):
        model_frames(tmp_path, clip, (16, 32))
    with pytest.raises(InputError, match=r"a\.txt.*11 "):
        model_cameras(tmp_path, clip, (16, 32))
