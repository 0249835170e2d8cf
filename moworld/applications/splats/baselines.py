"""Baselines of protocol `splats`: recorded frames moved by depth; and the measures of all methods."""

import cv2
import numpy as np
from numpy.typing import NDArray

from moworld.data.points import unproject
from moworld.training.codec import psnr

Frames = NDArray[np.uint8]
Array = NDArray[np.float64]
NEAR = 1e-3  # model units


def forward_warp(frame: Frames, depth: NDArray[np.float32], c2w: Array, target: Array, lens: Array) -> Frames:
    """Returns a frame moved to a target pose by its own depth (H, W): the nearest point of each pixel; holes are inpainted."""
    height, width = depth.shape
    points = _points(depth, c2w, lens)
    camera = (points - target[:3, 3]) @ target[:3, :3]
    z = camera[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        column, row = (camera[..., axis] / z * lens[axis] + lens[2 + axis] for axis in (0, 1))
    seen = (z > NEAR) & (column >= 0) & (column < 1) & (row >= 0) & (row < 1)
    order = np.flatnonzero(seen)[np.argsort(-z[seen], kind="stable")]  # the nearest is written last
    at = (row.ravel()[order] * height).astype(int) * width + (column.ravel()[order] * width).astype(int)
    picture, hole = np.zeros((height * width, 3), np.uint8), np.ones(height * width, np.uint8)
    picture[at], hole[at] = frame.reshape(-1, 3)[order], 0
    return np.asarray(cv2.inpaint(picture.reshape(height, width, 3), hole.reshape(height, width), 3, cv2.INPAINT_TELEA), np.uint8)


def backward_warp(frame: Frames, c2w: Array, target: Array, depth: NDArray[np.float32], lens: Array) -> Frames:
    """Returns the target's picture looked up in a frame by the target's exact depth (H, W), which only the engine has; what the frame did not
    show is smeared."""
    height, width = depth.shape
    camera = (_points(depth, target, lens) - c2w[:3, 3]) @ c2w[:3, :3]
    at = (camera[..., :2] / np.maximum(camera[..., 2:], NEAR) * lens[:2] + lens[2:]) * (width, height) - 0.5
    at = np.clip(at, -1e4, 1e4).astype(np.float32)
    return np.asarray(cv2.remap(frame, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def _points(depth: NDArray[np.float32], c2w: Array, lens: Array) -> Array:
    return unproject(depth.astype(np.float64), lens, c2w).reshape(*depth.shape, 3)


def mean_psnr(made: Frames, truth: Frames) -> float:
    """Returns the mean over frames of the PSNR in dB."""
    errors = np.square((made.astype(np.float64) - truth) / 255).mean(axis=(1, 2, 3))
    return float(np.mean([psnr(float(error)) for error in errors]))


def mean_ssim(made: Frames, truth: Frames) -> float:
    """Returns the mean over frames of the structural similarity, by scikit-image."""
    from skimage.metrics import structural_similarity

    return float(np.mean([structural_similarity(a, b, channel_axis=-1) for a, b in zip(made, truth, strict=True)]))
