"""VBench's scores of one video as pure functions of what its networks say (paper 6.1): features, flow, interpolated frames.

All scores are shares of 1. The rules and their quirks are VBench's, read from its public source; networks stand in `vbench_networks`.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
FLOW_SHARE = 0.05  # the fastest share of the pixels, whose mean speed stands for the frame
FLOW_RATE = 8  # frames a second at which flow is read


def consistency(features: ArrayLike) -> Array:
    """How alike each frame but the first is to the one before and to the first, mean of the two (SC, BC).

    features: (T, D) of the frames, of any length each, T at least 2
    returns:  (T - 1,); the score of many videos is the mean over all their frames, so that long videos count more
    """
    unit = _unit(features)
    before, first = _similarity(unit[1:], unit[:-1]), _similarity(unit[1:], unit[:1])
    return (before + first) / 2


def first_frame_kept(image: ArrayLike, features: ArrayLike) -> float:
    """How well a video keeps the picture it was given (I2V-S, I2V-B).

    0.4 of the best similarity of a frame to the picture, 0.3 of the mean and 0.3 of the worst similarity of neighbouring frames. VBench
    takes mean and worst between neighbours, not to the picture: a video that leaves its picture slowly keeps its score.
    image: (D,) features of the picture; features: (T, D) of the frames, T at least 2
    """
    unit, picture = _unit(features), _unit(np.atleast_2d(np.asarray(image, dtype=np.float64)))
    to_picture, between = _similarity(unit, picture), _similarity(unit[1:], unit[:-1])
    return float(0.4 * to_picture.max() + 0.3 * between.mean() + 0.3 * between.min())


def smoothness(frames: NDArray[np.uint8], interpolated: NDArray[np.uint8]) -> float:
    """How well the odd frames are foretold by interpolating between the even ones (MS): 1 less the mean absolute difference.

    frames:       (T, H, W, 3), T at least 3
    interpolated: (ceil(T / 2) - 1, H, W, 3), the frames between even neighbours
    """
    dropped = frames[1::2][: len(interpolated)]  # an even number of frames has a last odd one with no even one after it
    if len(dropped) != len(interpolated) or len(interpolated) != (len(frames) + 1) // 2 - 1 or not len(dropped):
        raise ValueError(f"{len(interpolated)} interpolated frames for {len(frames)}")
    per_pair = [np.abs(a.astype(np.int16) - b.astype(np.int16)).mean() for a, b in zip(dropped, interpolated, strict=True)]
    return float((255.0 - np.mean(per_pair)) / 255.0)


def sampled_for_flow(num_frames: int, fps: float) -> NDArray[np.int64]:
    """Which frames flow is read between: every round(fps / 8)-th, so about 8 a second; all of a video that has fewer."""
    return np.arange(0, num_frames, max(1, round(fps / FLOW_RATE)))


def flow_speed(flow: ArrayLike) -> float:
    """Mean length of the fastest 5 % of a flow field (2, H, W), pixels."""
    lengths = np.hypot(*np.asarray(flow, dtype=np.float64)).ravel()
    count = int(len(lengths) * FLOW_SHARE)
    return float(np.partition(lengths, -count)[-count:].mean())


def is_dynamic(speeds: list[float], height: int, width: int) -> bool:
    """Whether a video moves (DD): a quarter of its sampled frames, rounded, are followed by a flow above 6 pixels at 256.

    speeds: of the T - 1 pairs of sampled neighbours. Two sampled frames need no pair at all (VBench rounds a half to even).
    height, width: of the frames, before any padding
    """
    needed = round(4 * (len(speeds) + 1) / 16)
    return bool(speeds) and sum(speed > dynamic_threshold(height, width) for speed in speeds) >= needed


def dynamic_threshold(height: int, width: int) -> float:
    """Optical flow in pixels, at 8 frames a second, above which a frame pair counts as moving (DD)."""
    return 6.0 * min(height, width) / 256.0


def _unit(features: ArrayLike) -> Array:
    vectors = np.asarray(features, dtype=np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _similarity(one: Array, other: Array) -> Array:
    """Cosine of unit vectors, never below 0."""
    return np.maximum(0.0, (one * other).sum(axis=-1))
