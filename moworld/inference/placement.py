"""Placement on devices (paper 5.3): the decoder on one device, the experts on the others, which share the tokens of every chunk.

Computes, for a number of devices and a precision, the bytes on each device, the seconds of a chunk and the bottleneck. A single device
runs experts and decoder in turn; if they do not fit together, their weights are read again for each chunk (`residency`).
"""

from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Literal

import torch

from moworld.inference.memory import DECODER_PREFIXES, codec_working, denoising_bytes
from moworld.inference.ranks import split_ranks
from moworld.model.costs import forward_flops, parameter_counts, prepare_flops
from moworld.model.latent_grid import CODEC_GRID
from moworld.model.settings import Device
from moworld.model.world import ModelSettings

Precision = Literal["bf16", "int8"]
ASSUMPTIONS = (
    "operations: all products of a chunk's steps, history included, and of the decoder; rates from the profile's section `device`",
    "int8: products of the blocks run at twice the bfloat16 rate; attention, decoder and layers outside the blocks stay bfloat16",
    "every expert device holds both experts; encoders are freed when a world is open",
    "communication does not overlap with computation; a single device that cannot hold all modules reads weights at 25 GB/s per chunk",
    "not counted: state of the sessions (latents and cameras) and memory of the server beside the model",
)
READ_BYTES_PER_SECOND = 25e9
INT8_SPEEDUP = 2.0


@dataclass(frozen=True)
class PlacementPlan:
    """A placement on `devices`: bytes of an expert device and of the decoder's device, seconds of a chunk of `chunk_frames`.

    co_resident: whether both experts and the decoder fit on one device
    """

    devices: int
    precision: Precision
    ulysses: int
    ring: int
    experts_bytes: float
    denoising_bytes: float
    decoder_bytes: float
    decoder_weights: float
    device_bytes: float
    fits: bool
    co_resident: bool
    chunk_frames: int
    compute_seconds: float
    exchange_seconds: float
    decode_seconds: float
    read_seconds: float
    chunk_seconds: float
    frames_per_second: float
    bound_by: str

    def peak(self) -> dict[str, float]:
        """Returns the bytes of one device that holds all modules, by the kinds of a dry run, and their total. See `co_resident`."""
        working = max(self.denoising_bytes, self.decoder_bytes - self.decoder_weights)
        kinds = {"parameters": self.experts_bytes + self.decoder_weights, "activations": working}
        return {**kinds, "total": sum(kinds.values())}


def plan_placement(
    model: ModelSettings,
    height: int,
    width: int,
    text: int,
    own_codec: bool,
    devices: int,
    device: Device,
    precision: Precision,
    per_node: int = 8,
) -> PlacementPlan:
    """Returns the plan for `devices`: one decodes and the others denoise; a single one does both in turn.

    height, width: pixels; text: tokens of a prompt; own_codec: `StreamingCodec` instead of Wan's VAE; per_node: devices of a node
    """
    experts = max(1, devices - 1)
    ulysses, ring = split_ranks(model.num_attention_heads, experts)
    weights = 2 * _expert_bytes(model, precision)
    working = denoising_bytes(model, height, width, text, model.chunk_latents, low=2, share=experts)
    parameters, decoder_flops = decoder_costs(height, width, model.chunk_latents, own_codec)
    decoder = 2 * parameters + codec_working(height * width, model.chunk_latents, own_codec, low=2)
    free = device.memory_bytes - device.runtime_bytes
    together = weights + 2 * parameters + max(working, decoder - 2 * parameters) <= free
    alone = max(weights / 2 + working, decoder)  # one module at a time
    linear, attention = denoising_flops(model, height, width, text)
    rate = device.flops * device.utilization
    compute = (linear / (INT8_SPEEDUP if precision == "int8" else 1) + attention) / experts / rate
    exchange = _chunk_exchange(model, height, width, ulysses, ring, device, per_node)
    decode = decoder_flops / rate
    read = 0.0 if devices > 1 or together else (weights + 2 * parameters) / READ_BYTES_PER_SECOND
    parts = {"denoising": compute, "exchange between devices": exchange, "decoding": decode, "reading weights": read}
    if devices > 1:
        seconds, bound = max(compute + exchange, decode), {key: parts[key] for key in ("denoising", "exchange between devices")}
        bound_by = "decoding" if decode > compute + exchange else max(bound, key=bound.__getitem__)
        fits = weights + working <= free and decoder <= free
    else:
        seconds, bound_by, fits = sum(parts.values()), max(parts, key=parts.__getitem__), alone <= free
    frames = model.chunk_frames
    return PlacementPlan(
        devices, precision, ulysses, ring, weights, working, decoder, 2.0 * parameters, free, fits, together, frames,
        compute, exchange, decode, read, seconds, frames / seconds, bound_by,
    )  # fmt: skip


def _expert_bytes(model: ModelSettings, precision: Precision) -> float:
    """Returns the bytes of one expert's weights on a device."""
    parameters, _ = parameter_counts(model)
    if precision == "bf16":
        return 2.0 * parameters
    dim = model.num_attention_heads * model.attention_head_dim
    replaced = model.num_layers * (8 * dim**2 + 2 * dim * model.ffn_dim)  # q, k, v and out of both attentions; the two of the MLP
    return 2.0 * (parameters - replaced) + replaced


def denoising_flops(model: ModelSettings, height: int, width: int, text: int) -> tuple[float, float]:
    """Returns the operations of one chunk: products that INT8 accelerates, and all others."""
    dim = model.num_attention_heads * model.attention_head_dim
    per_frame = model.tokens_per_frame(height, width)
    known, frames = model.history.num_frames, model.chunk_latents + 1
    linear_of_token = model.num_layers * (12 * dim**2 + 4 * dim * model.ffn_dim)
    new, old = frames * per_frame, known * per_frame
    prepared = 2 * prepare_flops(model, known + frames, new + old, text)  # once per expert
    if model.history_attention == "joint":
        times = 2 * (model.freq_dim * dim + 7 * dim**2) * (known + frames - 1)  # one timestep per frame
        total = model.student_steps * (_step_flops(model, known + frames, new + old, text) + times) + prepared
        linear = model.student_steps * (new + old) * linear_of_token
    else:  # each expert processes history once; the last block needs only its keys and values
        step = _step_flops(model, frames, new, text) + model.num_layers * 4 * dim * new * old
        keys, block = old * 4 * dim**2, old * (12 * dim**2 + 4 * dim * model.ffn_dim + 4 * dim * (old + text))
        total = model.student_steps * step + 2 * (_step_flops(model, known, old, text) - block + keys) + prepared
        linear = (model.student_steps * new + 2 * old) * linear_of_token - 2 * (old * (linear_of_token // model.num_layers) - keys)
    texts = model.num_layers * text * 4 * dim**2  # K and V of the text: once per expert, not in each pass
    extra = model.student_steps - 2 + (2 if model.history_attention == "block_causal" else 0)
    return float(linear), float(total - linear - extra * texts)


def _step_flops(model: ModelSettings, frames: int, tokens: int, text: int) -> float:
    return forward_flops(model, frames, tokens, text) - prepare_flops(model, frames, tokens, text)


def _chunk_exchange(model: ModelSettings, height: int, width: int, ulysses: int, ring: int, device: Device, per_node: int) -> float:
    """Returns the seconds of communication of one chunk."""
    per_frame = model.tokens_per_frame(height, width)
    causal = model.history_attention == "block_causal"
    known, new = model.history.num_frames * per_frame, (model.chunk_latents + 1) * per_frame
    passed = model.student_steps * (new if causal else new + known) + (2 * known if causal else 0)  # tokens through all layers
    attended = model.student_steps * (new + known) + (2 * known if causal else 0)
    return exchange_seconds(model, passed, attended, ulysses, ring, device, per_node)


def exchange_seconds(model: ModelSettings, passed: int, attended: int, ulysses: int, ring: int, device: Device, per_node: int) -> float:
    """Returns the seconds of communication: all-to-all across groups, and keys and values in the ring, in every layer.

    passed, attended: tokens of all forward passes, and those whose keys and values are attended to
    """
    link = device.link_bytes_per_second if ulysses * ring <= per_node else device.network_bytes_per_second
    if ulysses * ring == 1 or not link:
        return 0.0
    dim = model.num_attention_heads * model.attention_head_dim
    all_to_all = 4 * 2 * passed / (ulysses * ring) * dim * (ulysses - 1) / ulysses
    ring_bytes = 2 * 2 * attended / (ulysses * ring) * dim * (ring - 1)
    return model.num_layers * (all_to_all + ring_bytes) / link


@cache
def decoder_costs(height: int, width: int, frames: int, own_codec: bool) -> tuple[int, float]:
    """Returns the decoder's parameters and the operations of a chunk of `frames` latent frames, counted by PyTorch on the meta device."""
    from diffusers import AutoencoderKLWan
    from torch.utils.flop_counter import FlopCounterMode

    from moworld.model.codec import StreamingCodec
    from moworld.model.wan_vae import WanCodec

    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        codec = (StreamingCodec() if own_codec else WanCodec(AutoencoderKLWan())).to("meta")
        codec.decode(torch.empty(1, 16, frames, *CODEC_GRID.latent_size(height, width)))
    count = sum(prod(value.shape) for name, value in codec.state_dict().items() if name.removeprefix("vae.").startswith(DECODER_PREFIXES))
    return count, float(counter.get_total_flops())
