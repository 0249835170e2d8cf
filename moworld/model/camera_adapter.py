"""The camera adapter (eq. 5): Plücker ray maps to patch tokens, in the published layout, behind an output gate."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from moworld.model.latent_cameras import Rays

RAYS_PER_TOKEN = 24 * 64 * 4  # ray channels times the pixels of a patch of 2 x 2 latents


class ResidualBlock(nn.Module):
    """conv3x3, ReLU, conv3x3, plus the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(functional.relu(self.conv1(x)))


class CameraAdapter(nn.Module):
    """C_cam = gate * A(R_cam), added to the patch embedding (eq. 5).

    The gate is one number, shape (1,), for FSDP shards no scalars. At 0 the transformer equals its base model bit for bit, which is where a pretrained base has to start;
    a model that learns from scratch, or published adapter weights, which carry no gate, use 1.
    """

    def __init__(self, width: int, patch_size: int, downsample: int = 8, gate: float = 0.0) -> None:
        super().__init__()
        self.unshuffle = nn.PixelUnshuffle(downsample)
        self.conv = nn.Conv2d(24 * downsample**2, width, kernel_size=patch_size, stride=patch_size)
        self.residual_blocks = nn.ModuleList([ResidualBlock(width)])
        self.gate = nn.Parameter(torch.tensor([float(gate)]))

    def forward(self, rays: Rays | Tensor) -> Tensor:
        """rays: grouped Plücker rays, or their maps (B, 24, F, H, W) at pixel resolution -> (B, N, D), time outermost."""
        if isinstance(rays, Rays) and (rays.lenses is None or not factors_are_smaller(self.conv.out_channels)):
            rays = rays.maps()
        batch, frames = (len(rays.motion), len(rays)) if isinstance(rays, Rays) else (rays.shape[0], rays.shape[2])
        x = self._embed(rays) if isinstance(rays, Rays) else self.conv(self.unshuffle(rays.transpose(1, 2).flatten(0, 1)))
        for block in self.residual_blocks:  # (B F, D, H/16, W/16)
            x = block(x)
        return self.gate * x.flatten(2).transpose(1, 2).reshape(batch, frames * x.shape[2] * x.shape[3], -1)

    def _embed(self, rays: Rays) -> Tensor:
        """The first convolution without the maps: it is linear, so the directions pass through it once, for all poses -> (B F, D, H/16, W/16)."""
        height, width = (size // (self.unshuffle.downscale_factor * self.conv.kernel_size[0]) for size in rays.directions.shape[-2:])
        if torch.is_grad_enabled():
            basis = self._basis(rays)
        elif self in rays.products:
            basis = rays.products[self]
        else:
            basis = rays.products[self] = self._basis(rays)
        tokens = torch.matmul(rays.motion.transpose(2, 3).flatten(2), basis)  # (B, F, D h w)
        assert self.conv.bias is not None
        return tokens.flatten(0, 1).unflatten(1, (-1, height, width)) + self.conv.bias[:, None, None]

    def _basis(self, rays: Rays) -> Tensor:
        """The directions through the convolution, one row for each number of a pose: (lenses, 3 24, D h w)."""
        weight, (patch, _) = self.conv.weight, self.conv.kernel_size
        pixels = self.unshuffle(rays.directions[:, 0, 0].flatten(0, 1)[:, None]).unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
        pixels = pixels.permute(0, 2, 4, 1, 3, 5).flatten(3)  # (lenses 3, h, w, 64 p p), in the order of the weights
        basis = functional.linear(pixels, weight.reshape(len(weight) * 24, -1))  # the convolution as a product: no copy of the weights
        return basis.unflatten(0, (-1, 3)).unflatten(-1, (-1, 24)).permute(0, 1, 5, 4, 2, 3).flatten(3).flatten(1, 2)


def factors_are_smaller(width: int) -> bool:
    """Whether directions, convolved once for 24 channels of 3 numbers, take no more than the ray maps of the four latent frames of a window.

    It goes by the width alone, so that all ranks that share a sample take the same way.
    """
    return 24 * 3 * width <= 4 * RAYS_PER_TOKEN
