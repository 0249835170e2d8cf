"""Frames per second of an expert pair with random weights beside its roofline (sections of `moworld bench kernels`; paper 5.4).

The decoder is not included.
"""

import gc
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from moworld.inference.placement import denoising_flops
from moworld.model.experts import Experts
from moworld.model.int8 import Int8Linear, join_projections, replaceable_linears
from moworld.model.latent_grid import CODEC_GRID
from moworld.model.rollout import Rollout
from moworld.model.world import WorldConfig
from moworld_ops.benchmarks.measure import Row


def roofline(config: WorldConfig, precision: str, bf16_flops: float, int8_flops: float) -> Row:
    """Returns the frames per second if every product ran at the measured ceilings and nothing else took time.

    bf16_flops, int8_flops: operations per second
    """
    in_linears, elsewhere = denoising_flops(config.model, config.height, config.width, config.text.length)
    seconds = in_linears / (int8_flops if precision == "int8" else bf16_flops) + elsewhere / bf16_flops
    return {"roofline_fps": config.model.chunk_frames / seconds, "chunk_flops": in_linears + elsewhere}


def random_experts(config: WorldConfig, precision: str, device: torch.device) -> Experts:
    """Returns experts of random weights in bfloat16, created on the device; `int8` quantizes each before the next is created."""
    from moworld.model.rope import GlobalRotaryPosEmbed
    from moworld.model.transformer import MoWorldTransformer3DModel

    made = []
    for _ in config.experts:
        with torch.device("meta"):
            expert = MoWorldTransformer3DModel(**config.model.transformer())
        sizes = expert.config
        expert = expert.bfloat16().to_empty(device=device).eval().requires_grad_(False)
        expert.rope = GlobalRotaryPosEmbed(sizes.attention_head_dim, sizes.patch_size, sizes.rope_max_seq_len).to(device)
        for name, parameter in expert.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.02)
            else:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        if precision == "int8":
            for name, layer in list(replaceable_linears(expert).items()):
                expert.set_submodule(name, Int8Linear.from_linear(layer))
            join_projections(expert)
        made.append(expert)
    return Experts(made[0], made[1] if len(made) > 1 else None, config.model.boundary)


@torch.inference_mode()
def rollout_row(config: WorldConfig, precision: str, device: torch.device) -> Row:
    """Returns the seconds of each of two chunks after one denoising step as warm-up, and on a GPU its slowest kernels."""
    free_memory(device)
    model, generator = config.model, torch.Generator(device).manual_seed(0)
    rollout = Rollout(
        random_experts(config, precision, device),
        torch.randn(1, model.latent_channels, 1, *CODEC_GRID.latent_size(config.height, config.width), generator=generator, device=device),
        torch.randn(1, config.text.length, model.text_dim, generator=generator, device=device),
        torch.tensor([config.intrinsics], device=device),
        schedule=config.schedule,
        policy=model.history,
        chunk_latents=model.chunk_latents,
        generator=generator,
        sampler=model.sampler,
    )
    frames, on_gpu = model.chunk_frames, device.type == "cuda"
    poses = torch.eye(4, device=device).repeat(1, frames, 1, 1)
    poses[0, :, 2, 3] = torch.arange(1, frames + 1, device=device) * config.move_units
    synchronize = torch.cuda.synchronize if on_gpu else lambda: None
    rollout.next_chunk(poses, exit_step=0)
    seconds = []
    for _ in range(2):
        synchronize()
        started = time.perf_counter()
        latents = rollout.next_chunk(poses)
        synchronize()
        seconds.append(time.perf_counter() - started)
    kernels = _slowest_kernels(partial(rollout.next_chunk, poses, exit_step=0)) if on_gpu else []
    return {
        "kind": "rollout",
        "case": f"{precision}, {model.history.num_frames} frames of history, {model.history_attention}, {model.student_steps} steps",
        "chunk_seconds": seconds,
        "fps": frames / min(seconds),
        "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        "finite": bool(latents.isfinite().all()),
        "kernels": kernels,
    }


def _slowest_kernels(run: Callable[[], Any], most: int = 14) -> list[Row]:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        run()
        torch.cuda.synchronize()
    events = sorted(recorded.key_averages(), key=lambda event: -event.self_device_time_total)
    return [{"kernel": event.key[:90], "ms": event.self_device_time_total / 1000, "calls": event.count} for event in events[:most]]


def free_memory(device: torch.device) -> None:
    """Frees the device's unused memory and restarts the count of its peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
