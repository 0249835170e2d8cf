"""The camera adapter (eq. 5): Plücker rays -> patch tokens, in the published layout, times an output gate."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from moworld.model.latent_cameras import Rays
from moworld.model.latent_grid import CODEC_GRID


class ResidualBlock(nn.Module):
    """x + conv3x3(ReLU(conv3x3(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(functional.relu(self.conv1(x)))


class CameraAdapter(nn.Module):
    """C_cam = gate * A(R_cam), added to the patch embedding (eq. 5).

    The gate has shape (1,), because FSDP cannot shard scalars. At 0 the transformer equals its base model bit for bit: the start for a
    pretrained base. Models that learn from scratch, and published adapters, which have no gate, use 1.
    """

    def __init__(self, width: int, patch_size: int, downsample: int = CODEC_GRID.spatial, gate: float = 0.0) -> None:
        super().__init__()
        self.unshuffle = nn.PixelUnshuffle(downsample)
        self.conv = nn.Conv2d(24 * downsample**2, width, kernel_size=patch_size, stride=patch_size)
        self.residual_blocks = nn.ModuleList([ResidualBlock(width)])
        self.gate = nn.Parameter(torch.tensor([float(gate)]))

    def forward(self, rays: Rays | Tensor) -> Tensor:
        """Returns camera tokens (B, N, D), time outermost, of grouped rays or of their maps (B, 24, F, H, W) at pixel resolution."""
        rays_per_token = self.conv.in_channels * self.conv.kernel_size[0] * self.conv.kernel_size[1]
        if isinstance(rays, Rays) and (rays.num_lenses is None or not factors_are_smaller(self.conv.out_channels, rays_per_token)):
            rays = rays.maps()
        if isinstance(rays, Rays):
            x, batch = self._embed(rays), len(rays.motion)
        else:
            x, batch = self.conv(self.unshuffle(rays.transpose(1, 2).flatten(0, 1))), len(rays)
        for block in self.residual_blocks:  # (B F, D, h / p, w / p)
            x = block(x)
        return self.gate * x.flatten(2).transpose(1, 2).reshape(batch, -1, x.shape[1])

    def _embed(self, rays: Rays) -> Tensor:
        """Applies the convolution without the maps -> (B F, D, h / p, w / p). It is linear: directions pass through it once for all poses."""
        height, width = (size // (self.unshuffle.downscale_factor * self.conv.kernel_size[0]) for size in rays.directions.shape[-2:])
        cached = rays.cache is not None and not torch.is_grad_enabled()
        basis = rays.cache.product(self, lambda: self._basis(rays.directions)) if cached else self._basis(rays.directions)  # type: ignore[union-attr]
        tokens = torch.matmul(rays.motion.transpose(2, 3).flatten(2), basis)  # (B, F, D h w)
        assert self.conv.bias is not None
        return tokens.flatten(0, 1).unflatten(1, (-1, height, width)) + self.conv.bias[:, None, None]

    def _basis(self, directions: Tensor) -> Tensor:
        """Returns the convolution of the directions, one row for each number of a pose: (lenses, 3 24, D h w)."""
        weight, (patch, _) = self.conv.weight, self.conv.kernel_size
        pixels = self.unshuffle(directions[:, 0, 0].flatten(0, 1)[:, None]).unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
        pixels = pixels.permute(0, 2, 4, 1, 3, 5).flatten(3)  # (lenses 3, h, w, 64 p p), in the order of the weights
        basis = functional.linear(pixels, weight.reshape(len(weight) * 24, -1))  # as a product: no copy of the weights
        return basis.unflatten(0, (-1, 3)).unflatten(-1, (-1, 24)).permute(0, 1, 5, 4, 2, 3).flatten(3).flatten(1, 2)


def factors_are_smaller(width: int, rays_per_token: int) -> bool:
    """Returns whether convolved directions (24 channels of 3 numbers) need no more memory than the ray maps of a window of 8 latent frames.

    A window of serving has 9: a chunk of 3, its anchor, and 5 of history. Depends on the model's sizes alone, so that all ranks that share
    a sample take the same path.
    """
    return 24 * 3 * width <= 8 * rays_per_token
