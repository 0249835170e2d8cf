"""A start for experts that have no pretrained base: what a video model would spend its first thousands of steps on, set in closed form.

Three facts are put into Wan's own layers, without changing the architecture or its keys:
- at high noise the velocity is nearly the noisy latent itself: patch embedding and output projection start as an orthonormal pair;
- neighbours matter most: query and key biases are equal constants, so rotary attention starts as a lookup by position, sharpened by the
  query and key norms on the fast frequencies;
- the future looks like the frame that is given: the first block's attention carries the known latents, negated, to the output
  (v = noise - clean).
Training is free to leave all of it. Models that start from Wan2.2's weights never come here.
"""

import torch
from torch import Tensor, nn

from moworld.model.transformer import MoWorldTransformer3DModel


@torch.no_grad()
def initialize_from_scratch(transformer: MoWorldTransformer3DModel, known_gain: float = 2.0) -> None:
    """Set the weights of `transformer` in place. Draws from torch's global generator; orthonormal as far as the width allows."""
    config = transformer.config
    width = config.num_attention_heads * config.attention_head_dim
    elements = config.out_channels * config.patch_size[1] * config.patch_size[2]
    basis = nn.init.orthogonal_(torch.empty(width, 2 * elements))  # semi-orthogonal where the width is below 2 * elements
    noise_basis, known_basis = basis[:, :elements], basis[:, elements:]
    _pair_embedding_with_projection(transformer, noise_basis, known_basis)
    for block in transformer.blocks:
        _look_up_by_position(block.attn1, config.num_attention_heads, config.attention_head_dim)
        for branch in (block.attn1.to_out[0], block.ffn.net[2]):
            branch.weight.mul_(0.5)
        block.attn2.to_out[0].weight.mul_(0.1)
    first = transformer.blocks[0]
    first.scale_shift_table.zero_()
    first.scale_shift_table[:, 2] = 1  # the gate of self-attention
    rank = min(elements, width)
    first.attn1.to_v.weight[:rank] = known_basis.T[:rank]
    first.attn1.to_v.bias.zero_()
    first.attn1.to_out[0].weight[:, :rank] = -known_gain * noise_basis[:, :rank]


def _pair_embedding_with_projection(transformer: MoWorldTransformer3DModel, noise_basis: Tensor, known_basis: Tensor) -> None:
    channels, (_, p_h, p_w) = transformer.config.out_channels, transformer.config.patch_size
    width, elements = noise_basis.shape
    weight = transformer.patch_embedding.weight  # (D, 2 C + 4, 1, p, p): noise, mask, known latents
    weight.mul_(0.3)
    weight[:, :channels] = noise_basis.view(width, channels, 1, p_h, p_w)
    weight[:, channels + 4 :] = known_basis.view(width, channels, 1, p_h, p_w)
    by_pixel = noise_basis.view(width, channels, p_h * p_w).permute(2, 1, 0).reshape(elements, width)  # the head's order: pixel, channel
    transformer.proj_out.weight.copy_(by_pixel * (elements / width) ** 0.5)  # the output norm scales the token to sqrt(D)
    transformer.proj_out.bias.zero_()
    transformer.scale_shift_table.zero_()


def _look_up_by_position(attention: nn.Module, heads: int, head_dim: int) -> None:
    space = 2 * (head_dim // 6)
    time = head_dim - 2 * space
    bands = [(10000.0 ** (-torch.arange(0, dim, 2) / dim)).sqrt().repeat_interleave(2) for dim in (time, space, space)]
    sharpness = 0.3 + 2.5 * torch.cat(bands)
    sharpness[:time] *= 0.5  # time is looked up less sharply than place
    for linear, norm in ((attention.to_q, attention.norm_q), (attention.to_k, attention.norm_k)):
        linear.weight.mul_(0.5)
        linear.bias.fill_(1.0)
        norm.weight.copy_(sharpness.repeat(heads))
