"""The cost of an expert in parameters and operations, for the plans of training and serving."""

from functools import cache

import torch

from moworld.model.camera_adapter import factors_are_smaller
from moworld.model.settings import ModelSettings


@cache
def parameter_counts(model: ModelSettings) -> tuple[int, int]:
    """Returns the number of parameters of one expert and of one of its blocks."""
    from moworld.model.transformer import MoWorldTransformer3DModel

    with torch.device("meta"):
        transformer = MoWorldTransformer3DModel(**model.transformer())
    return tuple(sum(p.numel() for p in module.parameters()) for module in (transformer, transformer.blocks[0]))  # type: ignore[return-value]


def forward_flops(model: ModelSettings, frames: int, tokens: int, text: int) -> float:
    """Returns the multiplications plus additions of a forward pass over `tokens` in `frames` latent frames of one sample, at one timestep."""
    width = model.num_attention_heads * model.attention_head_dim
    per_token = 8 * width**2 + 4 * width**2 + 4 * width * model.ffn_dim  # q, k, v, out; q, out of cross-attention; two of the MLP
    per_text_token = 4 * width**2  # keys and values
    attention = 4 * width * (tokens + text)
    blocks = model.num_layers * (tokens * (per_token + attention) + text * per_text_token)
    patch = model.patch_size[1] * model.patch_size[2]
    embedding = 2 * (2 * model.latent_channels + 4) * patch * width
    head = 2 * width * model.latent_channels * patch
    times = 2 * (model.freq_dim * width + 7 * width**2)
    return float(blocks + tokens * (embedding + head) + times) + prepare_flops(model, frames, tokens, text)


def prepare_flops(model: ModelSettings, frames: int, tokens: int, text: int) -> float:
    """Returns the operations of the part of a forward pass that is constant over a window's steps: cameras and text."""
    width = model.num_attention_heads * model.attention_head_dim
    factors, rays = factors_are_smaller(width, model.rays_per_token), model.rays_per_token
    adapter = 2 * 2 * 9 * width**2 + 2 * (24 * 3 if factors else rays) * width
    basis = 2 * 3 * rays * width * tokens / frames if factors else 0.0  # convolution of the directions of one frame's pixels
    return float(tokens * adapter + basis + 2 * text * (model.text_dim * width + width**2))
