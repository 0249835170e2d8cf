"""How far a world looks from its first picture: contrast, saturation and sharpness of the newest frames beside those of the opened one.

Over hundreds of frames a small model's world fades, blurs or is coloured in; the page says so and offers to begin again. These statistics of
pictures say that something changed, not what: a walk from a garden into a grey cellar changes them, too.
"""

from collections import deque
from math import ceil

import numpy as np
from numpy.typing import NDArray

from moworld.video import Frames

LOOKS = ("contrast", "saturation", "sharpness")
FACTOR = 1.6  # by which one of them is larger or smaller if the drift is 1: seen in walks of 200 frames that had blurred
CHUNKS = 4  # over which they are averaged: a view of one wall is not drift
PIXELS = 100_000  # of a frame that are looked at
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class Drift:
    """Collects chunks of frames. value: 0 for a world that looks as it began, 1 and more for one that is far from it."""

    def __init__(self, first: Frames | None = None) -> None:
        self.first = None if first is None else _looks(first[-1])
        self.newest = deque[NDArray[np.float64]](maxlen=CHUNKS)

    def add(self, frames: Frames) -> None:
        """Adds a chunk (T, H, W, 3) uint8, by its last frame."""
        self.newest.append(_looks(frames[-1]))

    @property
    def value(self) -> float:
        """The largest change of one of LOOKS, as a logarithm to the base `FACTOR`; 0 until there are `CHUNKS` chunks."""
        if self.first is None or len(self.newest) < CHUNKS:
            return 0.0
        return float(np.abs(np.log((np.mean(self.newest, 0) + 1) / (self.first + 1))).max() / np.log(FACTOR))


def _looks(frame: Frames) -> NDArray[np.float64]:
    """Returns LOOKS of a frame (H, W, 3) uint8: deviation of luma, saturation 0 to 255, deviation of the Laplacian of luma."""
    step = ceil(np.sqrt(frame.shape[0] * frame.shape[1] / PIXELS))
    pixels = frame[::step, ::step].astype(np.float32)
    luma, high = pixels @ LUMA, pixels.max(-1)
    saturation = 255 * ((high - pixels.min(-1)) / np.maximum(high, 1)).mean()
    laplacian = 4 * luma[1:-1, 1:-1] - luma[:-2, 1:-1] - luma[2:, 1:-1] - luma[1:-1, :-2] - luma[1:-1, 2:]
    return np.array([luma.std(), saturation, laplacian.std()], np.float64)
