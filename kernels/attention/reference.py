"""Plain torch, the whole matrix at once: what the others are held against."""

import math

from torch import Tensor


def forward(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """See the face."""
    logits = query.float() @ key.float().transpose(-1, -2) / math.sqrt(query.shape[-1])
    lse = logits.logsumexp(dim=-1)
    return ((logits - lse.unsqueeze(-1)).exp() @ value.float()).to(query.dtype), lse


def backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See the face."""
    scale = 1 / math.sqrt(query.shape[-1])
    g, q, k, v = gradient.float(), query.float(), key.float(), value.float()
    weights = (q @ k.transpose(-1, -2) * scale - lse.unsqueeze(-1)).exp()
    of_weights = g @ v.transpose(-1, -2) - (g * output.float()).sum(-1, keepdim=True)
    of_logits = weights * of_weights * scale
    gradients = of_logits @ k, of_logits.transpose(-1, -2) @ q, weights.transpose(-1, -2) @ g
    return tuple(x.to(query.dtype) for x in gradients)  # type: ignore[return-value]
