"""Plain torch, float32 inside (float64 stays, for derivations); in float32 it is torch.nn.RMSNorm and Wan's rotation to the bit."""

import torch
from torch import Tensor


def qk_norm_rope(
    query: Tensor, key: Tensor, query_weight: Tensor, key_weight: Tensor, cosines: Tensor, sines: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """See the face."""
    return _one(query, query_weight, cosines, sines, eps), _one(key, key_weight, cosines, sines, eps)


def _one(x: Tensor, weight: Tensor, cosines: Tensor, sines: Tensor, eps: float) -> Tensor:
    """(B, N, H * D) -> (B, N, H, D)."""
    normed = torch.nn.functional.rms_norm(at_least_float32(x), weight.shape, at_least_float32(weight), eps)
    x1, x2 = normed.unflatten(2, (-1, cosines.shape[3] // 2, 2)).unbind(-1)
    cosines, sines = cosines[..., 0::2].to(normed), sines[..., 1::2].to(normed)
    return torch.stack([x1 * cosines - x2 * sines, x1 * sines + x2 * cosines], dim=-1).flatten(3).type_as(x)


def at_least_float32(x: Tensor) -> Tensor:
    """float64 as it is, everything below as float32."""
    return x if x.dtype == torch.float64 else x.float()
