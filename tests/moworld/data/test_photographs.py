"""Photographs: images that are no video are recognised, and their cameras are found whatever their order."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from moworld.camera.cameras import Cameras
from moworld.camera.formats import read_cameras
from moworld.camera.se3 import centre_error_rms
from moworld.data.clips import Clip
from moworld.data.geometry import recover_cameras
from moworld.data.photographs import is_video
from moworld.data.settings import GeometrySettings
from moworld.files import sha256_file
from moworld.video import write_video
from tests.moworld.data.room import render, walk

SIZE, LENS = (144, 192), [153.6, 153.6, 96.0, 72.0]


def photographs() -> tuple[np.ndarray, np.ndarray]:
    """Returns frames and poses of eight places on an arc around the end of a room, in no order."""
    generator, count = np.random.default_rng(0), 8
    turns = np.linspace(-25, 25, count)[generator.permutation(count)]
    c2w = np.tile(np.eye(4), (count, 1, 1))
    tilts = np.column_stack([generator.uniform(-8, 8, count), -turns, generator.uniform(-5, 5, count)])
    c2w[:, :3, :3] = Rotation.from_rotvec(tilts, degrees=True).as_matrix()
    c2w[:, :3, 3] = np.column_stack([turns / 10, generator.uniform(-1, 1, count), 33 + generator.uniform(-1.5, 1.5, count)])
    return render(c2w, LENS, SIZE), c2w


def written(folder: Path, frames: np.ndarray) -> list[Path]:
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{number:06d}.png"), frame[..., ::-1])
    return sorted(folder.glob("*.png"))


def test_photographs_are_distinguished_from_a_video(tmp_path: Path):
    (tmp_path / "photographs").mkdir()
    assert not is_video(written(tmp_path / "photographs", photographs()[0]))
    (tmp_path / "video").mkdir()
    assert is_video(written(tmp_path / "video", render(walk("curve", 9), LENS, SIZE)))
    (tmp_path / "sizes").mkdir()
    mixed = [frame if number % 2 else frame.transpose(1, 0, 2) for number, frame in enumerate(render(walk("curve", 6), LENS, SIZE))]
    assert not is_video(written(tmp_path / "sizes", mixed))


def test_the_cameras_of_shuffled_photographs_are_found(tmp_path: Path):
    pytest.importorskip("pycolmap")
    frames, c2w = photographs()
    write_video(tmp_path / "videos/a.mp4", frames, 1.0, crf=10)
    clip = Clip("a", "video", "a", "train", len(frames), 1.0, *SIZE, "videos/a.mp4", sha256_file(tmp_path / "videos/a.mp4"))
    found, _ = recover_cameras(clip, tmp_path, GeometrySettings())
    assert found.registered_share == 1.0 and found.video_sha256 == sha256_file(tmp_path / "videos/a.mp4")
    cameras: Cameras = read_cameras(tmp_path / str(found.camera))
    assert cameras.intrinsics[0, 0] == pytest.approx(0.8, rel=0.05)
    extent = np.linalg.norm(np.ptp(c2w[:, :3, 3], axis=0))
    assert centre_error_rms(cameras.c2w, c2w) < 0.02 * extent
