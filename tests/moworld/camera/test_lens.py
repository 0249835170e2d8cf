"""Lens distortion: frames without it are those of the pinhole lens that is stated for them."""

import numpy as np
import pytest

from moworld.camera.lens import Distortion, Rectifier, rectified

pycolmap = pytest.importorskip("pycolmap")
SIZE = (180, 320)
LENSES = [
    Distortion("SIMPLE_RADIAL", (256, 160, 90, -0.3), SIZE),
    Distortion("SIMPLE_RADIAL", (256, 160, 90, 0.1), SIZE),
    Distortion("OPENCV", (256, 252, 158, 92, -0.2, 0.05, 0.01, 0.01), SIZE),
    Distortion("OPENCV_FISHEYE", (200, 200, 160, 90, 0.1, 0.01, 0, 0), SIZE),
]


def seen(project, points: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Draws a Gaussian spot for each point (n, 3) of the camera's space: (H, W, 3) uint8."""
    y, x = np.mgrid[: size_hw[0], : size_hw[1]] + 0.5
    picture = np.zeros(size_hw)
    for u, v in project(points):
        picture += np.exp(-((x - u) ** 2 + (y - v) ** 2) / 8)
    return np.repeat((255 * picture.clip(0, 1)).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("lens", LENSES, ids=lambda lens: f"{lens.model} {lens.params[-1]}")
def test_spots_are_where_the_pinhole_lens_projects_them(lens: Distortion, scale: int):
    camera = pycolmap.Camera(model=lens.model, width=320, height=180, params=list(lens.params))
    camera.rescale(320 * scale, 180 * scale)
    size_hw = (180 * scale, 320 * scale)
    points = np.array([[x, y, 1.0] for x in (-0.35, 0.0, 0.3) for y in (-0.15, 0.15)])
    rectifier = Rectifier(lens, size_hw)
    fx, fy, cx, cy = rectifier.intrinsics * np.tile(size_hw[::-1], 2)
    (picture,) = rectified([seen(camera.img_from_cam, points, size_hw)], lens)
    expected = seen(lambda p: np.column_stack([fx * p[:, 0] + cx, fy * p[:, 1] + cy]), points, size_hw)
    for axis in (0, 1):  # centres of mass of each spot's neighbourhood would do; the pictures themselves are compared by correlation
        assert np.corrcoef(picture.sum(axis=(axis, 2)), expected.sum(axis=(axis, 2)))[0, 1] > 0.98
    distorted = seen(camera.img_from_cam, points, size_hw)
    assert np.abs(picture.astype(int) - expected).mean() < 0.5 * np.abs(distorted.astype(int) - expected).mean()


def test_no_border_is_empty():
    white = np.full((*SIZE, 3), 255, np.uint8)
    for lens in LENSES:
        rectifier = Rectifier(lens, SIZE)
        assert rectifier._x.min() >= -1 and rectifier._x.max() <= 320 and rectifier._y.min() >= -1 and rectifier._y.max() <= 180
        assert (rectifier.frame(white) == 255).all()


def test_a_lens_that_folds_the_picture_is_refused():
    with pytest.raises(ValueError, match="without folding"):
        Rectifier(Distortion("SIMPLE_RADIAL", (100, 160, 90, -5.0), SIZE), SIZE)


def test_pinhole_frames_are_unchanged():
    frame = np.zeros((*SIZE, 3), np.uint8)
    assert next(rectified([frame], None)) is frame
