"""`moworld bench linear`: INT8 experts (paper 5.4) beside float32, bfloat16 and torchao's dynamic INT8.

Rows: time of a linear and of a chunk, bytes, and the difference of the first chunk's pictures. torchao is a peer where it is installed.
"""

import copy
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from moworld.evaluation.speed import PROMPT, example_picture
from moworld.inference import WorldSession
from moworld.inference.quantization import QuantizeSettings, quantize_experts, stored_bytes
from moworld.kernels.attention import OPERATOR as ATTENTION
from moworld.kernels.dispatch import named
from moworld.kernels.int8_linear import OPERATOR as LINEAR
from moworld.kernels.int8_linear import int8_linear, quantize_weight
from moworld.model.int8 import REPLACED
from moworld.model.text import TextEncoder, make_text_encoder
from moworld.model.world import WorldConfig, WorldModel
from moworld.training.codec import psnr
from moworld_ops.benchmarks.measure import Row, row, side_by_side
from moworld_ops.benchmarks.rollout import random_world


def bench_linear(config: WorldConfig, codec_hidden: int, codec: Path, text_encoder: TextEncoder | None = None) -> list[Row]:
    """Returns rows of a model of random weights: its feed-forward's first linear, the denoising of a chunk, bytes, first chunk.

    codec: a directory for the codec's random weights. Peers attend by PyTorch's kernel, as their users do; float32 and bfloat16 also by
    ours where it differs.
    """
    world, encoder = random_world(config, codec_hidden, codec), text_encoder or make_text_encoder(config.text)
    served = WorldModel(world.config, copy.deepcopy(world.experts), world.codec_folder)
    report = quantize_experts(served, QuantizeSettings(max_layer_error=1.0))
    peers = {"float32": world, "bfloat16": WorldModel(world.config, copy.deepcopy(world.experts).bfloat16(), world.codec_folder)}
    if find_spec("torchao"):
        quantized = by_torchao(copy.deepcopy(world.experts), _is_replaced)
        peers["torchao, dynamic INT8"] = WorldModel(world.config, quantized, world.codec_folder)
    rows = _linear(world, peers)
    ours, case = _chunks(served, encoder), "denoising of a chunk, INT8"
    rows += [side_by_side(case, ours, named(attention="sdpa")(_chunks(model, encoder)), name) for name, model in peers.items()]
    if ATTENTION.choose("cpu").name != "sdpa":
        rows += [side_by_side(case, ours, _chunks(peers[name], encoder), f"{name}, our attention") for name in ("float32", "bfloat16")]
    rows.append(_bytes_row("both experts, INT8", report["bytes_after"], report["bytes_before"] // 2))
    blocks = [torch.nn.ModuleList(expert.blocks for _, expert in model.experts.named_experts()) for model in (served, peers["bfloat16"])]
    rows.append(_bytes_row("their blocks, INT8", *(stored_bytes(module, low=True) for module in blocks)))
    frames, exact = (_opened(model, encoder).step("w").astype(np.float64) for model in (served, world))
    error = float(np.square((frames - exact) / 255).mean())
    return [*rows, row("first chunk, INT8 against float32", psnr(error), "dB", 30.0, "target")]


def by_torchao(module: nn.Module, is_replaced: Callable[[nn.Module, str], bool] | None = None) -> Any:
    """Returns the module with the linears that `is_replaced` accepts (None: all) in torchao's dynamic INT8."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(module, Int8DynamicActivationInt8WeightConfig(), filter_fn=is_replaced)
    return module


def _is_replaced(module: nn.Module, name: str) -> bool:
    return isinstance(module, nn.Linear) and name.partition("blocks.")[2].partition(".")[2] in REPLACED


def _bytes_row(case: str, ours: int, half: int) -> Row:
    return row(case, ours / 1e6, "MB", half / 1e6, "bfloat16", half / ours)


def _linear(world: WorldModel, peers: dict[str, WorldModel]) -> list[Row]:
    """Returns rows of the first linear of a feed-forward over the tokens of a window."""
    config = world.config
    tokens = (config.model.chunk_latents + 1) * config.model.tokens_per_frame(config.height, config.width)
    linear = world.experts.high.blocks[0].ffn.net[0].proj
    weight, scale = quantize_weight(linear.weight.detach())
    bias, x = linear.bias.detach(), torch.randn(tokens, linear.in_features)
    name = f"linear {tokens} x {linear.in_features} x {linear.out_features}, INT8 ({LINEAR.choose('cpu').name})"

    @torch.inference_mode()
    def ours() -> None:
        int8_linear(x, weight, scale, bias)

    def theirs(model: WorldModel) -> Callable[[], None]:
        layer = model.experts.high.blocks[0].ffn.net[0].proj
        given = x.bfloat16() if model is peers["bfloat16"] else x
        return torch.inference_mode()(lambda: layer(given))

    return [side_by_side(name, ours, theirs(model), peer, turns=101) for peer, model in peers.items()]


def _opened(world: WorldModel, encoder: TextEncoder) -> WorldSession:
    session = WorldSession(world, encoder)
    session.open(example_picture(world.config.height, world.config.width), PROMPT)
    return session


def _chunks(world: WorldModel, encoder: TextEncoder) -> Callable[[], Any]:
    session = _opened(world, encoder)
    for _ in range(4):  # until the history is full
        session.denoise("w")
    return lambda: session.denoise("w")
