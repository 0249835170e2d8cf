"""What a trajectory says of itself: steps, jitter, jumps. Thresholds are handed in; what is beyond them is split or rejected elsewhere."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from moworld.camera.cameras import Cameras
from moworld.camera.se3 import rotation_angle_degrees, rotation_steps_degrees

STANDING = 0.01  # of the largest step: less is a camera that stands still, and jitter of its recovered pose


def translation_steps(cameras: Cameras) -> NDArray[np.float64]:
    """(T - 1,) distances between neighbouring centres in multiples of the median one of moving frames; 0 where nothing moves."""
    steps = np.linalg.norm(np.diff(cameras.c2w[:, :3, 3], axis=0), axis=1)
    moving = steps[steps > STANDING * max(float(steps.max(initial=0.0)), 1e-12)]
    return np.asarray(steps / np.median(moving) if len(moving) else np.zeros_like(steps))


def measure_trajectory(cameras: Cameras) -> dict[str, float]:
    """Measures of T >= 2 cameras: the largest steps, jitter in degrees (mean change of the turn from frame to frame), path in native units."""
    relative = np.swapaxes(cameras.w2c[:-1, :3, :3], -1, -2)
    turns = cameras.w2c[1:, :3, :3] @ relative
    changes = rotation_angle_degrees(turns[1:] @ np.swapaxes(turns[:-1], -1, -2)) if len(turns) > 1 else np.zeros(1)
    return {
        "max_rotation_step_degrees": round(float(rotation_steps_degrees(cameras.w2c).max()), 4),
        "max_translation_step": round(float(translation_steps(cameras).max()), 4),
        "jitter_degrees": round(float(changes.mean()), 4),
        "path_length": round(float(np.linalg.norm(np.diff(cameras.c2w[:, :3, 3], axis=0), axis=1).sum()), 4),
    }


def stretches(cameras: Cameras, max_rotation_degrees: float, max_translation: float) -> list[tuple[int, int]]:
    """Runs of frames [start, stop) between jumps: steps that turn further, or go further (in median steps), than allowed."""
    jumps = (rotation_steps_degrees(cameras.w2c) > max_rotation_degrees) | (translation_steps(cameras) > max_translation)
    edges = [0, *(np.flatnonzero(jumps) + 1).tolist(), len(cameras)]
    return list(pairwise(edges))
