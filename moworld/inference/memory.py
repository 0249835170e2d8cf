"""Bytes that the modules of a world take: their weights, and what they work with, by arithmetic from sizes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from moworld.files import read_json
from moworld.model.camera_adapter import RAYS_PER_TOKEN, factors_are_smaller
from moworld.model.text import encoder_folder
from moworld.model.weights import STRETCH, Weights
from moworld.model.world import ModelSettings, WorldConfig

SLACK = 16_000_000  # what the tokenizer, the allocator and libraries' buffers keep: 10 to 16 MB were measured


@dataclass(frozen=True)
class ModuleBytes:
    """A module of a world: bytes of its weights, bytes beside them at its worst moment, and whether a chunk or a world needs it."""

    name: str  # text, encoder, high, low, decoder
    weights: int
    working: int
    per: Literal["chunk", "world"]


def module_bytes(
    config: WorldConfig, held: Mapping[str, Iterable[Tensor]], codec_folder: Path, chunk_latents: int | None = None
) -> tuple[ModuleBytes, ...]:
    """The modules of a world in the order in which they are needed.

    held: the tensors of "encoder", "high", "low" and "decoder" as they will lie in memory (their shapes and dtypes are read)
    """
    weights = {name: sum(tensor.nbytes for tensor in tensors) for name, tensors in held.items()}
    largest = {name: max(tensor.nbytes for tensor in tensors) for name, tensors in held.items()}
    text = Weights(encoder_folder(config.text), "model.safetensors")
    stored_text = sum(text.nbytes(key) for key in text.shapes)
    frames = chunk_latents or config.model.chunk_latents
    own = read_json(codec_folder / "config.json").get("_class_name") == "StreamingCodec"
    pixels = config.height * config.width
    working: dict[str, int] = {
        "encoder": codec_working(pixels, 1, own),
        "decoder": codec_working(pixels, frames, own),
    }
    for name in config.experts:
        size = (config.height, config.width, config.text.length, frames)
        working[name] = denoising_bytes(config.model, *size, quantized=config.quantization != "none")
    made = [ModuleBytes("text", stored_text, SLACK, "world")]
    for module in ("encoder", *config.experts, "decoder"):
        reading = max(STRETCH, largest[module])  # of the file, beside the weights
        made.append(
            ModuleBytes(module, weights[module], max(working[module], reading) + SLACK, "world" if module == "encoder" else "chunk")
        )
    return tuple(made)


def denoising_bytes(
    model: ModelSettings, height: int, width: int, text: int, chunk_latents: int, *, low: int = 4, quantized: bool = False, share: int = 1
) -> int:
    """What an expert works with while it denoises one chunk: activations of its worst layer, and keys and values of block-causal history.

    low: bytes of an activation; share: devices among which the tokens are shared out
    """
    dim = model.num_attention_heads * model.attention_head_dim
    per_frame = model.tokens_per_frame(height, width)
    known, frames = model.history.num_frames, chunk_latents + 1
    causal = model.history_attention == "block_causal"
    at_once = max(known, frames) if causal else known + frames
    tokens = -(-at_once * per_frame // share)
    residual = tokens * dim * (3 * 4 + 8 * low)  # norms in float32; input, queries, keys, values, their rotated copies, output
    ffn = tokens * model.ffn_dim * (2 * low + (4 * 3 if quantized else 0))
    modulation = 0 if causal else tokens * dim * 6 * (4 + 4 + low)  # a timestep for every token
    past = 2 * model.num_layers * dim * low * -(-known * per_frame // share) if causal else 0
    widened = 4 * dim * model.ffn_dim if quantized else 0  # one layer's INT8 weights, where the product runs in float32
    if factors_are_smaller(dim):
        camera = 3 * 24 * 3 * dim * per_frame * 4 + (known + frames) * per_frame * dim * 4 * 4
    else:
        camera = (known + frames) * per_frame * RAYS_PER_TOKEN * (4 + 2 * low)
    return int(residual + ffn + modulation + past + widened + camera + text * (model.text_dim + 4 * dim) * low)


def codec_working(pixels: int, frames: int, own: bool, low: int = 4) -> int:
    """A chunk of latent frames through the codec: the own one's maps at full width are few; Wan's, 96 channels wide, one latent frame at a time."""
    if own:
        return low * frames * pixels * 40
    return low * 4 * pixels * 96 * 8
