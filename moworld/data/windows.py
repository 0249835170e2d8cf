"""Tracked corners over windows of a clip, and how well cameras explain them: one inverse depth per corner, in front of every camera.

Consecutive windows cover the whole clip, so a fault anywhere shows in the windows that it touches. A corner's depth is the only unknown:
the sizes of translations inside a window, their direction and the lens have to agree with the pictures.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from moworld.camera.cameras import Cameras
from moworld.data.tracks import tracked_step

Array = NDArray[np.float64]
Frames = NDArray[np.uint8]
CORNERS, APART = 300, 8  # corners at a window's first frame, and pixels between them
FEWEST = 30  # corners of a window that can be tested
ENOUGH_MOTION = 0.1  # of the width: median displacement that ends a window
LONGEST = 24  # steps of a window
SHORTEST = 3  # steps of a window that can be tested
SAMPLES = 6  # frames of a window that are compared
NEAREST_DEPTH = 0.02  # of the depth in the first frame: a nearer point is behind a camera or in its way
WORST = 100.0  # pixels: larger errors count as this
ITERATIONS = 6


@dataclass(frozen=True)
class Window:
    """Corners tracked from a window's first frame.

    frames: (K,) ascending frame numbers, of which the first is the reference
    points: (n, K, 2) positions in pixels, 0.5 at the first pixel's centre
    speeds: median displacement in pixels of each step from the first frame to the last
    """

    frames: tuple[int, ...]
    points: Array
    speeds: Array


def windows(frames: Iterable[Frames]) -> Iterator[Window]:
    """Yields the windows of a clip's frames (H, W, 3) uint8; stretches without corners give none.

    A window ends when its corners moved by a tenth of the width, when a half of them is lost, or after 24 steps. The next one begins
    with its last frame.
    """
    track: _Track | None = None
    for number, frame in enumerate(frames):
        grey = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
        if track is None:
            track = _Track(number, grey)
            continue
        track.step(grey)
        if track.complete:
            found = track.window()
            if found is not None:
                yield found
            track = _Track(number, grey)
    if track is not None and (found := track.window()) is not None:
        yield found


class _Track:
    """The corners of one window while it grows."""

    def __init__(self, start: int, grey: Frames) -> None:
        corners = cv2.goodFeaturesToTrack(grey, CORNERS, 0.01, APART, blockSize=5)
        first = np.zeros((0, 2), np.float32) if corners is None else corners[:, 0].astype(np.float32)
        self._start, self._grey, self._width = start, grey, grey.shape[1]
        self._seen, self._count, self._lost = [first], len(first), False

    def step(self, grey: Frames) -> None:
        if len(self._seen[-1]):
            there, found = tracked_step(self._grey, grey, self._seen[-1])
            self._lost = bool(found.sum() < FEWEST)  # the window ends before this frame
            if not self._lost:
                self._seen = [*(positions[found] for positions in self._seen), there[found]]
        self._grey = grey

    @property
    def complete(self) -> bool:
        first, last = self._seen[0], self._seen[-1]
        if self._lost or len(first) < FEWEST:
            return True
        moved = float(np.median(np.linalg.norm(last - first, axis=1)))
        steps = len(self._seen) - 1
        return steps >= LONGEST or (steps >= SHORTEST and (moved > ENOUGH_MOTION * self._width or len(first) < self._count / 2))

    def window(self) -> Window | None:
        steps = len(self._seen) - 1
        if len(self._seen[0]) < FEWEST or steps < SHORTEST:
            return None
        chosen = np.unique(np.linspace(0, steps, min(SAMPLES, steps + 1)).round().astype(int))
        points = np.stack([self._seen[index] for index in chosen], axis=1).astype(np.float64) + 0.5
        speeds = [np.median(np.linalg.norm(after - before, axis=1)) for before, after in pairwise(self._seen)]
        return Window(tuple((self._start + chosen).tolist()), points, np.array(speeds))


def corner_errors(window: Window, cameras: Cameras, size_hw: tuple[int, int]) -> Array:
    """Returns the error of each corner (n,) in pixels: root mean square over the window's later frames, at the best depth.

    The depth is positive and the point in front of every camera; a point at infinity is allowed. Where only the opposite direction of
    motion explains a corner, its error is therefore the parallax that it shows.
    """
    rotated, moved, focal, centre = _projection(window, cameras, size_hw)
    observed = window.points[:, 1:]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        inverse_depth = _solved(rotated, moved, (observed - centre) / focal)
        highest = np.where(moved[None, :, 2] < 0, (rotated[..., 2] - NEAREST_DEPTH) / -moved[None, :, 2], np.inf).min(axis=1)
        for _ in range(ITERATIONS):
            inverse_depth = np.clip(inverse_depth, 0.0, highest.clip(0.0))
            inverse_depth = inverse_depth + _newton(rotated, moved, inverse_depth, (observed - centre) / focal, focal)
        inverse_depth = np.clip(inverse_depth, 0.0, highest.clip(0.0))
        there = rotated + inverse_depth[:, None, None] * moved
        residual = there[..., :2] / there[..., 2:] * focal + centre - observed
        squared = np.where(there[..., 2] >= NEAREST_DEPTH, (residual**2).sum(axis=-1), WORST**2)
        errors = np.sqrt(np.nan_to_num(squared, nan=WORST**2, posinf=WORST**2).mean(axis=1))
    return np.minimum(errors, WORST)


def window_error(window: Window, cameras: Cameras, size_hw: tuple[int, int]) -> float:
    """Returns the median over a window's corners of `corner_errors`, pixels."""
    return float(np.median(corner_errors(window, cameras, size_hw)))


def _projection(window: Window, cameras: Cameras, size_hw: tuple[int, int]) -> tuple[Array, Array, Array, Array]:
    """Returns of the later frames: rotated rays (n, K, 3), translations (K, 3) over their largest, focal lengths (K, 2), centres (K, 2)."""
    scale = np.array([size_hw[1], size_hw[0], size_hw[1], size_hw[0]])
    lens = cameras.intrinsics[list(window.frames)] * scale
    relative = cameras.w2c[list(window.frames[1:])] @ cameras.c2w[window.frames[0]]
    rays = np.column_stack([(window.points[:, 0] - lens[0, 2:]) / lens[0, :2], np.ones(len(window.points))])
    rotated = np.einsum("kij,nj->nki", relative[:, :3, :3], rays)
    moved = relative[:, :3, 3]
    largest = np.linalg.norm(moved, axis=1).max()
    moved = moved / largest if largest > 1e-12 else np.zeros_like(moved)
    return rotated, moved, lens[1:, :2], lens[1:, 2:]


def _solved(rotated: Array, moved: Array, seen: Array) -> Array:
    """Returns the inverse depth (n,) of the linear least-squares problem, which is the start of `_newton`."""
    towards = moved[None, :, :2] - seen * moved[None, :, 2:]
    offset = rotated[..., :2] - seen * rotated[..., 2:]
    weight = (towards**2).sum(axis=(1, 2))
    return np.asarray(-(towards * offset).sum(axis=(1, 2)) / np.maximum(weight, 1e-12))


def _newton(rotated: Array, moved: Array, inverse_depth: Array, seen: Array, focal: Array) -> Array:
    """Returns the Gauss-Newton step (n,) of the inverse depth for the error in pixels."""
    there = rotated + inverse_depth[:, None, None] * moved
    depth = there[..., 2:].clip(NEAREST_DEPTH)
    residual = (there[..., :2] / depth - seen) * focal
    slope = (moved[None, :, :2] - there[..., :2] / depth * moved[None, :, 2:]) / depth * focal
    return np.asarray(-(residual * slope).sum(axis=(1, 2)) / np.maximum((slope**2).sum(axis=(1, 2)), 1e-9))
