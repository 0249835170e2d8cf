"""Verified trajectories: the engine's cameras agree with its pictures, cameras of another time or another lens do not."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from moworld.camera.cameras import Cameras
from moworld.camera.formats import read_cameras
from moworld.data.clips import read_manifest
from moworld.data.geometry import JumpLimits, complete_clip
from moworld.data.prior_lens import SURE
from moworld.data.settings import GeometrySettings
from moworld.data.verification import verify_cameras
from moworld_ops.data_contracts.load import load_contract
from tests.moworld.data.folders import recorded_game

SETTINGS, LIMITS = GeometrySettings(), JumpLimits(15.0, 12.0)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory):
    """A copy of the recorded episodes, because complete_clip writes into its folder."""
    folder = tmp_path_factory.mktemp("recorded") / "clips"
    shutil.copytree(recorded_game(), folder)
    return folder, read_manifest(folder)


def limit() -> float:
    rule = next(rule for rule in load_contract("geometry").rules if rule.name == "cameras-agree-with-pictures")
    assert rule.maximum is not None
    return rule.maximum


def test_the_engines_cameras_agree_with_its_pictures(recorded):
    folder, clips = recorded
    for clip in clips:
        (found,) = complete_clip(clip, folder, SETTINGS, LIMITS)
        assert found.epipolar_error_px is not None and found.epipolar_error_px < limit()
        assert found.epipolar_inliers is not None and found.epipolar_inliers > 0.8
        assert found.camera_faults == 0 and found.verified_share > 0.9
        assert found.window_error_px is not None and found.window_error_px < limit()


@pytest.mark.parametrize("wrong", ["mirrored turns", "another lens", "another time"])
def test_wrong_cameras_are_detected(recorded, wrong):
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


def test_a_blank_clip_has_no_measures(recorded, tmp_path):
    from moworld.video import write_video

    folder, clips = recorded
    clip = clips[0]
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / clip.video, np.zeros((97, clip.height, clip.width, 3), np.uint8), clip.fps)
    assert verify_cameras(replace(clip), tmp_path, read_cameras(folder / clip.camera), SETTINGS) == (None, None)


def planes_video(path, frames=31, size_hw=(240, 320), still_from=None, turn=8, wall_alone=False):
    """A camera slides and turns (degrees) before textured planes at depths 6 and 3, or the first alone; returns its c2w (T, 4, 4)."""
    import cv2

    from moworld.video import write_video

    generator = np.random.default_rng(0)
    height, width = size_hw
    k = np.array([[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 2], [0, 0, 1]])

    def texture(cells):
        noise = sum(cv2.resize(generator.uniform(0, 85, (n, n, 3)), (1024, 1024), interpolation=cv2.INTER_CUBIC) for n in cells)
        return np.clip(noise, 0, 255).astype(np.uint8)

    planes = [(6.0, 7.0, texture((16, 64, 200))), (3.0, 1.0, texture((8, 32, 128)))][: 1 if wall_alone else 2]  # depth, half width, picture
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    time = np.arange(frames) / 30
    angles = np.radians(turn * time)
    c2w[:, 0, 0], c2w[:, 0, 2], c2w[:, 2, 0], c2w[:, 2, 2] = np.cos(angles), np.sin(angles), -np.sin(angles), np.cos(angles)
    c2w[:, 0, 3], c2w[:, 1, 3] = 1.6 * time - 0.8, 0.3 * np.sin(3 * time)
    pictures = []
    for pose in c2w:
        w2c, picture = np.linalg.inv(pose), np.zeros((height, width, 3), np.uint8)
        for depth, half, surface in planes:
            to_plane = np.array([[2 * half / 1024, 0, -half], [0, 2 * half / 1024, -half], [0, 0, depth], [0, 0, 1]])
            to_plane[2] = [0, 0, depth]
            homography = k @ w2c[:3] @ to_plane
            seen = cv2.warpPerspective(np.ones((1024, 1024), np.uint8), homography, (width, height))
            picture = np.where(seen[..., None] > 0, cv2.warpPerspective(surface, homography, (width, height)), picture)
        pictures.append(picture)
    if still_from is not None:  # no picture there that any camera could be found for
        pictures[still_from:] = [np.full_like(pictures[0], 90)] * (frames - still_from)
    write_video(path, pictures, 10.0, crf=12)  # finer than what is imported: at 18 the lens error is 0.01003, and a right slide counts as wrong
    return c2w


def unposed(folder, **kwargs):
    from moworld.data.clips import Clip
    from moworld.files import sha256_file

    (folder / "videos").mkdir(parents=True, exist_ok=True)
    c2w = planes_video(folder / "videos" / "a.mp4", **kwargs)
    sha = sha256_file(folder / "videos" / "a.mp4")
    return Clip("a", "video", "a", "train", len(c2w), 10.0, 240, 320, "videos/a.mp4", sha), c2w


@pytest.fixture(scope="module")
def recovered(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("recovered")
    clip, c2w = unposed(folder)
    return folder, complete_clip(clip, folder, SETTINGS, LIMITS)[0], c2w


def test_cameras_are_recovered_from_pictures_alone(recovered):
    folder, found, c2w = recovered
    assert (found.camera_origin, found.num_frames, found.registered_share) == ("sfm", 31, 1.0)
    assert found.epipolar_error_px is not None and found.epipolar_error_px < limit()
    cameras = read_cameras(folder / found.camera)
    assert cameras.intrinsics[:, 0] == pytest.approx(0.8, abs=0.08)
    turned = np.degrees(np.arccos((np.trace(cameras.c2w[0, :3, :3].T @ cameras.c2w[-1, :3, :3]) - 1) / 2))
    assert turned == pytest.approx(8, abs=1.5)
    steps, true_steps = (np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1) for poses in (cameras.c2w, c2w))
    assert steps / steps.sum() == pytest.approx(true_steps / true_steps.sum(), abs=0.01)  # up to scale


def test_the_focal_length_error_is_estimated_without_ground_truth(recovered):
    folder, found, _ = recovered
    off = abs(read_cameras(folder / found.camera).intrinsics[0, 0] / 0.8 - 1)
    assert off < 3 * found.lens_error
    assert (found.lens_origin, found.motion_error) == ("measured", 0.0) and found.lens_error < SURE


def test_a_lens_that_pictures_do_not_determine_is_a_typical_one_and_the_motion_is_right(tmp_path):
    """A slide without a turn fits every focal length: the path is found, the lens is the prior one, and its error says so."""
    clip, c2w = unposed(tmp_path, frames=22, turn=0)
    (slid,) = complete_clip(clip, tmp_path, SETTINGS, LIMITS)
    rules = {rule.column: rule.maximum for rule in load_contract("geometry").rules if rule.maximum is not None}
    assert slid.lens_origin == "prior" and SURE < slid.lens_error <= rules["lens_error"]
    assert slid.motion_error < rules["motion_error"] and slid.camera_faults == 0
    assert "times the focal length fit as well" in slid.camera_undecided
    cameras = read_cameras(tmp_path / slid.camera)
    assert 0.6 < cameras.intrinsics[0, 0] < 1.1
    steps, true_steps = (np.diff(poses[:, :3, 3], axis=0) for poses in (cameras.relative_to(0).c2w, c2w))
    assert np.sum(steps * true_steps) / np.linalg.norm(steps) / np.linalg.norm(true_steps) > 0.99


def test_a_clip_is_cut_to_the_frames_whose_cameras_were_found(tmp_path):
    from moworld.files import sha256_file
    from moworld.video import read_frames

    clip, _ = unposed(tmp_path, frames=28, still_from=22)
    before = read_frames(tmp_path / clip.video, 0, 22).astype(int)
    (found,) = complete_clip(clip, tmp_path, SETTINGS, LIMITS)
    assert found.num_frames == len(read_cameras(tmp_path / found.camera)) == len(read_frames(tmp_path / found.video)) == 22
    assert found.registered_share == pytest.approx(22 / 28, abs=1e-3)
    assert found.video_sha256 == sha256_file(tmp_path / found.video) != clip.video_sha256
    assert np.abs(read_frames(tmp_path / found.video).astype(int) - before).mean() < 4


def test_blank_images_give_no_camera(tmp_path):
    clip, _ = unposed(tmp_path, still_from=0)
    (found,) = complete_clip(clip, tmp_path, SETTINGS, LIMITS)
    assert (found.camera, found.registered_share) == (None, 0.0)
    assert found.video_sha256 == clip.video_sha256


def test_recovery_is_the_same_each_time(recovered, tmp_path):
    folder, found, _ = recovered
    (again,) = complete_clip(unposed(tmp_path)[0], tmp_path, SETTINGS, LIMITS)
    assert (tmp_path / again.camera).read_bytes() == (folder / found.camera).read_bytes()


@pytest.mark.parametrize(
    ("times", "gap", "run"),
    [([], 2, []), ([0, 3, 6, 30, 33], 6, [0, 3, 6]), ([0, 9, 12, 15], 6, [9, 12, 15]), ([0, 3, 20, 23], 6, [0, 3])],
)
def test_the_longest_run(times, gap, run):
    from moworld.data.geometry import longest_run

    assert longest_run(times, gap) == run
