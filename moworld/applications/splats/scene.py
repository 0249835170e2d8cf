"""A scene of 3D gaussians and its rendering: projection to the picture plane (EWA), then compositing (`kernels/gaussians`).

The parameters are those of .ply files of the field: logarithm of the scales, rotation as quaternion with w first, opacity before the
sigmoid, colour as spherical harmonics around 0.5.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moworld.kernels.gaussians import composite

C0, C1 = 0.28209479177387814, 0.4886025119029199  # spherical harmonics of degree 0 and 1
MEANS, SCALES, ROTATIONS, OPACITY, COLOURS = slice(0, 3), slice(3, 6), slice(6, 10), 10, slice(11, None)
NEAR = 0.02  # scene units
BLUR = 0.3  # pixels^2 added to each projected variance, as all viewers do
ASIDE = 1.3  # how far outside the picture, as a share of its half size, a gaussian's slope is still linearised where it is


@dataclass(frozen=True, eq=False)
class Scene:
    """Gaussians as one float32 matrix, (N, 11 + 3 K): means, log scales, quaternions (w first), opacity logit, K colour coefficients.

    The colour coefficients are ordered (K, 3), K = 1 for degree 0 and 4 for degree 1.
    """

    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def degree(self) -> int:
        """Degree of the spherical harmonics, 0 or 1."""
        return 1 if self.rows.shape[1] == 23 else 0

    @property
    def means(self) -> Tensor:
        """(N, 3) positions."""
        return self.rows[:, MEANS]

    @property
    def scales(self) -> Tensor:
        """(N, 3) standard deviations along the gaussians' own axes."""
        return self.rows[:, SCALES].exp()

    @property
    def opacities(self) -> Tensor:
        """(N,) in [0, 1]."""
        return self.rows[:, OPACITY].sigmoid()

    def scaled(self, scale: float) -> "Scene":
        """Returns the scene with positions and sizes multiplied by `scale`."""
        rows = self.rows.clone()
        rows[:, MEANS] *= scale
        rows[:, SCALES] += float(np.log(scale))
        return Scene(rows)


@dataclass(frozen=True, eq=False)
class View:
    """What a render needs of one camera: w2c (4, 4), fx, fy, cx, cy in pixels, and (height, width)."""

    w2c: Tensor
    lens: tuple[float, float, float, float]
    size_hw: tuple[int, int]


def view_of(w2c: NDArray[Any], intrinsics: NDArray[Any], size_hw: tuple[int, int]) -> View:
    """Returns the view of a pose (4, 4) and normalised intrinsics (4,)."""
    height, width = size_hw
    fx, fy, cx, cy = (float(value) for value in np.asarray(intrinsics) * (width, height, width, height))
    return View(torch.tensor(np.asarray(w2c), dtype=torch.float32), (fx, fy, cx, cy), size_hw)


@dataclass(frozen=True, eq=False)
class Rendering:
    """picture (H, W, 3) before the background, through (H, W) light that passes; means (V, 2) in pixels of the gaussians `seen` (V,)."""

    picture: Tensor
    through: Tensor
    means: Tensor
    seen: Tensor


def render(rows: Tensor, view: View, backend: str | None = None) -> Rendering:
    """Returns the picture of a scene's rows from a view; gradients flow to the rows."""
    rotation, shift = view.w2c[:3, :3].to(rows), view.w2c[:3, 3].to(rows)
    camera = rows[:, MEANS] @ rotation.T + shift
    fx, fy, cx, cy = view.lens
    height, width = view.size_hw
    with torch.no_grad():
        z = camera[:, 2]
        reach = 3 * rows[:, SCALES].amax(1).exp()
        across = (camera[:, 0] * fx + (cx - width / 2) * z).abs() - reach * fx < 0.5 * width * z
        down = (camera[:, 1] * fy + (cy - height / 2) * z).abs() - reach * fy < 0.5 * height * z
        seen = torch.nonzero((z > NEAR) & across & down)[:, 0]
    rows, camera = rows[seen], camera[seen]
    x, y, z = camera.unbind(1)
    means = torch.stack([fx * x / z + cx, fy * y / z + cy], dim=1)
    conics = _conics(rows, camera, rotation, view)
    towards = camera / camera.norm(dim=1, keepdim=True) @ rotation
    picture, through = composite(means, conics, rows[:, OPACITY].sigmoid(), colours(rows, towards), z.detach(), view.size_hw, backend)
    return Rendering(picture, through, means, seen)


def _conics(rows: Tensor, camera: Tensor, rotation: Tensor, view: View) -> Tensor:
    """Returns the inverse of the projected covariance, a, b, c (N, 3): Sigma' = J W R S S^T R^T W^T J^T + BLUR (Zwicker et al. 2001)."""
    fx, fy, *_ = view.lens
    height, width = view.size_hw
    z = camera[:, 2:]
    limit = camera.new_tensor([ASIDE * 0.5 * width / fx, ASIDE * 0.5 * height / fy])
    slope = torch.minimum(torch.maximum(camera[:, :2] / z, -limit), limit)
    turned, scales = rotations(rows[:, ROTATIONS]), rows[:, SCALES].exp()
    first, second = (
        ((focal / z * (rotation[axis] - slope[:, axis : axis + 1] * rotation[2]))[:, None] @ turned)[:, 0] * scales
        for axis, focal in ((0, fx), (1, fy))
    )  # rows of J W R S
    xx, xy, yy = (first * first).sum(1) + BLUR, (first * second).sum(1), (second * second).sum(1) + BLUR
    return torch.stack([yy, -xy, xx], dim=1) / (xx * yy - xy * xy)[:, None]


def rotations(quaternions: Tensor) -> Tensor:
    """Returns the rotation matrices (N, 3, 3) of quaternions (N, 4), w first, of any length."""
    w, x, y, z = (quaternions / quaternions.norm(dim=1, keepdim=True)).unbind(1)
    entries = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(entries, dim=1).reshape(-1, 3, 3)


def colours(rows: Tensor, towards: Tensor) -> Tensor:
    """Returns the colours (N, 3) of rows seen along unit vectors `towards` (N, 3) from the camera, at least 0."""
    coefficients = rows[:, COLOURS].unflatten(1, (-1, 3))
    colour = 0.5 + C0 * coefficients[:, 0]
    if coefficients.shape[1] == 4:
        x, y, z = towards[:, 0:1], towards[:, 1:2], towards[:, 2:3]
        colour = colour + C1 * (z * coefficients[:, 2] - y * coefficients[:, 1] - x * coefficients[:, 3])
    return colour.clamp(min=0)


@torch.no_grad()
def render_frames(scene: Scene, views: list[View], background: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> NDArray[np.uint8]:
    """Returns the pictures of a scene, (T, H, W, 3) uint8; background: colour in [0, 1] where light passes all gaussians."""
    frames, behind = [], torch.tensor(background)
    for view in views:
        seen = render(scene.rows, view)
        picture = seen.picture.cpu() + seen.through.cpu()[..., None] * behind
        frames.append((picture.clamp(0, 1) * 255).round().byte().numpy())
    return np.stack(frames)
