"""Which device holds what (paper 5.3): the decoder on its own, the experts on the others, which share every chunk's tokens.

By arithmetic alone, for a number of devices and a precision: bytes on each device, seconds of a chunk, and what bounds the rate. One device
takes turns: experts, then decoder, and where they do not fit together their weights are read again for each chunk (`residency`).
"""

from dataclasses import asdict, dataclass
from functools import cache
from math import prod
from typing import Any, Literal

import torch

from moworld.inference.memory import codec_working, denoising_bytes
from moworld.inference.ranks import share
from moworld.model.costs import Device, forward_flops, parameter_counts, prepare_flops
from moworld.model.world import ModelSettings

Precision = Literal["bf16", "int8"]
ASSUMPTIONS = (
    "operations: all products of the few steps of a chunk, its history included, and all of the decoder's; rates as the device's section says",
    "int8: products of the blocks run at twice the bfloat16 rate, attention does not; decoder and what is outside the blocks stay bfloat16",
    "every expert device holds both experts whole; encoders are released when a world is open",
    "communication does not overlap with computing; a single device that cannot hold all reads weights for each chunk at 25 GB a second",
    "sessions' states (latents and cameras) and what serving needs beside the model are not in it",
)
READ_BYTES_PER_SECOND = 25e9
INT8_SPEEDUP = 2.0


@dataclass(frozen=True)
class PlacementPlan:
    """A placement on `devices`. Bytes of an expert device and of the decoder's; seconds of a chunk of `chunk_frames`.

    co_resident: whether both experts and the decoder fit on one device
    """

    devices: int
    precision: Precision
    ulysses: int
    ring: int
    experts_bytes: float
    denoising_bytes: float
    decoder_bytes: float
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

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


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
    """The plan for `devices`: one decodes and the others denoise; a single one does both in turn."""
    experts = max(1, devices - 1)
    ulysses, ring = share(model.num_attention_heads, experts)
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
    exchange = _exchange_seconds(model, height, width, ulysses, ring, device, per_node)
    decode = decoder_flops / rate
    read = 0.0 if devices > 1 or together else (weights + 2 * parameters) / READ_BYTES_PER_SECOND
    parts = {"denoising": compute, "exchange between devices": exchange, "decoding": decode, "reading weights": read}
    if devices > 1:
        seconds, bound = max(compute + exchange, decode), {key: parts[key] for key in ("denoising", "exchange between devices")}
        bound_by = "decoding" if decode > compute + exchange else max(bound, key=bound.__getitem__)
        fits = weights + working <= free and decoder <= free
    else:
        seconds, bound_by, fits = sum(parts.values()), max(parts, key=parts.__getitem__), alone <= free
    frames = 4 * model.chunk_latents
    return PlacementPlan(
        devices, precision, ulysses, ring, weights, working, decoder, free, fits, together, frames,
        compute, exchange, decode, read, seconds, frames / seconds, bound_by,
    )  # fmt: skip


def _expert_bytes(model: ModelSettings, precision: Precision) -> float:
    """Of one expert as it lies on a device."""
    parameters, _ = parameter_counts(model)
    if precision == "bf16":
        return 2.0 * parameters
    dim = model.num_attention_heads * model.attention_head_dim
    replaced = model.num_layers * (8 * dim**2 + 2 * dim * model.ffn_dim)  # q, k, v and out of both attentions; the two of the MLP
    return 2.0 * (parameters - replaced) + replaced


def denoising_flops(model: ModelSettings, height: int, width: int, text: int) -> tuple[float, float]:
    """Of one chunk: those that INT8 makes faster, and attention with the rest."""
    dim = model.num_attention_heads * model.attention_head_dim
    per_frame = model.tokens_per_frame(height, width)
    known, frames = model.history.num_frames, model.chunk_latents + 1
    linear_of_token = model.num_layers * (12 * dim**2 + 4 * dim * model.ffn_dim)
    new, old = frames * per_frame, known * per_frame
    prepared = 2 * prepare_flops(model, known + frames, new + old, text)  # once for each expert
    if model.history_attention == "joint":
        times = 2 * (model.freq_dim * dim + 7 * dim**2) * (known + frames - 1)  # each frame has its own
        total = model.student_steps * (_step_flops(model, known + frames, new + old, text) + times) + prepared
        linear = model.student_steps * (new + old) * linear_of_token
    else:  # history is read once for each expert, and of the last block its keys and values alone
        step = _step_flops(model, frames, new, text) + model.num_layers * 4 * dim * new * old
        keys, block = old * 4 * dim**2, old * (12 * dim**2 + 4 * dim * model.ffn_dim + 4 * dim * (old + text))
        total = model.student_steps * step + 2 * (_step_flops(model, known, old, text) - block + keys) + prepared
        linear = (model.student_steps * new + 2 * old) * linear_of_token - 2 * (old * (linear_of_token // model.num_layers) - keys)
    texts = model.num_layers * text * 4 * dim**2  # the text's keys and values: once for each expert, not in each pass
    extra = model.student_steps - 2 + (2 if model.history_attention == "block_causal" else 0)
    return float(linear), float(total - linear - extra * texts)


def _step_flops(model: ModelSettings, frames: int, tokens: int, text: int) -> float:
    return forward_flops(model, frames, tokens, text) - prepare_flops(model, frames, tokens, text)


def _exchange_seconds(model: ModelSettings, height: int, width: int, ulysses: int, ring: int, device: Device, per_node: int) -> float:
    """Of one chunk: heads for tokens across groups, keys and values round a ring, in every layer and step."""
    if ulysses * ring == 1:
        return 0.0
    dim = model.num_attention_heads * model.attention_head_dim
    per_frame = model.tokens_per_frame(height, width)
    causal = model.history_attention == "block_causal"
    known, new = model.history.num_frames * per_frame, (model.chunk_latents + 1) * per_frame
    link = device.link_bytes_per_second if ulysses * ring <= per_node else device.network_bytes_per_second
    passed = model.student_steps * (new if causal else new + known) + (2 * known if causal else 0)  # tokens through all layers
    sent = 4 * 2 * passed / (ulysses * ring) * dim * (ulysses - 1) / ulysses
    around = 2 * 2 * (model.student_steps * (new + known) + (2 * known if causal else 0)) / (ulysses * ring) * dim * (ring - 1)
    return model.num_layers * (sent + around) / link if link else 0.0


@cache
def decoder_costs(height: int, width: int, frames: int, own_codec: bool) -> tuple[int, float]:
    """Parameters of the decoder and the operations of a chunk of `frames` latent frames, as PyTorch counts them on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    from moworld.model.codec import StreamingCodec

    with torch.device("meta"):
        if own_codec:
            codec: Any = StreamingCodec()
        else:
            from diffusers import AutoencoderKLWan

            from moworld.model.wan_vae import WanCodec

            codec = WanCodec(AutoencoderKLWan())
        latents = torch.empty(1, 16, frames, height // 8, width // 8)
    codec = codec.to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        codec.decode(latents)
    names = ("decoder", "post_quant_conv", "linear_out", "up")
    count = sum(prod(value.shape) for name, value in codec.state_dict().items() if name.removeprefix("vae.").startswith(names))
    return count, float(counter.get_total_flops())
