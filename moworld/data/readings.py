"""Other readings of a camera file: the mistakes that people make when they export cameras, each as a function of the cameras."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moworld.camera.cameras import Cameras
from moworld.camera.se3 import invert, rigid

Array = NDArray[np.float64]
SHIFTS = (1, 2, 3, 4, 5, 6, 8, 10, 12)  # frames, both ways
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
BODY = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # x forward, y left, z up: of robots
UNREAL = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # x forward, y right, z up


@dataclass(frozen=True)
class Reading:
    """Cameras as they would be if the file had a certain mistake.

    name:    the mistake, to follow "these look like"
    cameras: the cameras after the mistake is undone
    first, last: the frames for which this reading has cameras of its own; a shift in time has none for the frames at one end
    """

    name: str
    cameras: Cameras
    first: int
    last: int


def other_readings(cameras: Cameras) -> Iterator[Reading]:
    """Yields every other reading of T cameras."""
    end = len(cameras) - 1
    for name, change in POSES.items():
        yield Reading(name, Cameras(cameras.intrinsics, change(cameras.w2c)), 0, end)
    for shift in sorted((sign * size for size in SHIFTS for sign in (1, -1)), key=abs):
        if abs(shift) <= end // 2:
            yield shifted(cameras, shift)


def shifted(cameras: Cameras, shift: int) -> Reading:
    """Returns the reading of cameras that are `shift` frames late (early if negative): frame i has the camera of row i + shift."""
    rows = (np.arange(len(cameras)) + shift).clip(0, len(cameras) - 1)
    when = "late" if shift > 0 else "early"
    name = f"cameras {abs(shift)} frame{'s' if abs(shift) > 1 else ''} too {when}"
    end = len(cameras) - 1
    return Reading(name, Cameras(cameras.intrinsics[rows], cameras.w2c[rows]), max(0, -shift), end - max(0, shift))


def with_lens(cameras: Cameras, factor: float) -> Cameras:
    """Returns the cameras with focal lengths multiplied by a factor."""
    return Cameras(cameras.intrinsics * [factor, factor, 1, 1], cameras.w2c)


def _axes(change: Array) -> Callable[[Array], Array]:
    """Returns the change of poses whose camera axes were others: c2w times a permutation."""
    return lambda w2c: np.asarray(np.linalg.inv(change) @ w2c)


def _mirrored(axis: int) -> Callable[[Array], Array]:
    flip = np.diag([-1.0 if i == axis else 1.0 for i in range(4)])
    return lambda w2c: np.asarray(flip @ w2c @ flip)


def _centres(w2c: Array) -> Array:
    """Undoes matrices [R | C] with the camera's centre C in place of the translation -R C."""
    return rigid(w2c[:, :3, :3], -(w2c[:, :3, :3] @ w2c[:, :3, 3:])[..., 0])


def _transposed(w2c: Array) -> Array:
    return rigid(np.swapaxes(w2c[:, :3, :3], 1, 2), w2c[:, :3, 3])


def _quaternions(last_first: bool) -> Callable[[Array], Array]:
    """Returns the change of rotations whose quaternions were read in the other order of their numbers."""

    def change(w2c: Array) -> Array:
        from scipy.spatial.transform import Rotation

        numbers = Rotation.from_matrix(w2c[:, :3, :3]).as_quat(scalar_first=not last_first)
        return rigid(Rotation.from_quat(numbers, scalar_first=last_first).as_matrix(), w2c[:, :3, 3])

    return change


POSES: dict[str, Callable[[Array], Array]] = {
    "camera-to-world matrices given as world-to-camera (or the reverse)": invert,
    "OpenGL camera axes (y up, z backward)": _axes(OPENGL),
    "OpenGL camera axes, with camera-to-world given as world-to-camera": lambda w2c: OPENGL @ invert(w2c),
    "camera axes of a robot (x forward, y left, z up)": _axes(BODY),
    "camera axes of Unreal (x forward, y right, z up)": _axes(UNREAL),
    "time reversed": lambda w2c: w2c[::-1],
    "a world mirrored in x": _mirrored(0),
    "a world mirrored in y": _mirrored(1),
    "a world mirrored in z": _mirrored(2),
    "camera centres given as translations": _centres,
    "transposed rotations": _transposed,
    "quaternions x y z w read as w x y z": _quaternions(True),
    "quaternions w x y z read as x y z w": _quaternions(False),
}
