"""Naive norm and rotation in plain PyTorch and float32 (float64 stays): torch.nn.RMSNorm and Wan's rotation to the bit in float32."""

import torch
from torch import Tensor


def qk_norm_rope(
    query: Tensor, key: Tensor, query_weight: Tensor, key_weight: Tensor, cosines: Tensor, sines: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Implements `qk_norm_rope`."""
    return _one(query, query_weight, cosines, sines, eps), _one(key, key_weight, cosines, sines, eps)


def _one(x: Tensor, weight: Tensor, cosines: Tensor, sines: Tensor, eps: float) -> Tensor:
    """Returns (B, N, H, D) for (B, N, H * D)."""
    normed = torch.nn.functional.rms_norm(_at_least_float32(x), weight.shape, _at_least_float32(weight), eps)
    x1, x2 = normed.unflatten(2, (-1, cosines.shape[3] // 2, 2)).unbind(-1)
    cosines, sines = cosines[..., 0::2].to(normed), sines[..., 1::2].to(normed)
    return torch.stack([x1 * cosines - x2 * sines, x1 * sines + x2 * cosines], dim=-1).flatten(3).type_as(x)


def _at_least_float32(x: Tensor) -> Tensor:
    """Returns float64 unchanged and every other dtype as float32."""
    return x if x.dtype == torch.float64 else x.float()
