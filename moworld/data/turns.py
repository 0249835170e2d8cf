"""Extends reconstructions by turns on the spot at their ends, where nothing can be triangulated but a rotation needs no points.

Structure from motion stops when its triangulated points leave the view. A camera that only turns keeps its centre, and every observation
moves as the rotation predicts, at any depth.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from moworld.camera.se3 import rigid
from moworld.data.tracks import Observations
from moworld.data.verification import MIN_MATCHES

Array = NDArray[np.float64]
NEAR, AGREE = 2.0, 0.85  # pixels; the share of shared tracks that must be this near to their rotated position


def extend_turns(
    poses: dict[int, Array], observations: dict[int, Observations], intrinsics: Array, keyframes: list[int]
) -> dict[int, Array]:
    """Returns the poses (w2c by image number), extended by turns on the spot at both ends as far as the tracks show a pure rotation.

    Where the reconstruction already reaches into such a turn, its poses there are replaced by those of the rotation.

    observations: of all images; intrinsics: (4,) fx, fy, cx, cy in pixels; keyframes: ascending image numbers, with or without poses
    """

    def turn(before: int, after: int) -> Array | None:
        return rotation_between(observations[before], observations[after], intrinsics)

    extended = dict(poses)
    for order in (keyframes, keyframes[::-1]):
        start = max(index for index, number in enumerate(order) if number in poses)
        while start and order[start - 1] in poses and turn(order[start - 1], order[start]) is not None:
            start -= 1
        for before, after in pairwise(order[start:]):
            rotation = turn(before, after)
            if rotation is None:
                break
            extended[after] = rotation @ extended[before]
            for number in range(min(before, after) + 1, max(before, after)):
                rotation = turn(before, number)
                if rotation is not None:
                    extended[number] = rotation @ extended[before]
    return extended


def rotation_between(first: Observations, second: Observations, intrinsics: Array) -> Array | None:
    """Returns the rigid motion (4, 4) between two cameras with the same centre; None if shared tracks show a translation or are too few.

    intrinsics: (4,) fx, fy, cx, cy in pixels, of both
    """
    import cv2

    _, mine, theirs = np.intersect1d(first.ids, second.ids, assume_unique=True, return_indices=True)
    if len(mine) < MIN_MATCHES:
        return None
    here, there = first.points[mine].astype(np.float64), second.points[theirs].astype(np.float64)
    mask = cv2.findHomography(here, there, cv2.USAC_MAGSAC, NEAR)[1]
    if mask is None or mask.sum() < MIN_MATCHES:
        return None
    rays, seen = (_rays(points, intrinsics) for points in (here, there))
    chosen = mask.ravel().astype(bool)
    rotation = Rotation.align_vectors(seen[chosen], rays[chosen])[0].as_matrix()
    x, y, z = rotation @ rays.T
    expected = np.column_stack([x, y]) / z[:, None] * intrinsics[:2] + intrinsics[2:] - 0.5
    if (np.linalg.norm(expected - there, axis=1) < NEAR).mean() < AGREE:
        return None
    return rigid(rotation, np.zeros(3))


def _rays(points: Array, intrinsics: Array) -> Array:
    """Returns unit directions (n, 3) of pixel positions (n, 2), with 0 at the first pixel's centre."""
    rays = np.column_stack([(points + 0.5 - intrinsics[2:]) / intrinsics[:2], np.ones(len(points))])
    return np.asarray(rays / np.linalg.norm(rays, axis=1, keepdims=True))
