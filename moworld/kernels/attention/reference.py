"""Naive attention in plain PyTorch and float32, with the whole matrix of logits: what the other implementations are compared with."""

import math

from torch import Tensor


def forward(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Implements `attention`."""
    logits = query.float() @ key.float().transpose(-1, -2) / math.sqrt(query.shape[-1])
    lse = logits.logsumexp(dim=-1)
    return ((logits - lse.unsqueeze(-1)).exp() @ value.float()).to(query.dtype), lse


def backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Implements `attention_backward`."""
    scale = 1 / math.sqrt(query.shape[-1])
    g, q, k, v = gradient.float(), query.float(), key.float(), value.float()
    weights = (q @ k.transpose(-1, -2) * scale - lse.unsqueeze(-1)).exp()
    d_weights = g @ v.transpose(-1, -2) - (g * output.float()).sum(-1, keepdim=True)
    d_logits = weights * d_weights * scale
    gradients = d_logits @ k, d_logits.transpose(-1, -2) @ q, weights.transpose(-1, -2) @ g
    return tuple(x.to(query.dtype) for x in gradients)  # type: ignore[return-value]
