"""The camera's motion as a video shows it: dense optical flow, explained by the flow that known depth and a small motion imply.

A point at image position (x, y) / f and distance z along the view axis moves in the picture by a sum of three patterns: one for a turn to
the right, one for a step ahead, one for a step to the right (the motion field of Longuet-Higgins and Prazdny). Least squares finds how
much of each explains the flow between two frames; cells that move by themselves or were not matched are weighed down.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moworld.camera import se3

Array = NDArray[np.float64]
GRID = (12, 16)  # cells of a frame that flow and depth are read in
FLOW_WIDTH = 192  # the flow's patches of 8 pixels want more than a thumbnail
FAR = 4.0  # model units; the distance of everything where depth is not known
REWEIGHTINGS = 10


def optical_flow(frames: NDArray[np.uint8]) -> Array:
    """Dense flow between neighbours of frames (T, H, W, 3) uint8: (T - 1, h, w, 2) in shares of width and height, h and w at least H and W."""
    import cv2

    height, width = frames.shape[1:3]
    scale = max(1, round(FLOW_WIDTH / width))
    flow_of = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    size = (width * scale, height * scale)
    grey = [cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_CUBIC) for frame in frames]
    return np.stack([flow_of.calc(before, after, None) for before, after in pairwise(grey)]).astype(np.float64) / size


def camera_motion(frames: NDArray[np.uint8], intrinsics: ArrayLike, depth: ArrayLike | None = None) -> Array:
    """How the camera moved from each frame to the next, read from the picture: (T - 1, 3).

    frames:     (T, H, W, 3) uint8; intrinsics: (4,) normalised
    depth:      (T, *GRID) distances along the view axis at the cells' centres; None takes everything to be FAR away, which leaves
                turning right and makes steps a guess
    returns:    degrees turned to the right, and steps ahead and to the right in the units of depth
    """
    flow, cells = optical_flow(frames), _cell_centres()
    rows, columns = ((cells[:, axis] * flow.shape[axis + 1]).astype(int) for axis in (0, 1))
    distances = np.full((len(frames), len(cells)), FAR) if depth is None else np.asarray(depth, dtype=np.float64).reshape(len(frames), -1)
    rays = (cells[:, ::-1] - np.asarray(intrinsics)[2:]) / np.asarray(intrinsics)[:2]
    motions = [
        _explain(field[rows, columns], _patterns(rays, np.asarray(intrinsics)[:2], np.maximum(at, 1e-3)))
        for field, at in zip(flow, distances, strict=False)
    ]
    return np.array(motions) * (180 / np.pi, 1, 1)


def commanded_motion(c2w: ArrayLike) -> Array:
    """The same three of poses (T, 4, 4), each about the earlier camera's own axes: (T - 1, 3)."""
    c2w = np.asarray(c2w, dtype=np.float64)
    step = se3.invert(c2w[:-1]) @ c2w[1:]
    return np.stack([np.degrees(np.arctan2(step[:, 0, 2], step[:, 2, 2])), step[:, 2, 3], step[:, 0, 3]], axis=1)


def by_latent_frame(motion: Array) -> Array:
    """Sums (F, 3) over the four video frames of each latent frame of (4 F, 3): the grain in which a model is told its cameras.

    A codec of four frames a latent blurs motion within the four; over all four it is right.
    """
    return motion[: len(motion) // 4 * 4].reshape(-1, 4, motion.shape[1]).sum(axis=1)


def _cell_centres() -> Array:
    """(cells, 2) row and column in shares of height and width."""
    row, column = np.meshgrid((np.arange(GRID[0]) + 0.5) / GRID[0], (np.arange(GRID[1]) + 0.5) / GRID[1], indexing="ij")
    return np.stack([row.ravel(), column.ravel()], axis=1)


def _patterns(rays: Array, focal: Array, distance: Array) -> Array:
    """Flow (cells, 2, 3), in shares of width and height, of one radian to the right, one unit ahead and one unit to the right."""
    x, y = rays.T
    turn = np.stack([-(1 + x * x), -x * y], axis=1)
    ahead = np.stack([x, y], axis=1) / distance[:, None]
    aside = np.stack([-1 / distance, np.zeros_like(x)], axis=1)
    return np.stack([turn, ahead, aside], axis=2) * focal[:, None]


def _explain(flow: Array, patterns: Array) -> Array:
    """(3,) amounts of the patterns (cells, 2, 3) that explain flow (cells, 2), with Huber's weights about the median residual."""
    weights = np.ones(len(flow))
    for _ in range(REWEIGHTINGS):
        root = np.sqrt(weights)[:, None]
        amounts = np.linalg.lstsq((patterns * root[..., None]).reshape(-1, 3), (flow * root).ravel(), rcond=None)[0]
        residual = np.linalg.norm(flow - patterns @ amounts, axis=1)
        weights = np.minimum(1, 1.5 * max(np.median(residual), 1e-9) / np.maximum(residual, 1e-9))
    return np.asarray(amounts)
