"""Naive compositing in plain PyTorch: every gaussian at every pixel, a band of rows at a time, gradients by autograd."""

import torch
from torch import Tensor

BAND_BYTES = 4 * 2**20  # of one (pixels, gaussians) matrix


def composite(
    means: Tensor, conics: Tensor, opacities: Tensor, colours: Tensor, depths: Tensor, size_hw: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Implements `composite`."""
    height, width = size_hw
    order = torch.argsort(depths, stable=True)
    means, conics, opacities, colours = means[order], conics[order], opacities[order], colours[order]
    rows = max(1, BAND_BYTES // max(1, width * len(means) * means.element_size()))
    parts = (range(start, min(start + rows, height)) for start in range(0, height, rows))
    bands = [_band(means, conics, opacities, colours, part, width) for part in parts]
    return torch.cat([picture for picture, _ in bands]), torch.cat([through for _, through in bands])


def _band(means: Tensor, conics: Tensor, opacities: Tensor, colours: Tensor, rows: range, width: int) -> tuple[Tensor, Tensor]:
    """Returns picture (rows, width, C) and passing light (rows, width) of gaussians in the order of depth."""
    from moworld.kernels.gaussians import ALPHA_LEAST, ALPHA_MOST

    y = torch.arange(rows.start, rows.stop, device=means.device, dtype=means.dtype) + 0.5
    x = torch.arange(width, device=means.device, dtype=means.dtype) + 0.5
    dx, dy = x[None, :, None] - means[:, 0], y[:, None, None] - means[:, 1]
    a, b, c = conics.unbind(1)
    alpha = (opacities * torch.exp(-0.5 * (a * dx**2 + 2 * b * dx * dy + c * dy**2))).clamp(max=ALPHA_MOST)
    alpha = torch.where(alpha >= ALPHA_LEAST, alpha, 0)  # (rows, width, N)
    passing = torch.cumprod(torch.cat([torch.ones_like(alpha[..., :1]), 1 - alpha], dim=-1), dim=-1)
    return (alpha * passing[..., :-1]) @ colours, passing[..., -1]
