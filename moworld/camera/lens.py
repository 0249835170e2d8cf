"""Lens distortion: removes it from frames, so that a pinhole lens describes them. The models and their parameters are COLMAP's."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Frames = NDArray[np.uint8]
PINHOLES = ("SIMPLE_PINHOLE", "PINHOLE")
LARGEST_ZOOM = 3.0  # larger zooms would cut away more than eight ninths of the picture
GRID = 65  # points per side at which a lens is examined


@dataclass(frozen=True)
class Distortion:
    """A lens with distortion: COLMAP's model name, its parameters in pixels, and the image size (height, width) that they belong to."""

    model: str
    params: tuple[float, ...]
    image_hw: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.model} {' '.join(f'{value:g}' for value in self.params)} at {self.image_hw[1]}x{self.image_hw[0]}"


class Rectifier:
    """Maps frames of a lens with distortion to those of a pinhole lens of the same size, without empty border.

    intrinsics: (4,) fx, fy, cx, cy of the pinhole lens as fractions of width, height, width, height
    Raises ValueError if no zoom up to 3 fills the picture without folding it.
    """

    def __init__(self, distortion: Distortion, image_hw: tuple[int, int]) -> None:
        height, width = image_hw
        camera = _camera(distortion, image_hw)
        k = camera.calibration_matrix()
        zoom = _smallest_zoom(camera, k, image_hw)
        fx, fy, cx, cy = zoom * k[0, 0], zoom * k[1, 1], k[0, 2], k[1, 2]
        self.intrinsics = np.array([fx / width, fy / height, cx / width, cy / height])
        y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
        seen = _projected(camera, np.column_stack([((x - cx) / fx).ravel(), ((y - cy) / fy).ravel()])) - 0.5  # OpenCV's pixel centres
        self._x, self._y = (seen[:, axis].reshape(height, width).astype(np.float32) for axis in (0, 1))

    def frame(self, frame: Frames) -> Frames:
        """Returns a frame (H, W, 3) uint8 without distortion. Raises ValueError for a frame of another size."""
        import cv2

        if frame.shape[:2] != self._x.shape:
            raise ValueError(f"a frame of {frame.shape[:2]}, expected {self._x.shape}")
        return np.asarray(cv2.remap(frame, self._x, self._y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), dtype=np.uint8)


def rectified(frames: Iterable[Frames], distortion: Distortion | None) -> Iterator[Frames]:
    """Yields frames (H, W, 3) uint8 without distortion; unchanged if there is none. All frames have the size of the first."""
    rectifier: Rectifier | None = None
    for frame in frames:
        if distortion is None:
            yield frame
            continue
        rectifier = rectifier or Rectifier(distortion, (frame.shape[0], frame.shape[1]))
        yield rectifier.frame(frame)


def _camera(distortion: Distortion, image_hw: tuple[int, int]) -> Any:
    import pycolmap

    height, width = distortion.image_hw
    camera = pycolmap.Camera(model=distortion.model, width=width, height=height, params=list(distortion.params))
    if image_hw != distortion.image_hw:
        camera.rescale(image_hw[1], image_hw[0])
    return camera


def _projected(camera: Any, rays: Array) -> Array:
    """Returns pixels (n, 2) of rays (n, 2) at depth 1."""
    return np.asarray(camera.img_from_cam(np.column_stack([rays, np.ones(len(rays))]), check_cheirality=False), dtype=np.float64)


def _smallest_zoom(camera: Any, k: Array, image_hw: tuple[int, int]) -> float:
    """Returns the smallest factor of the focal length, at least 1, for a picture without pixels from outside the original and without folds."""
    size = np.array([image_hw[1], image_hw[0]], dtype=np.float64)
    x, y = np.meshgrid(*(np.linspace(0.5, side - 0.5, GRID) for side in size))
    rays = (np.column_stack([x.ravel(), y.ravel()]) - k[:2, 2]) / [k[0, 0], k[1, 1]]
    for zoom in np.geomspace(1.0, LARGEST_ZOOM, 111):
        seen = _projected(camera, rays / zoom)
        if not np.isfinite(seen).all() or (seen < -0.5).any() or (seen > size + 0.5).any():
            continue
        grid: Any = seen.reshape(GRID, GRID, 2)
        across, down = np.diff(grid, axis=1)[:-1], np.diff(grid, axis=0)[:, :-1]
        if (across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0] > 0).all():
            return float(zoom)
    raise ValueError(f"no zoom up to {LARGEST_ZOOM:g} fills the picture without folding it")
