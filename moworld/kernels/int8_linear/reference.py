"""Naive INT8 linear in plain PyTorch: integers as int64, scales as float64."""

import torch
from torch import Tensor

SMALLEST_SCALE = 1e-30  # far below any activation; prevents 0 / 0


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (M, K) integers in [-127, 127] as float32 and scales (M, 1) float32 of (M, K) floats. A row of zeros stays zeros."""
    x = x.float()
    largest = x.abs().amax(dim=1, keepdim=True)
    scale = (largest / torch.full_like(largest, 127)).clamp_min_(SMALLEST_SCALE)  # CUDA multiplies by the reciprocal of a plain number
    return (x / scale).round_(), scale


def int8_linear(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    """Implements `int8_linear`. x: (M, K)."""
    quantized, scale = quantize_rows(x)
    product = torch.einsum("mk,nk->mn", quantized.long(), weight.long())
    y = product.double() * scale.double() * weight_scale.double()
    return (y if bias is None else y + bias.double()).to(x.dtype)
