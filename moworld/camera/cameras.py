"""The camera type of a sequence (paper 3.2): normalised intrinsics and world-to-camera matrices, OpenCV axes.

`formats` converts files to it. Resizing does not change normalised intrinsics; cropping does.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moworld.camera import se3

Array = NDArray[np.float64]
Frame = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Cameras:
    """Cameras of T frames.

    intrinsics: (T, 4) float64 fx, fy, cx, cy as fractions of width, height, width, height
    w2c:        (T, 4, 4) float64 world to camera, OpenCV axes (x right, y down, z forward)
    Raises ValueError if the shapes disagree.
    """

    intrinsics: Array
    w2c: Array

    def __post_init__(self) -> None:
        intrinsics, w2c = np.array(self.intrinsics, dtype=np.float64), np.array(self.w2c, dtype=np.float64)
        if intrinsics.ndim != 2 or intrinsics.shape[1] != 4 or w2c.shape != (len(intrinsics), 4, 4):
            raise ValueError(f"intrinsics {intrinsics.shape} and w2c {w2c.shape} are not (T, 4) and (T, 4, 4)")
        intrinsics.setflags(write=False)
        w2c.setflags(write=False)
        object.__setattr__(self, "intrinsics", intrinsics)
        object.__setattr__(self, "w2c", w2c)

    @classmethod
    def from_c2w(cls, intrinsics: ArrayLike, c2w: ArrayLike) -> "Cameras":
        """Returns cameras of (T, 4) or (4,) normalised intrinsics and (T, 4, 4) camera-to-world poses."""
        w2c = se3.invert(c2w)
        return cls(np.broadcast_to(np.asarray(intrinsics, dtype=np.float64), (len(w2c), 4)), w2c)

    @property
    def c2w(self) -> Array:
        """(T, 4, 4) camera to world."""
        return se3.invert(self.w2c)

    def __len__(self) -> int:
        return len(self.w2c)

    def slice(self, start: int, stop: int | None = None) -> "Cameras":
        """Returns frames start to stop (exclusive)."""
        return Cameras(self.intrinsics[start:stop], self.w2c[start:stop])

    def relative_to(self, index: int = 0) -> "Cameras":
        """Returns the cameras in the frame of camera `index`, which becomes the identity."""
        return Cameras(self.intrinsics, self.w2c @ se3.invert(self.w2c[index]))

    def scaled(self, scale: float) -> "Cameras":
        """Returns the cameras with translations divided by `scale` (native units per new unit)."""
        w2c = self.w2c.copy()
        w2c[:, :3, 3] /= scale
        return Cameras(self.intrinsics, w2c)

    def cropped(self, x0: float, y0: float, x1: float, y1: float) -> "Cameras":
        """Returns the cameras of images cropped to x0..x1, y0..y1 (fractions of width and height). Raises ValueError for an empty crop."""
        if not (x0 < x1 and y0 < y1):
            raise ValueError(f"empty crop {(x0, y0, x1, y1)}")
        fx, fy, cx, cy = self.intrinsics.T
        width, height = x1 - x0, y1 - y0
        return Cameras(np.stack([fx / width, fy / height, (cx - x0) / width, (cy - y0) / height], axis=1), self.w2c)

    def resample(self, times: ArrayLike) -> "Cameras":
        """Returns cameras at fractional frame indices `times` (N,): Slerp for rotations, linear for centres and intrinsics.

        Raises ValueError for times outside 0 to T - 1.
        """
        from scipy.spatial.transform import Rotation, Slerp

        times = np.asarray(times, dtype=np.float64)
        if len(times) and (times.min() < 0 or times.max() > len(self) - 1):
            raise ValueError(f"times {times.min()} to {times.max()} are outside 0 to {len(self) - 1}")
        if len(self) == 1:
            return Cameras(np.repeat(self.intrinsics, len(times), axis=0), np.repeat(self.w2c, len(times), axis=0))
        frames, c2w = np.arange(len(self)), self.c2w
        rotations = Slerp(frames, Rotation.from_matrix(c2w[:, :3, :3]))(times).as_matrix()
        centres = np.stack([np.interp(times, frames, c2w[:, axis, 3]) for axis in range(3)], axis=1)
        intrinsics = np.stack([np.interp(times, frames, self.intrinsics[:, i]) for i in range(4)], axis=1)
        return Cameras(intrinsics, se3.invert(se3.rigid(rotations, centres)))


def translation_scale(w2c: ArrayLike) -> float:
    """Returns the scale of a sequence: ||T||_F / sqrt(3 (N - 1)) / 2, T the w2c translations of frames 1..N-1 relative to frame 0.

    w2c: (N, 4, 4), native units. Translations divided by the scale have a root mean square of 2. Clipped to 0.01..1000.
    """
    w2c = np.asarray(w2c, dtype=np.float64)
    if len(w2c) < 2:
        return 1.0
    translations = (w2c[1:] @ se3.invert(w2c[0]))[:, :3, 3]
    return float(np.clip(np.linalg.norm(translations) / np.sqrt(translations.size) / 2, 0.01, 1000.0))


def cover_crop(in_hw: tuple[int, int], out_hw: tuple[int, int]) -> tuple[float, float, float, float]:
    """Returns the largest central crop of an image (height, width) with the output's aspect ratio: fractions x0, y0, x1, y1."""
    in_aspect, out_aspect = in_hw[1] / in_hw[0], out_hw[1] / out_hw[0]
    width, height = min(1.0, out_aspect / in_aspect), min(1.0, in_aspect / out_aspect)
    return (1 - width) / 2, (1 - height) / 2, (1 + width) / 2, (1 + height) / 2


def resize_to_cover(frame: Frame, size_hw: tuple[int, int]) -> Frame:
    """Crops a frame (H, W, 3) uint8 centrally to the aspect ratio of `size_hw` and resizes it by area averaging."""
    height, width = frame.shape[:2]
    x0, y0, x1, y1 = cover_crop((height, width), size_hw)
    crop = frame[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)]
    if crop.shape[:2] == size_hw:
        return crop.copy()
    rows = _area_average(crop, size_hw[0])
    resized = _area_average(np.ascontiguousarray(rows.transpose(1, 0, 2)), size_hw[1]).transpose(1, 0, 2)
    return np.ascontiguousarray(np.rint(resized).astype(np.uint8))


def _area_average(values: NDArray[Any], size: int) -> NDArray[np.float32]:
    """Returns `values` (N, ...) resized along the first dim to (size, ...): element i averages what [i, i + 1) * N / size covers."""
    flat, step = values.reshape(len(values), -1), len(values) / size
    resized = np.empty((size, flat.shape[1]), np.float32)
    for index in range(size):
        start, stop = index * step, min((index + 1) * step, len(values))
        covered = np.arange(int(start), min(int(np.ceil(stop - 1e-9)), len(values)))
        weights = (np.minimum(covered + 1, stop) - np.maximum(covered, start)) / (stop - start)
        resized[index] = weights.astype(np.float32) @ flat[covered[0] : covered[-1] + 1].astype(np.float32)
    return resized.reshape(size, *values.shape[1:])
