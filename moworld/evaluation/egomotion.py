"""The camera's motion as a video shows it: dense optical flow, explained by the flow that known depth and a small motion imply.

A point at image position (x, y) / f and distance z along the view axis moves in the picture by a sum of three patterns: one for a turn to
the right, one for a step ahead, one for a step to the right (the motion field of Longuet-Higgins and Prazdny). Least squares finds how
much of each explains the flow between two frames; cells that move by themselves or were not matched hardly count.

A codec of four frames a latent blurs motion within the four, so motion is read from one latent frame to the next. That is too far for one
flow: the sum over the frames between is a first guess, the later frame is warped back by it, and the flow that is left corrects the guess.
Flow, weights and grid were chosen by how well they read recorded video, sharp and blurred, and never by generated video.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moworld.camera import se3

Array = NDArray[np.float64]
STRIDE = 4  # video frames of a latent frame
GRID = (24, 32)  # cells of a frame that flow and depth are read in
FLOW_WIDTH = 192  # the flow's patches of 8 pixels want more than a thumbnail
FAR, NEAR = 4.0, 0.02  # model units: the distance of everything where depth is not known, and the least that anything has
CORRECTIONS, REWEIGHTINGS = 4, 10
FEWEST_CELLS = 30  # that a guess must leave in the picture to be corrected


def optical_flow(frames: NDArray[np.uint8]) -> Array:
    """Dense flow between neighbours of frames (T, H, W, 3) uint8: (T - 1, h, w, 2) in shares of width and height, h and w at least H and W."""
    return np.stack([_flow(before, after) for before, after in pairwise(_grey(frames))])


def camera_motion(frames: NDArray[np.uint8], intrinsics: ArrayLike, depth: ArrayLike | None = None, stride: int = STRIDE) -> Array:
    """How the camera moved over every `stride` frames, read from the picture: (F, 3) of T = F stride + 1 frames or a few more.

    frames:     (T, H, W, 3) uint8; intrinsics: (4,) normalised
    depth:      (T, *GRID) distances along the view axis at the cells' centres; None takes everything to be FAR away, which leaves
                turning right and makes steps a guess
    returns:    degrees turned to the right, and steps ahead and to the right in the units of depth, about the earlier camera's own axes
    """
    used = (len(frames) - 1) // stride * stride + 1
    distance = np.full((used, *GRID), FAR) if depth is None else np.maximum(np.asarray(depth, dtype=np.float64)[:used], NEAR)
    grey, intrinsics = _grey(frames[:used]), np.asarray(intrinsics, dtype=np.float64)
    there = _read(grey, distance, intrinsics, stride)
    back = _read(grey[::-1], distance[::-1], intrinsics, stride)[::-1]
    return (there + _amounts(se3.invert(_poses(back)))) / 2 * (180 / np.pi, 1, 1)


def commanded_motion(c2w: ArrayLike, stride: int = STRIDE) -> Array:
    """The same three of poses (T, 4, 4), each about the earlier camera's own axes: (F, 3)."""
    c2w = np.asarray(c2w, dtype=np.float64)[::stride]
    return _amounts(se3.invert(c2w[:-1]) @ c2w[1:]) * (180 / np.pi, 1, 1)


def _read(grey: list[NDArray[np.uint8]], distance: Array, intrinsics: Array, stride: int) -> Array:
    """(F, 3) radians to the right, steps ahead and to the right; grey: frames (h, w); distance: (T, *GRID)."""
    cells = _cell_centres()
    rays = (cells - intrinsics[2:]) / intrinsics[:2]
    by_cell, at = distance.reshape(len(grey), -1), _indices(cells, grey[0].shape)
    steps = [
        _explain(_flow(before, after)[at], _patterns(rays, intrinsics[:2], known))
        for (before, after), known in zip(pairwise(grey), by_cell[:-1], strict=True)
    ]
    motions = np.array(steps).reshape(-1, stride, 3).sum(axis=1)
    for index, motion in enumerate(motions):
        start = index * stride
        for _ in range(CORRECTIONS):
            warped, inside = _warp_back(grey[start + stride], motion, distance[start], intrinsics)
            seen = inside[at]
            if seen.sum() < FEWEST_CELLS:
                break
            left_over = _flow(grey[start], warped, fine=False)[at][seen]
            motion += _explain(left_over, _patterns(rays[seen], intrinsics[:2], by_cell[start][seen]))
    return motions


def _warp_back(later: NDArray[np.uint8], motion: Array, distance: Array, intrinsics: Array) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The later frame (h, w) as the earlier camera would see it after `motion` at `distance` (*GRID), and which pixels it shows."""
    import cv2

    height, width = later.shape
    focal, centre = intrinsics[:2] * (width, height), intrinsics[2:] * (width, height) - 0.5
    distance = cv2.resize(distance, (width, height), interpolation=cv2.INTER_NEAREST)
    rays = (np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1) - centre) / focal
    points = np.concatenate([rays, np.ones_like(rays[..., :1])], axis=-1) * distance[..., None]
    pose = _poses(motion)
    points = (points - pose[:3, 3]) @ pose[:3, :3]
    at = (points[..., :2] / np.maximum(points[..., 2:], NEAR) * focal + centre).astype(np.float32)
    inside = ((at >= 1) & (at <= (width - 2, height - 2))).all(axis=-1) & (points[..., 2] > NEAR)
    warped = cv2.remap(later, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, dtype=np.uint8), inside


def _grey(frames: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Frames (T, H, W, 3) as brightness (h, w), enlarged to about FLOW_WIDTH."""
    import cv2

    height, width = frames.shape[1:3]
    scale = max(1, round(FLOW_WIDTH / width))
    size = (width * scale, height * scale)
    return [
        np.asarray(cv2.resize(cv2.cvtColor(each, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_CUBIC), np.uint8) for each in frames
    ]


def _flow(before: NDArray[np.uint8], after: NDArray[np.uint8], fine: bool = True) -> Array:
    """Dense flow (h, w, 2), in shares of width and height, from one brightness (h, w) to another; coarse flow heeds blurred detail less."""
    import cv2

    preset = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM if fine else cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST
    flow = cv2.DISOpticalFlow.create(preset).calc(before, after, None)
    return flow.astype(np.float64) / before.shape[::-1]


def _cell_centres() -> Array:
    """(cells, 2) column and row in shares of width and height."""
    row, column = np.meshgrid((np.arange(GRID[0]) + 0.5) / GRID[0], (np.arange(GRID[1]) + 0.5) / GRID[1], indexing="ij")
    return np.stack([column.ravel(), row.ravel()], axis=1)


def _indices(cells: Array, shape: tuple[int, ...]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column in an array of `shape` (h, w) of each of the cells (cells, 2)."""
    column, row = (cells * shape[::-1]).astype(np.intp).T
    return row, column


def _poses(motion: Array) -> Array:
    """(..., 4, 4) of the later camera in the earlier one's axes, of radians to the right and steps ahead and to the right (..., 3)."""
    turn, ahead, aside = np.moveaxis(motion, -1, 0)
    cos, sin, zero, one = np.cos(turn), np.sin(turn), np.zeros_like(turn), np.ones_like(turn)
    rotation = np.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], axis=-1).reshape(*turn.shape, 3, 3)
    return se3.rigid(rotation, np.stack([aside, zero, ahead], axis=-1))


def _amounts(pose: Array) -> Array:
    """Radians to the right and steps ahead and to the right (..., 3) of poses (..., 4, 4): undoes _poses."""
    return np.stack([np.arctan2(pose[..., 0, 2], pose[..., 2, 2]), pose[..., 2, 3], pose[..., 0, 3]], axis=-1)


def _patterns(rays: Array, focal: Array, distance: Array) -> Array:
    """Flow (cells, 2, 3), in shares of width and height, of one radian to the right, one unit ahead and one unit to the right."""
    x, y = rays.T
    turn = np.stack([-(1 + x * x), -x * y], axis=1)
    ahead = np.stack([x, y], axis=1) / distance[:, None]
    aside = np.stack([-1 / distance, np.zeros_like(x)], axis=1)
    return np.stack([turn, ahead, aside], axis=2) * focal[:, None]


def _explain(flow: Array, patterns: Array) -> Array:
    """(3,) amounts of the patterns (cells, 2, 3) that explain flow (cells, 2), with Geman and McClure's weights about the median residual."""
    weights = np.ones(len(flow))
    for _ in range(REWEIGHTINGS):
        root = np.sqrt(weights)[:, None]
        amounts = np.linalg.lstsq((patterns * root[..., None]).reshape(-1, 3), (flow * root).ravel(), rcond=None)[0]
        residual = np.linalg.norm(flow - patterns @ amounts, axis=1)
        weights = 1 / np.square(1 + np.square(residual / (1.5 * max(np.median(residual), 1e-9))))
    return np.asarray(amounts)
