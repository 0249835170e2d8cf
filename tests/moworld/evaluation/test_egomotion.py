"""Camera motion measured on images of a textured wall with known distance and camera."""

import numpy as np
import pytest

from moworld.camera.controls import rotation_from_yaw_pitch
from moworld.evaluation.egomotion import FAR, GRID, camera_motion, commanded_motion, commanded_pitch, pitch_motion

SIZE = (64, 96)
INTRINSICS = np.array([0.6, 0.9, 0.5, 0.5])


def walk_past_a_wall(turns=(), ahead=(), aside=(), tilts=()):
    """Frames (T, 64, 96, 3), c2w (T, 4, 4), intrinsics (4,) and depth (T, *GRID) before a slanted wall.

    turns, tilts: degrees to the right and upwards from each frame to the next; ahead, aside: steps in model units
    """
    steps = max(map(len, (turns, ahead, aside, tilts)))
    motions = (np.resize(values, steps) if len(values) else np.zeros(steps) for values in (turns, ahead, aside, tilts))
    c2w = [np.eye(4)]
    for turn, forward, right, tilt in zip(*motions, strict=True):
        step = np.eye(4)
        step[:3, :3] = rotation_from_yaw_pitch(turn, tilt)
        step[:3, 3] = (right, 0, forward)
        c2w.append(c2w[-1] @ step)
    c2w = np.stack(c2w)
    rows, columns = np.meshgrid((np.arange(SIZE[0]) + 0.5) / SIZE[0], (np.arange(SIZE[1]) + 0.5) / SIZE[1], indexing="ij")
    grid = np.meshgrid((np.arange(GRID[0]) + 0.5) / GRID[0], (np.arange(GRID[1]) + 0.5) / GRID[1], indexing="ij")
    frames = np.stack([_texture(_hit(pose, rows, columns)[0]) for pose in c2w])
    return frames, c2w, INTRINSICS, np.stack([_hit(pose, *grid)[1] for pose in c2w])


def _hit(pose, rows, columns):
    """Returns the intersections of a camera's rays with the wall 0.4 x + 0.5 y + z = 3, (..., 3), and their distance along the view axis."""
    rays = np.stack([(columns - 0.5) / INTRINSICS[0], (rows - 0.5) / INTRINSICS[1], np.ones_like(rows)], axis=-1)
    normal = np.array([0.4, 0.5, 1.0])
    distance = (3 - normal @ pose[:3, 3]) / (rays @ pose[:3, :3].T @ normal)
    return pose[:3, 3] + distance[..., None] * (rays @ pose[:3, :3].T), distance


def _texture(points):
    """Returns the wall's smooth texture (..., 3) uint8, waves in many directions."""
    generator = np.random.default_rng(0)
    waves = generator.normal(0, 4, (40, 2))
    value = np.sin(points[..., :2] @ waves.T + generator.uniform(0, 6, 40)).mean(axis=-1)
    return np.repeat((127 + 500 * value).clip(0, 255)[..., None], 3, axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("motion", "axis"),
    [({"turns": [2.0, -1.0]}, 0), ({"ahead": [0.05, -0.03]}, 1), ({"aside": [0.04, -0.02]}, 2)],
    ids=["turn", "ahead", "aside"],
)
@pytest.mark.parametrize("stride", [1, 4])
def test_each_motion_is_measured_without_crosstalk(motion, axis, stride):
    frames, c2w, intrinsics, depth = walk_past_a_wall(**{name: np.repeat(values, stride) for name, values in motion.items()})
    wanted, found = commanded_motion(c2w, stride), camera_motion(frames, intrinsics, depth, stride)
    assert wanted[:, axis] == pytest.approx(np.multiply(next(iter(motion.values())), stride))
    assert np.allclose(found, wanted, atol=(0.25, 0.01, 0.01))


def test_looking_up_and_down_is_measured_apart_from_turning():
    frames, c2w, intrinsics, _ = walk_past_a_wall(tilts=[1.5] * 4 + [-2.0] * 4)
    assert commanded_pitch(c2w) == pytest.approx([6, -8])
    assert pitch_motion(frames, intrinsics) == pytest.approx([6, -8], abs=0.4)
    frames, c2w, intrinsics, _ = walk_past_a_wall(turns=[2.0] * 4 + [-2.0] * 4)
    assert commanded_pitch(c2w) == pytest.approx([0, 0]) and np.abs(pitch_motion(frames, intrinsics)).max() < 0.5


def test_a_turn_and_steps_are_separated():
    frames, c2w, intrinsics, depth = walk_past_a_wall([1.5, -1.5, 0.5], [0.04, 0.04, -0.04], [0.03, -0.02, 0.01])
    assert np.allclose(camera_motion(frames, intrinsics, depth, 1), commanded_motion(c2w, 1), atol=(0.3, 0.01, 0.012))


def test_a_fast_turn_while_walking_is_measured_over_four_frames():
    """The sum of four small flows is only an estimate: the axes turn, and distant corners leave the image."""
    frames, c2w, intrinsics, depth = walk_past_a_wall([5.0] * 4 + [-6.0] * 4, [0.05] * 8)
    wanted = commanded_motion(c2w)
    assert wanted[:, 0] == pytest.approx([20, -24])
    assert np.allclose(camera_motion(frames, intrinsics, depth), wanted, atol=(0.5, 0.02, 0.02))


def test_frames_blurred_by_a_codec_do_not_change_the_motion():
    frames, c2w, intrinsics, depth = walk_past_a_wall([1.5] * 8, [0.03] * 8)
    smeared = frames.copy()
    for start in (0, 4):  # each frame between is the mean of the two ends, as after a codec with four frames per latent
        for index in (1, 2, 3):
            smeared[start + index] = frames[[start, start + 4]].mean(axis=0)
    assert np.allclose(camera_motion(smeared, intrinsics, depth), commanded_motion(c2w), atol=(0.5, 0.02, 0.02))


def test_a_reversed_video_has_the_inverse_motion():
    frames, c2w, intrinsics, depth = walk_past_a_wall([2.0] * 4, [0.04] * 4, [0.02] * 4)
    back = camera_motion(frames[::-1], intrinsics, depth[::-1])
    assert np.allclose(back, commanded_motion(c2w[::-1]), atol=(0.3, 0.01, 0.01))


def test_a_moving_object_is_suppressed():
    frames, _c2w, intrinsics, depth = walk_past_a_wall([2.0, 2.0, 2.0])
    frames = frames.copy()
    for index in range(len(frames)):
        frames[index, 20:40, 30 + 6 * index : 46 + 6 * index] = _texture(
            np.stack(np.meshgrid(*[np.linspace(0, 1, n) for n in (16, 20)]), -1)
        )
    assert np.allclose(camera_motion(frames, intrinsics, depth, 1)[:, 0], 2, atol=0.5)


def test_turning_is_measured_without_depth():
    frames, _, intrinsics, depth = walk_past_a_wall([2.0, -2.0, 1.0])
    assert np.allclose(camera_motion(frames, intrinsics, stride=1)[:, 0], [2, -2, 1], atol=0.4)
    assert np.array_equal(camera_motion(frames, intrinsics, stride=1), camera_motion(frames, intrinsics, np.full_like(depth, FAR), 1))


def test_a_uniform_image_has_no_motion():
    frames = np.full((5, *SIZE, 3), 90, np.uint8)
    assert np.allclose(camera_motion(frames, INTRINSICS), 0, atol=(0.1, 0.01, 0.01))


def test_frames_after_the_last_complete_stride_are_ignored():
    frames, c2w, intrinsics, depth = walk_past_a_wall([1.0] * 6)
    assert camera_motion(frames, intrinsics, depth).shape == commanded_motion(c2w[:5]).shape == (1, 3)
