"""Windows of a clip: they cover it, and a corner's error is what no point in front of the cameras explains."""

from itertools import pairwise

import numpy as np
import pytest

from moworld.camera.cameras import Cameras
from moworld.data.windows import Window, corner_errors, windows
from tests.moworld.data.room import render, walk

SIZE, LENS = (144, 256), np.array([200.0, 200.0, 128.0, 72.0])
FRACTIONS = LENS / [256, 144, 256, 144]


def projected(points: np.ndarray, c2w: np.ndarray) -> np.ndarray:
    """Returns pixels (n, T, 2) of points (n, 3)."""
    seen = points @ np.linalg.inv(c2w)[:, None, :3, :3].swapaxes(-1, -2)[:, 0] + np.linalg.inv(c2w)[:, None, :3, 3]
    return (seen[..., :2] / seen[..., 2:] * LENS[:2] + LENS[2:]).swapaxes(0, 1)


def made(c2w: np.ndarray, noise: float = 0.0) -> Window:
    generator = np.random.default_rng(1)
    points = generator.uniform([-2, -1, 6], [2, 1, 12], (50, 3))
    pixels = projected(points, c2w)
    return Window(tuple(range(len(c2w))), pixels + generator.normal(0, noise, pixels.shape), np.ones(len(c2w) - 1))


@pytest.mark.parametrize("kind", ["forward", "strafe", "turn", "curve"])
def test_right_cameras_explain_every_corner(kind: str):
    c2w = walk(kind, 6)
    cameras = Cameras.from_c2w(FRACTIONS, c2w)
    assert corner_errors(made(c2w), cameras, SIZE).max() < 0.02
    assert np.median(corner_errors(made(c2w, noise=0.3), cameras, SIZE)) == pytest.approx(0.5, abs=0.25)


def test_points_behind_the_cameras_explain_nothing():
    """With the opposite translation only a point behind the cameras fits, so the error is the parallax."""
    c2w = walk("strafe", 6)
    back = c2w.copy()
    back[:, 0, 3] *= -1
    window = made(c2w)
    errors = corner_errors(window, Cameras.from_c2w(FRACTIONS, back), SIZE)
    parallax = np.sqrt((np.linalg.norm(window.points[:, 1:] - window.points[:, :1], axis=2) ** 2).mean(axis=1))
    np.testing.assert_allclose(errors, parallax, rtol=1e-3)


def test_sizes_of_steps_count():
    c2w = walk("strafe", 6)
    uneven = c2w.copy()
    uneven[3:, 0, 3] += 0.1
    assert np.median(corner_errors(made(c2w), Cameras.from_c2w(FRACTIONS, uneven), SIZE)) > 0.4


def test_windows_cover_the_clip_and_end_after_enough_motion():
    found = list(windows(render(walk("turn"), list(LENS), SIZE)))
    assert found[0].frames[0] == 0 and found[-1].frames[-1] == 32
    assert all(one.frames[-1] == other.frames[0] for one, other in pairwise(found))
    assert all(len(window.speeds) == window.frames[-1] - window.frames[0] for window in found)
    moved = [np.median(np.linalg.norm(window.points[:, -1] - window.points[:, 0], axis=1)) for window in found[:-1]]
    assert min(moved) > 0.1 * 256 and max(moved) < 0.2 * 256
