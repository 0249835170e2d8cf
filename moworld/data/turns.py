"""Turns on the spot at the ends of a reconstruction: nothing can be triangulated there, but a rotation needs no points.

Structure from motion stops where what it triangulated has left the view. The camera that only turns stays where it is, and every sight moves as
the rotation says, near or far.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from moworld.data.tracks import Sight
from moworld.data.verification import MIN_MATCHES

Array = NDArray[np.float64]
NEAR, AGREE = 2.0, 0.85  # pixels, and the share of the shared tracks that must be so near to where a rotation takes them


def turned_on(poses: dict[int, Array], sights: dict[int, Sight], intrinsics: Array, keyframes: list[int]) -> dict[int, Array]:
    """The poses (w2c by picture), with those of the turns on the spot that begin or end them: as far as the tracks say that the camera only turns.

    Where the reconstruction goes into such a turn, its poses there, from the last points in view, give way to those of the rotation.

    sights: of all pictures; intrinsics: (4,) fx, fy, cx, cy in pixels; keyframes: pictures in ascending order, with poses or without
    """
    made = dict(poses)
    for order in (keyframes, keyframes[::-1]):
        start = max(index for index, number in enumerate(order) if number in poses)
        while start and order[start - 1] in poses and _rotation(sights, order[start - 1], order[start], intrinsics) is not None:
            start -= 1
        for before, after in pairwise(order[start:]):
            rotation = _rotation(sights, before, after, intrinsics)
            if rotation is None:
                break
            made[after] = rotation @ made[before]
            for number in range(min(before, after) + 1, max(before, after)):
                rotation = _rotation(sights, before, number, intrinsics)
                if rotation is not None:
                    made[number] = rotation @ made[before]
    return made


def _rotation(sights: dict[int, Sight], first: int, second: int, intrinsics: Array) -> Array | None:
    return rotation_between(sights[first], sights[second], intrinsics)


def rotation_between(first: Sight, second: Sight, intrinsics: Array) -> Array | None:
    """The rigid motion (4, 4) from one camera's axes to another's at the same place; None where tracks in both pictures say that it moved.

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
    motion = np.eye(4)
    motion[:3, :3] = rotation
    return motion


def _rays(points: Array, intrinsics: Array) -> Array:
    """Unit directions (n, 3) of places in pixels (n, 2), the first pixel's centre at 0."""
    rays = np.column_stack([(points + 0.5 - intrinsics[2:]) / intrinsics[:2], np.ones(len(points))])
    return np.asarray(rays / np.linalg.norm(rays, axis=1, keepdims=True))
