"""The engine's camera: its lens and poses, and pictures of a camera that looks up or down.

The engine looks up and down by shifting its picture (y-shearing): the image plane stays vertical. A camera that really pitches sees the
same rays on another plane, so its picture is looked up in a sheared one with a wider field of view. There is no depth with it: at another
field of view than 90 degrees the engine scales the depth of walls, but not of floors.
"""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from moworld.camera import se3

PIXEL_ASPECT = 1.2  # the engine draws pixels 1.2 times as tall as wide, so fy = 1.2 fx in pixels
WIDE_FOV = 110.0  # degrees: covers 90 degrees at MAX_LOOK
MAX_LOOK = 18.0  # degrees up and down

Array = NDArray[np.float64]


def engine_intrinsics(width: int, height: int, fov_degrees: float = 90.0) -> Array:
    """Returns (4,) normalised intrinsics of the engine's image for a horizontal field of view."""
    fx = 0.5 / np.tan(np.radians(fov_degrees) / 2)
    return np.array([fx, fx * width / height * PIXEL_ASPECT, 0.5, 0.5])


def engine_c2w(x: float, y: float, z: float, angle_degrees: float, pitch_degrees: float = 0.0) -> Array:
    """Returns (4, 4) camera to world of an engine pose in a world with x east, y north, z up.

    angle_degrees counts from east to north, pitch_degrees downwards.
    """
    angle, pitch = np.radians(angle_degrees), np.radians(pitch_degrees)
    right = np.array([np.sin(angle), -np.cos(angle), 0.0])
    forward = np.array([np.cos(angle) * np.cos(pitch), np.sin(angle) * np.cos(pitch), -np.sin(pitch)])
    return se3.rigid(np.stack([right, np.cross(forward, right), forward], axis=1), np.array([x, y, z]))


def looks_of(actions: Sequence[str], degrees: float) -> Array:
    """Returns the degrees upwards, (T + 1,), from a level start along T actions: i looks up, k down, at most MAX_LOOK."""
    up = np.zeros(len(actions) + 1)
    for index, keys in enumerate(actions):
        up[index + 1] = np.clip(up[index] + degrees * (("i" in keys) - ("k" in keys)), -MAX_LOOK, MAX_LOOK)
    return up


@lru_cache(maxsize=64)
def _lookup(width: int, height: int, pitch: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns for each pixel of a camera of 90 degrees, pitched downwards, its column and row in the wide sheared picture."""
    down = np.radians(pitch)
    fx, fy, *_ = engine_intrinsics(width, height)
    wide_fx, wide_fy, *_ = engine_intrinsics(width, height, WIDE_FOV)
    x = ((np.arange(width) + 0.5) / width - 0.5)[None, :] / fx
    y = ((np.arange(height) + 0.5) / height - 0.5)[:, None] / fy
    ahead = np.cos(down) - y * np.sin(down)  # of a ray, along the level axis
    below = (y * np.cos(down) + np.sin(down)) / ahead - np.tan(down)  # the shear moves the horizon by the tangent of the pitch
    columns = (0.5 + wide_fx * x / ahead) * width - 0.5
    rows = np.broadcast_to((0.5 + wide_fy * below) * height - 0.5, columns.shape)
    return columns.astype(np.float32), np.ascontiguousarray(rows, np.float32)


def pitched_picture(sheared: NDArray[np.uint8], pitch: float) -> NDArray[np.uint8]:
    """Returns the picture (H, W, 3) of a camera of 90 degrees, pitched downwards, from the engine's picture at WIDE_FOV and this pitch."""
    height, width = sheared.shape[:2]
    columns, rows = _lookup(width, height, pitch)
    return np.asarray(cv2.remap(sheared, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.uint8)
