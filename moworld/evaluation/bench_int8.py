"""INT8 experts (paper 5.4) beside float32, bfloat16 and torchao's dynamic INT8: time of a linear and of a chunk, bytes, and how far pictures move."""

import copy
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kernels.dispatch import named
from kernels.int8_linear import int8_linear, quantize_weight, selected
from kernels.sdpa import selected as sdpa_selected
from moworld.evaluation.bench import Row, side_by_side
from moworld.evaluation.bench_rollout import random_world
from moworld.evaluation.speed import PROMPT, example_picture
from moworld.inference import WorldSession
from moworld.inference.quantization import QuantizeSettings, quantize_experts
from moworld.model.int8 import PLACES
from moworld.model.text import TextEncoder, make_text_encoder
from moworld.model.world import WorldConfig, WorldModel
from moworld.training.codec import psnr


def bench_linear(config: WorldConfig, codec_hidden: int, codec: Path, text_encoder: TextEncoder | None = None) -> list[Row]:
    """Rows of a model of random weights: its feed-forward's first linear alone, the denoising of a chunk, bytes of the experts, first chunk.

    codec: a folder for the codec's random weights. The peers attend by PyTorch's own kernel, as their users' do; float32 and bfloat16 also by
    ours, where it is another. torchao is a peer where it can be imported; its rows are left out elsewhere.
    """
    world, encoder = random_world(config, codec_hidden, codec), text_encoder or make_text_encoder(config.text)
    served = WorldModel(world.config, copy.deepcopy(world.experts), world.codec_folder)
    report = quantize_experts(served, QuantizeSettings(max_layer_error=1.0))
    peers = {"float32": world, "bfloat16": WorldModel(world.config, copy.deepcopy(world.experts).bfloat16(), world.codec_folder)}
    if find_spec("torchao"):
        peers["torchao, dynamic INT8"] = WorldModel(world.config, _by_torchao(copy.deepcopy(world.experts)), world.codec_folder)
    rows = _linear(world, peers)
    ours = _chunks(served, encoder)
    case = "denoising of a chunk, INT8"
    rows += [side_by_side(case, ours, _attending_by_pytorch(_chunks(model, encoder)), name) for name, model in peers.items()]
    if sdpa_selected("cpu").name != "reference":
        rows += [side_by_side(case, ours, _chunks(peers[name], encoder), f"{name}, our attention") for name in ("float32", "bfloat16")]
    rows.append(_bytes_row("both experts, INT8", report["bytes_after"], report["bytes_before"] // 2))
    rows.append(_bytes_row("their blocks, INT8", _block_bytes(served), _block_bytes(peers["bfloat16"])))
    frames, exact = (_first_chunk(model, encoder) for model in (served, world))
    far = float(np.square((frames - exact) / 255).mean())
    near = {"case": "first chunk, INT8 against float32", "ours": round(psnr(far), 2), "peer": 30.0, "peer_name": "wanted"}
    return [*rows, {**near, "ratio": None, "unit": "dB"}]


def _bytes_row(case: str, ours: int, half: int) -> Row:
    megabytes = {"ours": round(ours / 1e6, 3), "peer": round(half / 1e6, 3)}
    return {"case": case, **megabytes, "peer_name": "bfloat16", "ratio": round(half / ours, 3), "unit": "MB"}


def _block_bytes(world: WorldModel) -> int:
    """As they are stored: what is not INT8, or its scale and bias, in bfloat16."""
    experts = [expert for _, expert in world.experts.named_experts()]
    parameters = sum(2 * value.numel() for expert in experts for value in expert.blocks.parameters())
    return parameters + sum(value.nbytes for expert in experts for value in expert.blocks.buffers())


def _by_torchao(experts: nn.Module) -> Any:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    def is_replaced(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and name.partition("blocks.")[2].partition(".")[2] in PLACES

    quantize_(experts, Int8DynamicActivationInt8WeightConfig(), filter_fn=is_replaced)
    return experts


def _linear(world: WorldModel, peers: dict[str, WorldModel]) -> list[Row]:
    """The first linear of a feed-forward over the tokens of a window."""
    config = world.config
    tokens = (config.model.chunk_latents + 1) * config.model.tokens_per_frame(config.height, config.width)
    linear = world.experts.high.blocks[0].ffn.net[0].proj
    weight, scale = quantize_weight(linear.weight.detach())
    bias, x = linear.bias.detach(), torch.randn(tokens, linear.in_features)
    name = f"linear {tokens} x {linear.in_features} x {linear.out_features}, INT8 ({selected('cpu').name})"

    @torch.inference_mode()
    def ours() -> None:
        int8_linear(x, weight, scale, bias)

    def theirs(model: WorldModel) -> Callable[[], None]:
        layer = model.experts.high.blocks[0].ffn.net[0].proj
        given = x.bfloat16() if model is peers["bfloat16"] else x

        @torch.inference_mode()
        def run() -> None:
            layer(given)

        return run

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


def _attending_by_pytorch(run: Callable[[], Any]) -> Callable[[], Any]:
    def as_pytorch_comes() -> Any:
        with named(sdpa="reference"):
            return run()

    return as_pytorch_comes


def _first_chunk(world: WorldModel, encoder: TextEncoder) -> Any:
    return _opened(world, encoder).step("w").astype(np.float64)
