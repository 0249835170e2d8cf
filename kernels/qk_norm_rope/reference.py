"""Plain torch, float32 inside; in float32 it is torch.nn.RMSNorm and Wan's rotation to the bit."""

import torch
from torch import Tensor


def qk_norm_rope(
    query: Tensor, key: Tensor, query_weight: Tensor, key_weight: Tensor, cosines: Tensor, sines: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """See the face."""
    return _one(query, query_weight, cosines, sines, eps), _one(key, key_weight, cosines, sines, eps)


def _one(x: Tensor, weight: Tensor, cosines: Tensor, sines: Tensor, eps: float) -> Tensor:
    """(B, N, H * D) -> (B, N, H, D)."""
    normed = torch.nn.functional.rms_norm(x.float(), weight.shape, weight.float(), eps)
    x1, x2 = normed.unflatten(2, (-1, cosines.shape[3] // 2, 2)).unbind(-1)
    cosines, sines = cosines[..., 0::2].float(), sines[..., 1::2].float()
    return torch.stack([x1 * cosines - x2 * sines, x1 * sines + x2 * cosines], dim=-1).flatten(3).type_as(x)
