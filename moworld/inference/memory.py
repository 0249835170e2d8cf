"""Bytes of a world's modules: weights, and working memory computed from sizes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from moworld.errors import InputError
from moworld.files import read_json
from moworld.model.camera_adapter import factors_are_smaller
from moworld.model.text import encoder_folder
from moworld.model.weights import STRETCH, Weights
from moworld.model.world import ModelSettings, WorldConfig

SLACK = 16_000_000  # tokenizer, allocator and buffers of libraries: 10 to 16 MB were measured
DECODER_PREFIXES = ("decoder", "post_quant_conv", "linear_out", "up")  # tensors of a codec that only decoding uses


@dataclass(frozen=True)
class ModuleBytes:
    """A module of a world: bytes of its weights, peak bytes beside them, and whether it runs once per chunk or per world."""

    name: str  # text, encoder, high, low, decoder
    weights: int
    working: int
    per: Literal["chunk", "world"]


def module_bytes(
    config: WorldConfig, held: Mapping[str, Iterable[Tensor]], codec_folder: Path, chunk_latents: int | None = None
) -> tuple[ModuleBytes, ...]:
    """Returns the modules of a world in the order of their use. `text` is absent if its encoder is not installed.

    held: tensors of "encoder", "high", "low" and "decoder" with the shapes and dtypes that they have in memory
    """
    own = read_json(codec_folder / "config.json").get("_class_name") == "StreamingCodec"
    pixels, frames = config.height * config.width, chunk_latents or config.model.chunk_latents
    working = {"encoder": codec_working(pixels, 1, own), "decoder": codec_working(pixels, frames, own)}
    for expert in config.experts:
        size = (config.height, config.width, config.text.length, frames)
        working[expert] = denoising_bytes(config.model, *size, quantized=config.quantization != "none")
    modules = []
    try:
        text = Weights(encoder_folder(config.text), "model.safetensors")
        modules.append(ModuleBytes("text", sum(entry.nbytes for entry in text.entries.values()), SLACK, "world"))
    except InputError:
        pass  # worlds without a prompt need no text encoder; a prompt raises this error again
    for name in ("encoder", *config.experts, "decoder"):
        sizes = [tensor.nbytes for tensor in held[name]]
        reading = max(STRETCH, *sizes)  # part of the file that is mapped beside the weights
        modules.append(ModuleBytes(name, sum(sizes), max(working[name], reading) + SLACK, "world" if name == "encoder" else "chunk"))
    return tuple(modules)


def denoising_bytes(
    model: ModelSettings, height: int, width: int, text: int, chunk_latents: int, *, low: int = 4, quantized: bool = False, share: int = 1
) -> int:
    """Returns the working bytes of an expert for one chunk: activations of the largest layer, K and V of block-causal history.

    low: bytes of an activation; share: number of devices that share the tokens
    """
    dim = model.num_attention_heads * model.attention_head_dim
    per_frame = model.tokens_per_frame(height, width)
    known, frames = model.history.num_frames, chunk_latents + 1
    causal = model.history_attention == "block_causal"
    together = max(known, frames) if causal else known + frames
    tokens = -(-together * per_frame // share)
    residual = tokens * dim * (3 * 4 + 8 * low)  # norms in float32; input, queries, keys, values, their rotated copies, output
    ffn = tokens * model.ffn_dim * (2 * low + (4 * 3 if quantized else 0))
    modulation = 0 if causal else tokens * dim * 6 * (4 + 4 + low)  # one timestep per token
    past = 2 * model.num_layers * dim * low * -(-known * per_frame // share) if causal else 0
    widened = 4 * dim * model.ffn_dim if quantized else 0  # INT8 weights of one layer, widened for a product in float32
    if factors_are_smaller(dim, model.rays_per_token):
        camera = 3 * 24 * 3 * dim * per_frame * 4 + (known + frames) * per_frame * dim * 4 * 4
    else:
        camera = (known + frames) * per_frame * model.rays_per_token * (4 + 2 * low)
    return int(residual + ffn + modulation + past + widened + camera + text * (model.text_dim + 4 * dim) * low)


def codec_working(pixels: int, frames: int, own: bool, low: int = 4) -> int:
    """Returns the working bytes of the codec for `frames` latent frames; Wan's (own=False) has 96 channels, one latent frame at a time."""
    if own:
        return low * frames * pixels * 40
    return low * 4 * pixels * 96 * 8
