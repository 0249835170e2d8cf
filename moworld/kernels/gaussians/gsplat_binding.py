"""NVIDIA: the rasterizer of the package gsplat (Apache-2.0, 1.5), which compiles its CUDA code on first use. Never run in this project.

It stops at a pixel whose passing light is below 1e-4, so pictures differ from the reference by at most that.
"""

import torch
from torch import Tensor

TILE = 16
EDGE = 3.33  # standard deviations at which an opaque gaussian reaches ALPHA_LEAST, sqrt(2 ln 255)


def composite(
    means: Tensor, conics: Tensor, opacities: Tensor, colours: Tensor, depths: Tensor, size_hw: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Implements `composite`."""
    from gsplat.cuda._wrapper import isect_offset_encode, isect_tiles, rasterize_to_pixels

    height, width = size_hw
    tiles = -(-width // TILE), -(-height // TILE)
    _, crossings, gaussians = isect_tiles(means.detach()[None], radii(conics.detach())[None], depths.detach()[None], TILE, *tiles)
    offsets = isect_offset_encode(crossings, 1, *tiles)
    picture, covered = rasterize_to_pixels(
        means[None], conics[None], colours[None], opacities[None], width, height, TILE, offsets, gaussians
    )
    return picture[0], 1 - covered[0, ..., 0]


def radii(conics: Tensor) -> Tensor:
    """Returns the half width and height in pixels of the ellipse at EDGE of conics (N, 3): (N, 2) int32."""
    a, b, c = conics.unbind(1)
    variances = torch.stack([c, a], dim=1) / (a * c - b * b)[:, None]
    return (EDGE * variances.sqrt()).ceil().int()
