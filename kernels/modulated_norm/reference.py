"""Plain torch, to the bit what Wan's block computes."""

import torch
from torch import Tensor


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """See the face."""
    normed = torch.nn.functional.layer_norm(x.float(), x.shape[-1:], eps=eps)
    return (normed * (1 + scale) + shift).type_as(x)
