"""The camera type: relative poses, scales, crops, resampling; and rigid motions."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from moworld.camera import Cameras, controls_to_c2w, se3, translation_scale
from moworld.camera.cameras import cover_crop, resize_to_cover


def walk() -> Cameras:
    return Cameras.from_c2w([0.6, 0.9, 0.5, 0.5], controls_to_c2w("wl*5,di*4", step=2.5, degrees=4))


def test_the_first_relative_camera_is_the_identity_and_distances_stay():
    cameras = Cameras.from_c2w([1, 1, 0.5, 0.5], se3.rigid(Rotation.from_rotvec([1, 2, 3]).as_matrix(), [4.0, 5, 6]) @ walk().c2w)
    relative = cameras.relative_to(3)
    np.testing.assert_allclose(relative.w2c[3], np.eye(4), atol=1e-12)
    np.testing.assert_allclose(
        np.linalg.norm(np.diff(relative.c2w[:, :3, 3], axis=0), axis=1), np.linalg.norm(np.diff(walk().c2w[:, :3, 3], axis=0), axis=1)
    )


def test_the_translation_scale_follows_its_definition_and_is_clipped():
    translations = walk().relative_to(0).w2c[1:, :3, 3]
    expected = np.sqrt((translations**2).sum()) / np.sqrt(3 * len(translations)) / 2
    assert translation_scale(walk().w2c) == pytest.approx(expected)
    assert translation_scale(walk().scaled(expected).w2c) == pytest.approx(1.0)
    assert translation_scale(walk().scaled(1e9).w2c) == 0.01 and translation_scale(walk().scaled(1e-9).w2c) == 1000.0
    assert translation_scale(np.eye(4)[None]) == 1.0


def test_cameras_cannot_be_changed_in_place_and_do_not_change_their_source():
    intrinsics, w2c = np.ones((2, 4)), np.stack([np.eye(4)] * 2)
    cameras = Cameras(intrinsics, w2c)
    w2c[0, 0, 3] = 7
    assert cameras.w2c[0, 0, 3] == 0
    with pytest.raises(ValueError, match="read-only"):
        cameras.w2c[0, 0, 3] = 1


def test_resampling_keeps_given_frames_and_halves_the_way_between():
    cameras = walk()
    same = cameras.resample(np.arange(len(cameras)))
    np.testing.assert_allclose(same.w2c, cameras.w2c, atol=1e-9)
    half = cameras.resample([0.5]).c2w[0]
    np.testing.assert_allclose(half[:3, 3], cameras.c2w[:2, :3, 3].mean(axis=0))
    angles = [se3.rotation_angle_degrees(se3.invert(cameras.c2w[i]) @ half) for i in (0, 1)]
    np.testing.assert_allclose(angles, 2.0)
    with pytest.raises(ValueError, match="outside"):
        cameras.resample([99])


def test_inverse_and_angle_agree_with_scipy():
    rotations = Rotation.from_rotvec(np.random.default_rng(0).normal(size=(20, 3)))
    matrices = se3.rigid(rotations.as_matrix(), np.random.default_rng(1).normal(size=(20, 3)))
    np.testing.assert_allclose(se3.invert(matrices), np.linalg.inv(matrices), atol=1e-12)
    np.testing.assert_allclose(se3.rotation_angle_degrees(matrices), np.degrees(rotations.magnitude()), atol=1e-9)
    tiny = Rotation.from_rotvec([0, 0, np.radians(1e-6)]).as_matrix()
    assert se3.rotation_angle_degrees(tiny) == pytest.approx(1e-6, rel=1e-6)


def test_alignment_finds_a_similarity_and_rejects_a_mirror():
    rng = np.random.default_rng(0)
    points, rotation = rng.normal(size=(30, 3)), Rotation.from_rotvec([0.3, -2, 1]).as_matrix()
    scale, found, shift = se3.umeyama(points, 2.5 * points @ rotation.T + [1, 2, 3])
    assert scale == pytest.approx(2.5)
    np.testing.assert_allclose(found, rotation, atol=1e-9)
    np.testing.assert_allclose(shift, [1, 2, 3], atol=1e-9)
    assert np.linalg.det(se3.umeyama(points, points * [-1, 1, 1])[1]) == pytest.approx(1)
    with pytest.raises(ValueError, match="coincide"):
        se3.umeyama(np.ones((3, 3)), points[:3])


def test_the_trajectory_error_is_zero_for_a_moved_and_scaled_copy():
    c2w = walk().c2w
    moved = se3.rigid(Rotation.from_rotvec([1, 0, 2]).as_matrix(), [3.0, 2, 1]) @ walk().scaled(4.0).c2w
    assert se3.centre_error_rms(moved, c2w) < 1e-9
    np.testing.assert_allclose(se3.align(moved, c2w), c2w, atol=1e-9)


def test_a_wider_size_keeps_the_width_and_crops_the_height_about_the_middle():
    frame = np.zeros((60, 80, 3), np.uint8)
    frame[:10], frame[-10:] = 255, 255  # outside the central 40 rows of a 2 : 1 crop
    assert resize_to_cover(frame, (16, 32)).max() == 0
    frame[10:14] = 255
    assert resize_to_cover(frame, (16, 32))[0].min() > 200


@pytest.mark.parametrize(("in_hw", "out_hw"), [((240, 320), (64, 96)), ((97, 131), (16, 24)), ((64, 96), (64, 96)), ((40, 60), (64, 96))])
def test_resizing_averages_areas_as_opencv_does(in_hw: tuple[int, int], out_hw: tuple[int, int]):
    cv2 = pytest.importorskip("cv2")
    frame = np.random.default_rng(0).integers(0, 256, (*in_hw, 3), dtype=np.uint8)
    x0, y0, x1, y1 = cover_crop(in_hw, out_hw)
    crop = frame[round(y0 * in_hw[0]) : round(y1 * in_hw[0]), round(x0 * in_hw[1]) : round(x1 * in_hw[1])]
    difference = np.abs(resize_to_cover(frame, out_hw).astype(int) - cv2.resize(crop, out_hw[::-1], interpolation=cv2.INTER_AREA))
    assert difference.max() <= 1 and (difference > 0).mean() <= (0.001 if in_hw[0] >= out_hw[0] else 0.1)
