"""Camera motion measured in a video: dense optical flow, fitted by the flow of known depth and a small motion.

A point at image position (x, y) / f and distance z along the view axis moves by a sum of three patterns: a turn to the right, a step
ahead, and a step to the right (the motion field of Longuet-Higgins and Prazdny). Least squares finds the amount of each between two
frames; robust weights suppress cells with own motion or without a match.

A codec with four video frames per latent frame blurs the motion within the four, so motion is measured from one latent frame to the next.
That is too far for one flow. The sum over the frames between is a first estimate; the later frame is warped back by it, and the remaining
flow corrects it. Flow, weights and grid were chosen on recorded video, sharp and blurred, never on generated video.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moworld.camera import se3

Array = NDArray[np.float64]
STRIDE = 4  # video frames of a latent frame
GRID = (24, 32)  # cells of a frame in which flow and depth are sampled
FLOW_WIDTH = 192  # pixels; the flow's patches of 8 pixels need a larger image than a thumbnail
FAR, NEAR = 4.0, 0.02  # model units: the distance of all cells without depth, and the smallest distance
CORRECTIONS, REWEIGHTINGS = 4, 10
FEWEST_CELLS = 30  # cells that an estimate must leave in the image to be corrected


def optical_flow(frames: NDArray[np.uint8]) -> Array:
    """Returns the flow between neighbouring frames (T, H, W, 3) uint8: (T - 1, h, w, 2), shares of width and height; h >= H, w >= W."""
    return np.stack([_flow(before, after) for before, after in pairwise(_grey(frames))])


def camera_motion(frames: NDArray[np.uint8], intrinsics: ArrayLike, depth: ArrayLike | None = None, stride: int = STRIDE) -> Array:
    """Returns the camera motion over every `stride` frames: (F, 3) for F stride + 1 frames; surplus frames are ignored.

    frames:     (T, H, W, 3) uint8; intrinsics: (4,) normalised
    depth:      (T, *GRID) distances along the view axis at the cells' centres; None assumes FAR everywhere: turning stays correct, steps do not
    returns:    degrees turned right, steps ahead and to the right in the units of depth, in the axes of the earlier camera
    """
    used = (len(frames) - 1) // stride * stride + 1
    distance = np.full((used, *GRID), FAR) if depth is None else np.maximum(np.asarray(depth, dtype=np.float64)[:used], NEAR)
    grey, intrinsics = _grey(frames[:used]), np.asarray(intrinsics, dtype=np.float64)
    there = _measure(grey, distance, intrinsics, stride)
    back = _measure(grey[::-1], distance[::-1], intrinsics, stride)[::-1]
    return (there + _amounts(se3.invert(_poses(back)))) / 2 * (180 / np.pi, 1, 1)


def pitch_motion(frames: NDArray[np.uint8], intrinsics: ArrayLike, stride: int = STRIDE) -> Array:
    """Returns the degrees upwards over every `stride` frames, (F,), of a camera that only turns; frames and intrinsics as for `camera_motion`."""
    grey, intrinsics = _grey(frames[: (len(frames) - 1) // stride * stride + 1]), np.asarray(intrinsics, dtype=np.float64)
    rays, at = _cells(intrinsics, grey[0].shape)
    x, y = rays.T
    patterns = np.stack([_patterns(rays, intrinsics[:2], np.ones(len(x)))[..., 0], np.stack([x * y, 1 + y * y], axis=1) * intrinsics[:2]], axis=2)
    steps = [_fit(_flow(before, after)[at], patterns)[1] for before, after in pairwise(grey)]
    return np.degrees(np.array(steps).reshape(-1, stride).sum(axis=1))


def commanded_pitch(c2w: ArrayLike, stride: int = STRIDE) -> Array:
    """Returns the same degrees upwards (F,) for poses (T, 4, 4)."""
    forward = np.asarray(c2w, dtype=np.float64)[::stride, :3, 2]
    return np.diff(np.degrees(np.arcsin(np.clip(-forward[:, 1], -1, 1))))


def commanded_motion(c2w: ArrayLike, stride: int = STRIDE) -> Array:
    """Returns the same three amounts (F, 3) for poses (T, 4, 4), in the axes of the earlier camera."""
    c2w = np.asarray(c2w, dtype=np.float64)[::stride]
    return _amounts(se3.invert(c2w[:-1]) @ c2w[1:]) * (180 / np.pi, 1, 1)


def motion_poses(motion: ArrayLike) -> Array:
    """Returns the later camera in the earlier one's axes (F, 4, 4) for motions (F, 3) of `camera_motion`."""
    return _poses(np.asarray(motion, dtype=np.float64) * (np.pi / 180, 1, 1))


def _measure(grey: list[NDArray[np.uint8]], distance: Array, intrinsics: Array, stride: int) -> Array:
    """Returns (F, 3) radians right, steps ahead and right; grey: frames (h, w); distance: (T, *GRID)."""
    rays, at = _cells(intrinsics, grey[0].shape)
    by_cell = distance.reshape(len(grey), -1)
    steps = [
        _fit(_flow(before, after)[at], _patterns(rays, intrinsics[:2], known))
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
            remaining = _flow(grey[start], warped, fine=False)[at][seen]
            motion += _fit(remaining, _patterns(rays[seen], intrinsics[:2], by_cell[start][seen]))
    return motions


def _cells(intrinsics: Array, size_hw: tuple[int, ...]) -> tuple[Array, tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Returns the rays (cells, 2) through the centres of the cells of GRID, and their rows and columns in an image."""
    cells = (np.stack(np.meshgrid(np.arange(GRID[1]), np.arange(GRID[0])), axis=-1).reshape(-1, 2) + 0.5) / GRID[::-1]
    columns, rows = (cells * size_hw[::-1]).astype(np.intp).T
    return (cells - intrinsics[2:]) / intrinsics[:2], (rows, columns)


def _warp_back(later: NDArray[np.uint8], motion: Array, distance: Array, intrinsics: Array) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Returns the later frame (h, w) warped to the earlier camera, given `motion` and `distance` (*GRID), and the mask of valid pixels."""
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
    """Returns frames (T, H, W, 3) as brightness (h, w), enlarged to about FLOW_WIDTH."""
    import cv2

    height, width = frames.shape[1:3]
    scale = max(1, round(FLOW_WIDTH / width))
    size = (width * scale, height * scale)
    return [
        np.asarray(cv2.resize(cv2.cvtColor(each, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_CUBIC), np.uint8) for each in frames
    ]


def _flow(before: NDArray[np.uint8], after: NDArray[np.uint8], fine: bool = True) -> Array:
    """Returns flow (h, w, 2) in shares of width and height between two images (h, w); coarse flow is less sensitive to blurred detail."""
    import cv2

    preset = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM if fine else cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST
    flow = cv2.DISOpticalFlow.create(preset).calc(before, after, None)
    return flow.astype(np.float64) / before.shape[::-1]


def _poses(motion: Array) -> Array:
    """Returns the later camera in the earlier one's axes (..., 4, 4) from radians right, steps ahead and right (..., 3)."""
    turn, ahead, aside = np.moveaxis(motion, -1, 0)
    cos, sin, zero, one = np.cos(turn), np.sin(turn), np.zeros_like(turn), np.ones_like(turn)
    rotation = np.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], axis=-1).reshape(*turn.shape, 3, 3)
    return se3.rigid(rotation, np.stack([aside, zero, ahead], axis=-1))


def _amounts(pose: Array) -> Array:
    """Returns radians right, steps ahead and right (..., 3) of poses (..., 4, 4): the inverse of _poses."""
    return np.stack([np.arctan2(pose[..., 0, 2], pose[..., 2, 2]), pose[..., 2, 3], pose[..., 0, 3]], axis=-1)


def _patterns(rays: Array, focal: Array, distance: Array) -> Array:
    """Returns the flow (cells, 2, 3), in shares of width and height, of one radian right, one unit ahead and one unit right."""
    x, y = rays.T
    turn = np.stack([-(1 + x * x), -x * y], axis=1)
    ahead = np.stack([x, y], axis=1) / distance[:, None]
    aside = np.stack([-1 / distance, np.zeros_like(x)], axis=1)
    return np.stack([turn, ahead, aside], axis=2) * focal[:, None]


def _fit(flow: Array, patterns: Array) -> Array:
    """Returns the amounts (n,) of the patterns (cells, 2, n) fitted to flow (cells, 2), with Geman-McClure weights about the median residual."""
    weights = np.ones(len(flow))
    for _ in range(REWEIGHTINGS):
        root = np.sqrt(weights)[:, None]
        amounts = np.linalg.lstsq((patterns * root[..., None]).reshape(-1, patterns.shape[2]), (flow * root).ravel(), rcond=None)[0]
        residual = np.linalg.norm(flow - patterns @ amounts, axis=1)
        weights = 1 / np.square(1 + np.square(residual / (1.5 * max(np.median(residual), 1e-9))))
    return np.asarray(amounts)
