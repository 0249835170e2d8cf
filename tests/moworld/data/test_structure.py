"""Joining reconstructions by Sim(3), choosing pairs, point clouds and trajectories, by properties and by hand-made truth."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from moworld.camera import Cameras, read_cameras
from moworld.camera.controls import controls_to_c2w
from moworld.camera.se3 import rotation_angle_degrees
from moworld.data.geometry import measure_trajectory, recover_cameras, stretches, translation_steps
from moworld.data.points import thinned, unproject, write_ply
from moworld.data.sources import DataSettings, collect_clips
from moworld.data.structure import colmap
from moworld.data.verification import GeometrySettings
from tests.moworld.data.folders import verified
from tests.moworld.data.test_sources import DATA, needs_data


def test_steps_are_counted_in_steps_of_moving_frames_and_jumps_part_a_trajectory():
    c2w = np.asarray(controls_to_c2w("w*40"), dtype=np.float64)
    c2w[25:, 0, 3] += 1.0  # 54 steps to the side at once
    c2w[33:, :3, :3] = c2w[33:, :3, :3] @ Rotation.from_euler("y", 25.9, degrees=True).as_matrix()
    cameras = Cameras.from_c2w([0.5, 0.8, 0.5, 0.5], c2w)
    assert stretches(cameras, 15.0, 12.0) == [(0, 25), (25, 33), (33, 41)]
    found = measure_trajectory(cameras)
    assert found["max_rotation_step_degrees"] == pytest.approx(25.9, abs=1e-3) and found["max_translation_step"] == pytest.approx(
        54, abs=0.1
    )
    assert found["jitter_degrees"] == pytest.approx(2 * 25.9 / 39, abs=1e-3) and found["path_length"] == pytest.approx(
        39 / 54 + np.hypot(1, 1 / 54), abs=1e-3
    )
    standing = Cameras.from_c2w([0.5, 0.8, 0.5, 0.5], np.tile(np.eye(4), (9, 1, 1)))
    assert translation_steps(standing).tolist() == [0] * 8 and stretches(standing, 15, 12) == [(0, 9)]


def test_a_shaking_hand_is_jitter_and_a_steady_turn_is_none():
    generator = np.random.default_rng(0)
    angles = np.linspace(0, 120, 41)[:, None] * [0, 1, 0]
    for shake, most, least in ((0.0, 0.01, 0.0), (2.0, 20.0, 2.0)):
        turned = Rotation.from_euler("xyz", angles + shake * generator.normal(size=(41, 3)), degrees=True).as_matrix()
        c2w = np.tile(np.eye(4), (41, 1, 1))
        c2w[:, :3, :3] = turned
        assert least <= measure_trajectory(Cameras.from_c2w([0.5, 0.8, 0.5, 0.5], c2w))["jitter_degrees"] <= most


@needs_data
def test_the_jump_of_the_real_trajectory_is_found_and_nowhere_else():
    cameras = read_cameras(DATA / "matrix-game-3.5/suburban_street_6blocks/camera.npz", (384, 688))
    found = measure_trajectory(cameras)
    assert found["max_rotation_step_degrees"] == pytest.approx(25.9, abs=0.1)
    assert stretches(cameras, 25.0, 1e9) == [(0, 342), (342, 505)]
    assert stretches(cameras, 15.0, 1e9) == [(0, 303), (303, 342), (342, 505)]  # one of 24.8 degrees goes before it


def test_depth_becomes_points_where_the_camera_looks():
    c2w = np.asarray(controls_to_c2w("l*90"), dtype=np.float64)[-1]
    points = unproject(np.full((2, 4), 3.0), np.array([0.5, 1.0, 0.5, 0.5]), c2w)
    local = (np.linalg.inv(c2w) @ np.column_stack([points, np.ones(8)]).T)[:3].T
    np.testing.assert_allclose(local[:, 2], 3)
    np.testing.assert_allclose(local[:4, 0], 3 * (np.array([0.125, 0.375, 0.625, 0.875]) - 0.5) / 0.5, atol=1e-12)


def test_a_cloud_is_thinned_evenly_and_other_programs_read_it(tmp_path):
    import pycolmap

    generator = np.random.default_rng(0)
    points = generator.uniform(-5, 5, (60_000, 3)).astype(np.float32)
    colours = np.arange(180_000, dtype=np.int64).reshape(-1, 3).astype(np.uint8)
    kept, shades = thinned(points, colours, 20_000)
    assert 8_000 < len(kept) == len(shades) <= 20_000
    octants = np.bincount((kept > 0).astype(int) @ [1, 2, 4], minlength=8)
    assert octants.min() > 0.1 * len(kept)
    write_ply(tmp_path / "a.ply", kept, shades)
    read = pycolmap.Reconstruction()
    read.import_PLY(tmp_path / "a.ply")
    assert read.num_points3D() == len(kept)
    ordered = [read.points3D[i] for i in sorted(read.points3D)]
    np.testing.assert_allclose(np.stack([point.xyz for point in ordered]), kept, atol=1e-6)
    assert np.array_equal(np.stack([point.color for point in ordered]), shades)


@needs_data
def test_the_berlin_photographs_agree_with_their_reference_reconstruction(tmp_path):
    """Three photographs; the reference is OpenSfM's (axis-angle and translation, world to camera)."""
    import json

    import cv2

    reference = json.loads(next((DATA / "opensfm/berlin").rglob("*reconstruction*.json")).read_text())[0]["shots"]
    names = sorted(reference)
    (tmp_path / "images").mkdir()
    for number, name in enumerate(names):
        photograph = cv2.imread(str(next((DATA / "opensfm/berlin").rglob(name))))
        height = round(1600 * photograph.shape[0] / photograph.shape[1])
        cv2.imwrite(str(tmp_path / "images" / f"{number:06d}.png"), cv2.resize(photograph, (1600, height), interpolation=cv2.INTER_AREA))
    found = colmap(tmp_path / "images", tmp_path, GeometrySettings(sfm_features=4000, sfm_every=1))[0]
    assert sorted(found.poses) == [0, 1, 2] and found.errors.mean() < 1
    rotations = [Rotation.from_rotvec(reference[name]["rotation"]).as_matrix() for name in names]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        ours = found.poses[b][:3, :3] @ found.poses[a][:3, :3].T
        assert rotation_angle_degrees(ours.T @ rotations[b] @ rotations[a].T) < 1.0


@needs_data
@pytest.mark.slow
def test_the_real_orbit_is_registered_up_to_its_last_jump(tmp_path):
    """The recorded viewer stands still and jumps. Its last two jumps share 76 and 267 points, too few to place what follows: that is cut off."""
    collect_clips(tmp_path / "clips", DataSettings(videos=str(DATA / "gsplat/viewer_garden_480p.mp4")), seed=0)
    (clip,) = verified(tmp_path / "clips")
    found, cloud = recover_cameras(clip, tmp_path / "clips", GeometrySettings())
    assert found.registered_share is not None and found.registered_share >= 0.85 and found.num_frames >= 70
    assert found.reprojection_error_px is not None and found.reprojection_error_px < 1
    assert cloud is not None and len(cloud[0]) > 1000
