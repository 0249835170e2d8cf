"""Closed-form initialisation of experts that have no pretrained base. It replaces the first thousands of training steps.

It sets weights of Wan's own layers; architecture and keys do not change:
- At high noise the velocity is nearly the noisy latent: patch embedding and output projection start as an orthonormal pair.
- Neighbours matter most: query and key biases are equal constants, so that rotary attention starts as a lookup by position, sharpened
  by the query and key norms on the fast frequencies.
- Unknown frames resemble known ones: the first block's attention adds the known latents, negated, to the output (v = noise - clean).
- Content moves with the camera's rays: the adapter writes the direction of a token's rays (eq. 4) into the token, and the first block's
  attention looks known tokens up by direction. For a rotation about the camera centre this finds the right content.
Training may change all of it. Models that start from Wan2.2's weights do not use this module.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moworld.model.transformer import MoWorldTransformer3DModel

RAY_IN_TOKEN, MASK_IN_TOKEN = 3.0, 2.0  # norms of a ray direction and of the mask of known frames within a token
RAY_IN_KEY = 20.0  # before the query and key norms: large, so that the norms give all directions equal length
RAY_SHARPNESS = 45.0  # logit = -it * (1 - cos of the angle between two rays): half weight at 10 degrees
KNOWN_LOGIT = 3.0  # logit of a known token minus that of a noisy one


@dataclass(frozen=True)
class Bases:
    """Orthonormal directions of the token space (width, n): noisy latents, known latents, ray direction (3), mask of known frames (1)."""

    noise: Tensor
    known: Tensor
    ray: Tensor
    mask: Tensor


@torch.no_grad()
def initialize_from_scratch(transformer: MoWorldTransformer3DModel) -> None:
    """Sets the weights of `transformer` in place. Draws from torch's global generator; orthonormal as far as the width allows."""
    config = transformer.config
    heads, head_dim = config.num_attention_heads, config.attention_head_dim
    elements = config.out_channels * config.patch_size[1] * config.patch_size[2]
    basis = nn.init.orthogonal_(torch.empty(heads * head_dim, 2 * elements + 4))  # semi-orthogonal where the width is below
    bases = Bases(*basis.split([elements, elements, 3, 1], dim=1))
    _pair_embedding_with_projection(transformer, bases)
    for block in transformer.blocks:
        _look_up_by_position(block.attn1, heads, head_dim)
        for branch in (block.attn1.to_out[0], block.ffn.net[2]):
            branch.weight.mul_(0.5)
        block.attn2.to_out[0].weight.mul_(0.1)
    _carry_known_latents(transformer, bases)
    if float(transformer.control_adapter.gate):
        _write_ray_directions(transformer.control_adapter, bases)
        _look_up_by_ray(transformer.blocks[0].attn1, bases, heads, head_dim)


def _pair_embedding_with_projection(transformer: Any, bases: Bases) -> None:
    channels, (_, p_h, p_w) = transformer.config.out_channels, transformer.config.patch_size
    width, elements = bases.noise.shape
    weight = transformer.patch_embedding.weight  # (D, 2 C + 4, 1, p, p): noise, mask, known latents
    weight[:, :channels] = bases.noise.view(width, channels, 1, p_h, p_w)
    weight[:, channels : channels + 4] = (MASK_IN_TOKEN / (4 * p_h * p_w) * bases.mask).view(width, 1, 1, 1, 1)
    weight[:, channels + 4 :] = bases.known.view(width, channels, 1, p_h, p_w)
    by_pixel = bases.noise.view(width, channels, p_h * p_w).permute(2, 1, 0).reshape(elements, width)  # the head's order: pixel, channel
    transformer.proj_out.weight.copy_(by_pixel * 1.3 * (elements / width) ** 0.5)  # the output norm scales the token to sqrt(D)
    transformer.proj_out.bias.zero_()
    transformer.scale_shift_table.zero_()


def _look_up_by_position(attention: Any, heads: int, head_dim: int) -> None:
    time, space = _axes(head_dim)
    bands = [(10000.0 ** (-torch.arange(0, dim, 2) / dim)).sqrt().repeat_interleave(2) for dim in (time, space, space)]
    sharpness = 0.3 + 2.5 * torch.cat(bands)
    sharpness[:time] *= 0.5  # less sharply in time than in space
    for linear, norm in ((attention.to_q, attention.norm_q), (attention.to_k, attention.norm_k)):
        linear.weight.mul_(0.5)
        linear.bias.fill_(1.0)
        norm.weight.copy_(sharpness.repeat(heads))


def _carry_known_latents(transformer: Any, bases: Bases) -> None:
    block = transformer.blocks[0]
    block.scale_shift_table.zero_()
    block.scale_shift_table[:, 2] = 1  # the gate of self-attention
    rank = min(bases.known.shape)
    block.attn1.to_v.weight[:rank] = bases.known.T[:rank]
    block.attn1.to_v.bias.zero_()
    block.attn1.to_out[0].weight[:, :rank] = -bases.noise[:, :rank]


def _write_ray_directions(adapter: Any, bases: Bases) -> None:
    """Makes the adapter's initial output the mean direction of a token's rays over its pixels and its four frames."""
    width = bases.ray.shape[0]
    adapter.conv.weight.mul_(0.3)
    by_ray = adapter.conv.weight.view(width, 4, 6, -1, *adapter.conv.weight.shape[2:])  # frame, moment and direction, pixel
    pixels = by_ray[0, :, 0].numel()
    by_ray[:, :, 3:] += (RAY_IN_TOKEN / float(adapter.gate) / pixels * bases.ray).view(width, 1, 3, 1, 1, 1)
    for block in adapter.residual_blocks:
        nn.init.zeros_(block.conv2.weight)
        nn.init.zeros_(block.conv2.bias)


def _look_up_by_ray(attention: Any, bases: Bases, heads: int, head_dim: int) -> None:
    """Uses six slow dims of the row axis in every head for the ray, and the two slowest of the column axis for the mask.

    Rotary positions hardly rotate slow dims. With a camera the rays dominate the query and key norms, and the lookup by position only
    breaks ties; without a camera their part is zero and position decides.
    """
    width, elements = bases.known.shape
    time, space = _axes(head_dim)
    token_std = math.sqrt(2 * elements / width)  # of a known token: the divisor of the block's norm
    norm = math.sqrt((2 * heads * RAY_IN_KEY**2 + width - 8 * heads) / width)  # the divisor of the query and key norms
    ray_weight, known_weight = (math.sqrt(logit * math.sqrt(head_dim) / 2) * norm for logit in (RAY_SHARPNESS / RAY_IN_KEY**2, KNOWN_LOGIT))
    for head in range(heads):
        ray = slice(head * head_dim + time + space - 6, head * head_dim + time + space)
        known = slice((head + 1) * head_dim - 2, (head + 1) * head_dim)
        for linear, head_norm in ((attention.to_q, attention.norm_q), (attention.to_k, attention.norm_k)):
            linear.weight[ray] = RAY_IN_KEY * token_std / RAY_IN_TOKEN * bases.ray.T.repeat_interleave(2, dim=0)
            linear.bias[ray] = 0
            head_norm.weight[ray] = ray_weight
            head_norm.weight[known] = known_weight
        attention.to_q.weight[known], attention.to_q.bias[known] = 0, 1
        attention.to_k.weight[known], attention.to_k.bias[known] = token_std / MASK_IN_TOKEN * bases.mask.T, 0


def _axes(head_dim: int) -> tuple[int, int]:
    """Returns the dims of a head that Wan's rotary embedding uses for time, and for rows and columns each."""
    space = 2 * (head_dim // 6)
    return head_dim - 2 * space, space
