"""What an expert costs, by arithmetic that training's and serving's plans share: parameters, operations, and the device they meet."""

from functools import cache

import torch

from moworld.model.camera_adapter import RAYS_PER_TOKEN, factors_are_smaller
from moworld.model.world import ModelSettings
from moworld.settings import Settings


class Device(Settings):
    """One accelerator and its links. `utilization` is the share of the peak that training reaches: an assumption until it is measured."""

    memory_bytes: float
    flops: float
    utilization: float
    link_bytes_per_second: float = 0.0
    network_bytes_per_second: float = 0.0
    price_per_hour: float = 0.0
    runtime_bytes: float = 0.0


@cache
def parameter_counts(model: ModelSettings) -> tuple[int, int]:
    """Parameters of one expert, and of one of its blocks; counted on the meta device."""
    from moworld.model.transformer import MoWorldTransformer3DModel

    with torch.device("meta"):
        transformer = MoWorldTransformer3DModel(**model.transformer())
    return tuple(sum(p.numel() for p in module.parameters()) for module in (transformer, transformer.blocks[0]))  # type: ignore[return-value]


def forward_flops(model: ModelSettings, frames: int, tokens: int, text: int) -> float:
    """Multiplications and additions of one forward pass over one sample of `tokens` in `frames` latent frames, one timestep for all."""
    width = model.num_attention_heads * model.attention_head_dim
    of_tokens = 8 * width**2 + 4 * width**2 + 4 * width * model.ffn_dim  # q, k, v, out; q, out of cross-attention; two of the MLP
    of_text = 4 * width**2  # its keys and values
    attention = 4 * width * (tokens + text)
    blocks = model.num_layers * (tokens * (of_tokens + attention) + text * of_text)
    patch = model.patch_size[1] * model.patch_size[2]
    embedding = 2 * (2 * model.latent_channels + 4) * patch * width
    head = 2 * width * model.latent_channels * patch
    times = 2 * (model.freq_dim * width + 7 * width**2)
    return float(blocks + tokens * (embedding + head) + times) + prepare_flops(model, frames, tokens, text)


def prepare_flops(model: ModelSettings, frames: int, tokens: int, text: int) -> float:
    """The part of a forward pass that stays fixed through the steps of a window: cameras and text."""
    width = model.num_attention_heads * model.attention_head_dim
    adapter = 2 * 2 * 9 * width**2 + 2 * (24 * 3 if factors_are_smaller(width) else RAYS_PER_TOKEN) * width
    basis = (
        2 * 3 * RAYS_PER_TOKEN * width * tokens / frames if factors_are_smaller(width) else 0.0
    )  # of the directions of one frame's pixels
    return float(tokens * adapter + basis + 2 * text * (model.text_dim * width + width**2))
