"""VBench's scores of one video as pure functions of the outputs of its networks: features, flow, interpolated frames (paper 6.1).

All scores are between 0 and 1. The rules, with their irregularities, follow VBench's public source; networks are in `vbench_networks`.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
FLOW_SHARE = 0.05  # share of the fastest pixels, whose mean speed is that of the frame
FLOW_RATE = 8  # frames per second at which flow is measured


def consistency(features: ArrayLike) -> Array:
    """Returns the mean similarity of each frame after the first to its predecessor and to the first frame (SC, BC).

    features: (T, D) of the frames, with any norm, T at least 2
    returns:  (T - 1,); the score of many videos is the mean over all frames, so long videos count more
    """
    vectors = np.asarray(features, dtype=np.float64)
    before, first = _similarity(vectors[1:], vectors[:-1]), _similarity(vectors[1:], vectors[:1])
    return (before + first) / 2


def first_frame_kept(image: ArrayLike, features: ArrayLike) -> float:
    """Returns the similarity of a video to its first image (I2V-S, I2V-B).

    It is 0.4 of the best similarity of a frame to the image, 0.3 of the mean and 0.3 of the worst similarity of neighbouring frames. VBench
    takes mean and worst between neighbours, not to the image, so a slow departure from the image is not penalised.
    image: (D,) features of the image; features: (T, D) of the frames, T at least 2
    """
    vectors, target = np.asarray(features, dtype=np.float64), np.asarray(image, dtype=np.float64)
    to_image, between = _similarity(vectors, target), _similarity(vectors[1:], vectors[:-1])
    return float(0.4 * to_image.max() + 0.3 * between.mean() + 0.3 * between.min())


def smoothness(frames: NDArray[np.uint8], interpolated: NDArray[np.uint8]) -> float:
    """Returns 1 minus the mean absolute difference of odd frames and those interpolated between even ones (MS).

    frames:       (T, H, W, 3), T at least 3
    interpolated: (ceil(T / 2) - 1, H, W, 3), the frames between even neighbours
    Raises ValueError if the numbers of frames do not match.
    """
    dropped = frames[1::2][: len(interpolated)]  # with an even number of frames, the last odd one has no even one after it
    if len(dropped) != len(interpolated) or len(interpolated) != (len(frames) + 1) // 2 - 1 or not len(dropped):
        raise ValueError(f"{len(interpolated)} interpolated frames for {len(frames)}")
    per_pair = [np.abs(a.astype(np.int16) - b.astype(np.int16)).mean() for a, b in zip(dropped, interpolated, strict=True)]
    return float((255.0 - np.mean(per_pair)) / 255.0)


def sampled_for_flow(num_frames: int, fps: float) -> NDArray[np.int64]:
    """Returns the frames between which flow is measured: every round(fps / 8)-th, about 8 per second, or all at a lower rate."""
    return np.arange(0, num_frames, max(1, round(fps / FLOW_RATE)))


def flow_speed(flow: ArrayLike) -> float:
    """Returns the mean length of the fastest 5 % of a flow field (2, H, W) in pixels."""
    lengths = np.hypot(*np.asarray(flow, dtype=np.float64)).ravel()
    count = int(len(lengths) * FLOW_SHARE)
    return float(np.partition(lengths, -count)[-count:].mean())


def is_dynamic(speeds: list[float], height: int, width: int) -> bool:
    """Returns whether a video is dynamic (DD): a quarter of its sampled frames, rounded, have a flow above the threshold.

    speeds: of the T - 1 pairs of sampled neighbours; two sampled frames need no pair (VBench rounds a half to even)
    height, width: of the frames before padding
    """
    needed = round(4 * (len(speeds) + 1) / 16)
    return bool(speeds) and sum(speed > dynamic_threshold(height, width) for speed in speeds) >= needed


def dynamic_threshold(height: int, width: int) -> float:
    """Returns the flow in pixels above which a frame pair counts as moving (DD): 6 pixels for a shorter side of 256."""
    return 6.0 * min(height, width) / 256.0


def _similarity(one: Array, other: Array) -> Array:
    """Returns the cosine of vectors along the last dim, at least 0."""
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return np.maximum(0.0, (one * other).sum(axis=-1) / np.maximum(lengths, 1e-12))
