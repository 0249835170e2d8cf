"""The camera adapter (eq. 5): Plücker ray maps to patch tokens, in the published layout, behind an output gate."""

import torch
from torch import Tensor, nn
from torch.nn import functional


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

    def forward(self, rays: Tensor) -> Tensor:
        """rays: (B, 24, F, H, W) at pixel resolution, four frames of six Plücker channels per latent frame -> (B, N, D), time outermost."""
        batch, _, frames = rays.shape[:3]
        x = self.conv(self.unshuffle(rays.transpose(1, 2).flatten(0, 1)))  # (B F, D, H/16, W/16)
        for block in self.residual_blocks:
            x = block(x)
        return self.gate * x.flatten(2).transpose(1, 2).reshape(batch, frames * x.shape[2] * x.shape[3], -1)
