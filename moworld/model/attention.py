"""Attention of a transformer block. On one rank it equals Diffusers' Wan attention bit for bit; on a sequence mesh it covers all ranks' tokens."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from moworld.kernels.attention import attention
from moworld.kernels.int8_linear import int8_linear
from moworld.kernels.qk_norm_rope import qk_norm_rope
from moworld.model.int8 import Int8Linear, joined
from moworld.model.rope import Rotary
from moworld.model.sequence import KeysValues, Part
from moworld.model.weights import lasting_memory


def self_attention(
    attn: Any, x: Tensor, rotary: Rotary, part: Part | None = None, past: KeysValues | None = None
) -> tuple[Tensor, KeysValues]:
    """Returns the output (B, N, D), and the keys and values of the tokens x.

    attn:   `moworld.model.layers.Attention`
    x:      (B, N, D) tokens of this rank; rotary: cosines and sines (1 or B, N, 1, head_dim)
    part:   this rank's part of the sample's tokens; None if x holds all of them
    past:   further keys and values to attend to
    """
    query, key, value = project(attn, x)
    query, key = qk_norm_rope(query, key, attn.norm_q.weight, attn.norm_k.weight, *rotary, eps=attn.norm_q.eps)
    value = value.unflatten(2, (attn.heads, -1))
    if part is None:
        own = KeysValues(key, value, key.shape[1])
        if past is not None:
            key, value = torch.cat([past.key, key], dim=1), torch.cat([past.value, value], dim=1)
        output = attend(query, key, value)
    else:
        query, key, value = (part.mesh.to_heads(tensor) for tensor in (query, key, value))
        own = KeysValues(key, value, part.total)
        output = part.mesh.attend(query, own, past)
    return attn.to_out[0](output.flatten(2, 3).type_as(query)), own


def keys_values(attn: Any, x: Tensor, rotary: Rotary, part: Part | None = None) -> KeysValues:
    """Returns the keys and values of `self_attention` without the output."""
    key, value, weight = attn.to_k(x), attn.to_v(x).unflatten(2, (attn.heads, -1)), attn.norm_k.weight
    _, key = qk_norm_rope(key, key, weight, weight, *rotary, eps=attn.norm_k.eps)  # the operator takes a pair: keys serve as queries
    if part is None:
        return KeysValues(key, value, key.shape[1])
    return KeysValues(part.mesh.to_heads(key), part.mesh.to_heads(value), part.total)


def project(attn: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Returns query, key and value (B, N, D). Joined INT8 layers quantize x once and run as one product."""
    layers = (attn.to_q, attn.to_k, attn.to_v)
    whole = joined(layers) if all(isinstance(layer, Int8Linear) for layer in layers) else None
    return tuple(layer(x) for layer in layers) if whole is None else int8_linear(x, *whole).chunk(3, dim=-1)


class TextCache:
    """Keys and values (B, L, H, head_dim) of the text in every block of an expert: written in the first denoising step, read in later ones.

    All blocks share one allocation. Small tensors that stay allocated between activations fragment memory (20 % more at 24 blocks).
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks, self.filled, self.memory = num_blocks, set[int](), torch.empty(0)

    def get(self, index: int, compute: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Returns the keys and values of block `index`; `compute` gives them the first time."""
        if index not in self.filled:
            key, value = compute()
            if not self.filled:
                self.memory = lasting_memory((self.num_blocks, 2, *key.shape), key.dtype, key.device)
            self.memory[index, 0].copy_(key)
            self.memory[index, 1].copy_(value)
            self.filled.add(index)
        return self.memory[index, 0], self.memory[index, 1]


def cross_attention(attn: Any, x: Tensor, text: Tensor, cache: TextCache | None = None, index: int = 0) -> Tensor:
    """Attends from tokens x (B, N, D) to text (B, L, D) -> (B, N, D). A cache replaces the text's projections in block `index`."""

    def project() -> tuple[Tensor, Tensor]:
        key, value = attn.norm_k(attn.to_k(text)), attn.to_v(text)
        return key.unflatten(2, (attn.heads, -1)), value.unflatten(2, (attn.heads, -1))

    query = attn.norm_q(attn.to_q(x)).unflatten(2, (attn.heads, -1))
    key, value = project() if cache is None else cache.get(index, project)
    return attn.to_out[0](attend(query, key, value).flatten(2, 3).type_as(query))  # type: ignore[no-any-return]


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Returns softmax(q k^T / sqrt(D)) v of (B, N, H, D) and (B, M, H, D) -> (B, N, H, D)."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    return attention(query, key, value).transpose(1, 2)
