"""Fits of scenes whose truth is known: views that were not fitted, first points, and footage that cannot be used."""

import numpy as np
import pytest
import torch

from moworld.applications.splats.baselines import backward_warp, forward_warp, mean_psnr
from moworld.applications.splats.fit import fit_footage, ssim
from moworld.applications.splats.footage import Footage, fitted_size, footage_of, read_clip, read_video
from moworld.applications.splats.scene import render_frames, view_of
from moworld.applications.splats.settings import FitSettings
from moworld.applications.splats.starts import first_points, triangulated
from moworld.camera import Cameras, se3
from moworld.errors import InputError
from moworld.video import write_video

LENS, SIZE, FAR = np.array([0.7, 0.93, 0.5, 0.5]), (48, 64), 4.0
FIT = FitSettings(steps=150, gaussians=900, split_every=40)


def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Colours (..., 3) of a wall at x, y: smooth blobs that differ everywhere."""
    waves = [np.sin(3.1 * x + 1.3 * y), np.sin(2.3 * y - 1.7 * x + 1), np.cos(1.9 * x * y / 2 + 2.6 * x)]
    return np.stack(waves, axis=-1) * 0.35 + 0.5


def wall(c2w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, H, W, 3) and depths (T, H, W) of a textured wall at z = FAR, computed ray by ray."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    rays = np.stack([(x / SIZE[1] - LENS[2]) / LENS[0], (y / SIZE[0] - LENS[3]) / LENS[1], np.ones(SIZE)], axis=-1)
    frames, depths = [], []
    for pose in c2w:
        world = rays @ pose[:3, :3].T
        depth = (FAR - pose[2, 3]) / world[..., 2]
        at = world * depth[..., None] + pose[:3, 3]
        frames.append((texture(at[..., 0], at[..., 1]) * 255).round().astype(np.uint8))
        depths.append(depth)
    return np.stack(frames), np.stack(depths)


def path(count: int, offset: float = 0.0) -> np.ndarray:
    """Poses that move to the right and turn a little; offset: upwards."""
    from scipy.spatial.transform import Rotation

    turns = Rotation.from_rotvec(np.linspace(-0.1, 0.1, count)[:, None] * [0.0, 1.0, 0.0]).as_matrix()
    return se3.rigid(turns, np.stack([np.linspace(-1, 1, count), np.full(count, -offset), np.zeros(count)], axis=1))


def footage(count: int = 16, *, depth: bool = True) -> Footage:
    frames, depths = wall(path(count))
    return footage_of("wall", frames, Cameras.from_c2w(LENS, path(count)), "metres", depths if depth else None)


def test_a_fitted_scene_shows_views_that_it_never_saw():
    seen = footage()
    scene, facts = fit_footage(seen, FIT)
    others = path(5, offset=0.3)
    relative = se3.invert(path(16)[0]) @ others
    relative[:, :3, 3] /= seen.units
    made = render_frames(scene, [view_of(w2c, LENS, SIZE) for w2c in se3.invert(relative)])
    truth, _ = wall(others)
    inner = np.s_[:, 6:-6, 6:-6]  # the wall's edges were never seen from below
    assert mean_psnr(made[inner], truth[inner]) > 24 and facts["psnr_of_fit"] > 27
    assert mean_psnr(np.repeat(seen.frames[7:8], 5, axis=0), truth) < 20
    assert facts["start"] == "depth of the recording" and len(scene) <= 900 and facts["gaussians"] > 0.7 * 900


def test_the_same_seed_gives_the_same_scene_and_steps_are_reported():
    few, steps = FIT.model_copy(update={"steps": 5}), list[int]()
    one, _ = fit_footage(footage(), few, 3, report=steps.append)
    again, _ = fit_footage(footage(), few, 3)
    other, _ = fit_footage(footage(), few, 4)
    assert torch.equal(one.rows, again.rows) and not torch.equal(one.rows, other.rows) and steps == [1, 2, 3, 4, 5]


def test_points_from_depth_are_on_the_wall():
    seen = footage()
    (points, colours), _ = first_points(seen, 500, seed=1)
    world = points * seen.units @ path(16)[0][:3, :3].T + path(16)[0][:3, 3]
    assert points.shape == (500, 3) and np.abs(world[:, 2] - FAR).max() < 1e-3
    assert np.abs(texture(world[:, 0], world[:, 1]) * 255 - colours).mean() < 3


def test_tracks_are_triangulated_on_the_wall_and_filled_up_along_rays():
    rng = np.random.default_rng(0)
    big = np.array([240, 320])
    c2w = path(14)
    picture = np.kron(rng.integers(0, 255, (40, 60)), np.ones((8, 8))).astype(np.uint8)
    y, x = np.mgrid[: big[0], : big[1]] + 0.5
    rays = np.stack([(x / big[1] - LENS[2]) / LENS[0], (y / big[0] - LENS[3]) / LENS[1], np.ones(big)], axis=-1)
    frames = []
    for pose in c2w:
        world = rays @ pose[:3, :3].T
        at = world * ((FAR - pose[2, 3]) / world[..., 2])[..., None] + pose[:3, 3]
        import cv2

        frames.append(cv2.remap(picture, (at[..., 0] * 55 + 240).astype(np.float32), (at[..., 1] * 55 + 160).astype(np.float32), cv2.INTER_LINEAR))
    video = np.repeat(np.stack(frames)[..., None], 3, axis=-1)
    points, colours = triangulated(video, Cameras.from_c2w(LENS, c2w))
    assert len(points) > 30 and len(points) == len(colours) and np.median(np.abs(points[:, 2] - FAR)) < 0.03
    seen = footage_of("wall", video, Cameras.from_c2w(LENS, c2w), "metres")
    (filled, _), origin = first_points(seen, 2000)
    world = filled * seen.units @ c2w[0][:3, :3].T + c2w[0][:3, 3]
    assert len(filled) == 2000 and "along rays" in origin and np.median(np.abs(world[:, 2] - FAR)) < 0.3


def test_warps_with_the_right_depth_find_the_wall_again():
    frames, depths = wall(path(16))
    source, target = 6, 8
    forward = forward_warp(frames[source], depths[source], path(16)[source], path(16)[target], LENS)
    backward = backward_warp(frames[source], path(16)[source], path(16)[target], depths[target], LENS)
    inner = np.s_[4:-4, 10:-10]
    for made, least in ((forward, 25), (backward, 32)):
        assert mean_psnr(made[inner][None], frames[target][inner][None]) > least
    assert mean_psnr(frames[source][inner][None], frames[target][inner][None]) < 22


def test_ssim_is_one_for_equal_pictures_and_agrees_with_another_implementation():
    from skimage.metrics import structural_similarity

    one, other = (torch.from_numpy(frame).float() / 255 for frame in wall(path(2))[0])
    assert float(ssim(one, one)) == pytest.approx(1, abs=1e-6)
    theirs, field = structural_similarity(one.numpy(), other.numpy(), channel_axis=-1, data_range=1.0, use_sample_covariance=False, full=True)
    assert float(ssim(one, other)) == pytest.approx(float(field[3:-3, 3:-3].mean()), abs=1e-4) and theirs < 0.9


def test_footage_that_cannot_be_used_is_refused(tmp_path):
    frames, _ = wall(path(6))
    still = Cameras.from_c2w(LENS, np.repeat(np.eye(4)[None], 6, axis=0))
    for message, taken, cameras in (
        ("3 frames", frames[:3], Cameras.from_c2w(LENS, path(3))), ("5 cameras for 6", frames, Cameras.from_c2w(LENS, path(5))),
        ("stays at one place", frames, still),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            footage_of("wall", taken, cameras, "metres")
    write_video(tmp_path / "a.mp4", frames, 10)
    with pytest.raises(InputError, match="no camera file"):
        read_video(tmp_path / "a.mp4", None, 48)


def test_a_video_with_a_camera_file_beside_it_is_read(tmp_path):
    from moworld.camera.formats import write_realestate10k

    frames, _ = wall(path(6))
    write_video(tmp_path / "a.mp4", frames, 10)
    write_realestate10k(tmp_path / "a.txt", Cameras.from_c2w(LENS, path(6)), "", 10)
    found = read_video(tmp_path / "a.mp4", None, 24)
    assert found.frames.shape == (6, 24, 32, 3) and fitted_size(240, 320, 96) == (96, 128)
    np.testing.assert_allclose(found.cameras.c2w[:, :3, 3] * found.units, (se3.invert(path(6)[0]) @ path(6))[:, :3, 3], atol=1e-6)
    np.testing.assert_allclose(found.cameras.intrinsics[0], LENS, atol=1e-6)


def test_a_clip_of_a_folder_comes_with_its_depth_in_map_units():
    from tests.moworld.data.folders import recorded_game

    found = read_clip(recorded_game(), "", 48)
    assert found.frames.shape == (97, 48, 64, 3) and found.unit_name == "map units" and found.depth is not None
    assert found.depth.shape == (97, 48, 64) and 20 < float(np.median(found.depth)) * found.units < 2000
    with pytest.raises(InputError, match="nowhere"):
        read_clip(recorded_game(), "nowhere", 48)
