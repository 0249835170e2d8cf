"""Camera events in Unity's axes to poses: the same walks as keys make, targets that are reached, and which events a chunk begins and ends."""

import numpy as np
import pytest

from moworld.camera.controls import controls_to_c2w
from moworld.inference.player.camera_path import CameraEvent, CameraPath, Pose

STEP, DEGREES = 1 / 54, 1.0


def turn(degrees: float, axis: int = 1) -> tuple[float, ...]:
    """A quaternion x y z w about an axis of Unity."""
    rotation = [0.0, 0.0, 0.0, float(np.cos(np.radians(degrees) / 2))]
    rotation[axis] = float(np.sin(np.radians(degrees) / 2))
    return tuple(rotation)


@pytest.mark.parametrize(
    ("translation", "rotation", "keys"),
    [
        ((0.0, 0.0, 4 * STEP), turn(0), "w*24"),
        ((4 * STEP, 0.0, 0.0), turn(0), "d*24"),
        ((0.0, 0.0, 0.0), turn(4 * DEGREES), "l*24"),
        ((0.0, 0.0, 0.0), turn(-4 * DEGREES, axis=0), "i*24"),  # left-handed axes: a positive turn about x looks down
    ],
)
def test_a_motion_makes_the_walk_of_its_key(translation: tuple[float, ...], rotation: tuple[float, ...], keys: str) -> None:
    path = CameraPath()
    path.add(CameraEvent("go", "velocity", Pose.from_unity(translation, rotation)))
    poses = np.concatenate([path.next_chunk(12)[0], path.next_chunk(12)[0]])
    np.testing.assert_allclose(poses, controls_to_c2w(keys, STEP, DEGREES)[1:], atol=1e-12)


def test_a_motion_is_in_the_axes_of_the_turned_camera() -> None:
    path = CameraPath()
    path.add(CameraEvent("turn", "target", Pose.from_unity((0.0, 0.0, 0.0), turn(90)), chunks=0))
    path.next_chunk(4)
    path.add(CameraEvent("go", "velocity", Pose.from_unity((0.0, 0.0, 1.0), turn(0))))
    np.testing.assert_allclose(path.next_chunk(4)[0][-1, :3, 3], (1, 0, 0), atol=1e-12)


def test_a_target_is_reached_over_its_chunks_and_ends() -> None:
    path = CameraPath()
    path.add(CameraEvent("there", "target", Pose.from_unity((2.0, 1.0, 4.0), turn(80)), chunks=2))
    first, began, ended = path.next_chunk(8)
    assert (began, ended) == (["there"], []) and path.active is not None
    np.testing.assert_allclose(first[-1, :3, 3], (1, -0.5, 2), atol=1e-12)  # half of the way; y is downwards
    np.testing.assert_allclose(np.degrees(np.arctan2(first[-1, 0, 2], first[-1, 2, 2])), 40, atol=1e-9)
    second, began, ended = path.next_chunk(8)
    assert (began, ended, path.active) == ([], ["there"], None)
    np.testing.assert_allclose(second[-1, :3, 3], (2, -1, 4), atol=1e-12)
    np.testing.assert_allclose(path.next_chunk(8)[0], np.tile(second[-1], (8, 1, 1)), atol=1e-12)


def test_a_new_event_replaces_the_one_before() -> None:
    path = CameraPath()
    path.add(CameraEvent("one", "velocity", Pose.from_unity((1.0, 0.0, 0.0), turn(0))))
    path.next_chunk(4)
    path.add(CameraEvent("two", "velocity", Pose.from_unity((0.0, 0.0, 1.0), turn(0))))
    path.add(CameraEvent("rest", "velocity", Pose.identity()))
    poses, began, ended = path.next_chunk(4)
    assert (began, ended) == (["two", "rest"], ["one", "two"])
    np.testing.assert_allclose(poses[:, :3, 3], np.tile((1, 0, 0), (4, 1)), atol=1e-12)


def test_a_pose_is_level_only_without_pitch_and_roll() -> None:
    assert Pose.from_unity((0.0, 3.0, 0.0), turn(170)).level
    assert not Pose.from_unity((0.0, 0.0, 0.0), turn(1, axis=0)).level and not Pose.from_unity((0.0, 0.0, 0.0), turn(1, axis=2)).level
    with pytest.raises(ValueError, match="zero"):
        Pose.from_unity((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0))
