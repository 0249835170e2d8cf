"""`moworld bench attention`: self-attention of a block beside Diffusers' processor, and a key block of ring attention beside SDPA."""

from typing import Any

import torch

from moworld.kernels.attention import attention, attention_backward
from moworld.model.settings import ModelSettings
from moworld_ops.benchmarks.measure import Row, side_by_side


def bench_attention(model: ModelSettings, tokens: int) -> list[Row]:
    """Returns two rows of forward and backward over `tokens` tokens."""
    from moworld.model.attention import self_attention
    from moworld.model.transformer import MoWorldTransformer3DModel

    transformer = MoWorldTransformer3DModel(**model.transformer())
    layer, width = transformer.blocks[0].attn1, model.num_attention_heads * model.attention_head_dim
    peer = diffusers_attention(layer)
    x, rotary = torch.randn(1, tokens, width, requires_grad=True), transformer.rope(torch.arange(tokens), 2, 2)

    def ours() -> None:
        self_attention(layer, x, rotary)[0].sum().backward()

    def theirs() -> None:
        peer(x, None, None, rotary).sum().backward()

    query, key, value = (torch.randn(1, model.num_attention_heads, tokens, model.attention_head_dim, requires_grad=True) for _ in range(3))
    (q, k, v), gradient = (part.detach() for part in (query, key, value)), torch.randn_like(query)

    def key_block() -> None:
        output, lse = attention(q, k, v, return_lse=True)
        attention_backward(gradient, q, k, v, output, lse)

    def sdpa() -> None:
        torch.autograd.grad(torch.nn.functional.scaled_dot_product_attention(query, key, value), (query, key, value), gradient)

    return [
        side_by_side(f"self-attention, {tokens} tokens", ours, theirs, "Diffusers' WanAttnProcessor"),
        side_by_side(f"a key block of the ring, {tokens} tokens", key_block, sdpa, "SDPA"),
    ]


def diffusers_attention(layer: Any) -> torch.nn.Module:
    """Returns Diffusers' module of the self-attention with the weights of `layer`, a `moworld.model.layers.Attention`."""
    from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor

    width = layer.to_q.in_features
    made = WanAttention(width, layer.heads, width // layer.heads, layer.norm_q.eps, processor=WanAttnProcessor())
    made.load_state_dict(layer.state_dict())
    return made  # type: ignore[no-any-return]
