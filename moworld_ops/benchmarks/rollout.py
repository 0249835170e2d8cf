"""`moworld bench rollout`: a session beside Diffusers over a sliding window and beside a rollout with a growing KV cache.

All have the same sizes and random weights: time does not depend on what is generated. All times include decoding. The rollout with a
cache has our blocks and our precision; Diffusers has its defaults and float32.
"""

import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from moworld.evaluation.speed import PROMPT, example_picture
from moworld.inference import WorldSession
from moworld.inference.quantization import QuantizeSettings, quantize_experts
from moworld.kernels.qk_norm_rope import qk_norm_rope
from moworld.model.attention import project
from moworld.model.block import TransformerBlock
from moworld.model.codec import StreamingCodec
from moworld.model.latent_cameras import LatentCameras, RayCache
from moworld.model.latent_grid import CODEC_GRID
from moworld.model.rope import Rotary
from moworld.model.sequence import KeysValues, Part
from moworld.model.text import TextEncoder, make_text_encoder
from moworld.model.world import WorldConfig, WorldModel
from moworld_ops.benchmarks.measure import Row, row, side_by_side

DIFFUSERS_STEPS = 50


def bench_rollout(
    config: WorldConfig, codec_hidden: int, codec: Path, frames: int = 10_000, text_encoder: TextEncoder | None = None, int8: bool = True
) -> list[Row]:
    """Returns rows of a session of `frames` frames and of both peers.

    codec: a directory for the codec's random weights; int8: as models are served (paper 5.4), else float32
    """
    world = random_world(config, codec_hidden, codec)
    if int8:
        quantize_experts(world, QuantizeSettings(max_layer_error=1.0))
    session = WorldSession(world, text_encoder or make_text_encoder(config.text))
    begun = time.perf_counter()
    session.open(example_picture(config.height, config.width), PROMPT)
    session.step("w")
    first_chunk = time.perf_counter() - begun
    rows = _peers(session, frames)
    return [row("time to the first chunk", 1000 * first_chunk, "ms"), *rows, *_soak(session, frames)]


def random_world(config: WorldConfig, codec_hidden: int, codec: Path) -> WorldModel:
    """Returns a model of random weights and writes its codec to the directory `codec`."""
    StreamingCodec(config.model.latent_channels, hidden=codec_hidden).save_pretrained(codec)
    world = WorldModel.create(config, 0)
    world.experts.eval()
    world.codec_folder = codec
    return world


def _peers(session: WorldSession, frames: int) -> list[Row]:
    """Returns milliseconds of a chunk. Ours and Diffusers' do not depend on its position; those with a cache do."""

    def ours() -> None:
        session.step("w")

    while session.rollout is None or len(session.rollout.bank) < 4 * session.chunk_latents:  # until the history is full
        ours()
    rows = [side_by_side("a chunk", ours, sliding_window(session), f"Diffusers over a sliding window, {DIFFUSERS_STEPS} steps", turns=3)]
    for frame in (100, 2000):
        if frame <= max(frames, 100):
            rows.append(side_by_side(f"a chunk at frame {frame}", ours, KeyValueRollout(session, frame // 4).chunk, "4 steps, KV cache"))
    return rows


def _soak(session: WorldSession, frames: int) -> list[Row]:
    """Returns rows of one session over `frames` frames: rate, growth of time and memory, bytes of its state beside a KV cache."""
    seconds, memory, num_frames = [], list[int](), 0
    began, chunks = time.perf_counter(), max(20, -(-frames // session.chunk_frames))
    for chunk in range(chunks):
        started = time.perf_counter()
        num_frames += len(session.step("w" if chunk % 20 < 10 else "l"))
        seconds.append(time.perf_counter() - started)
        if chunk == chunks // 10:
            gc.collect()
            memory.append(psutil.Process().memory_info().rss)
    memory.append(psutil.Process().memory_info().rss)
    rate, few = num_frames / (time.perf_counter() - began), max(5, min(100, chunks // 4))
    early, late = (1000 * statistics.median(part) for part in (seconds[few // 10 :][:few], seconds[-few:]))
    on_time = sum(second <= session.chunk_frames / 30 for second in seconds) / len(seconds)
    assert session.rollout is not None
    model, config, bank = session.model.config.model, session.model.config, session.rollout.bank
    tokens = len(bank) * model.tokens_per_frame(config.height, config.width)
    cache = 2 * len(config.experts) * model.num_layers * tokens * model.num_attention_heads * model.attention_head_dim * 4  # float32
    return [
        row(f"frames a second over {num_frames} frames, decoding included", rate, "1/s", 30, "real time", rate / 30),
        row("chunks in time at 30 frames a second", 100 * on_time, "%"),
        row(f"median of the last {few} chunks", late, "ms", early, f"{few} early chunks", early / late),
        row("resident memory at the end", memory[1] / 1e6, "MB", memory[0] / 1e6, "after a tenth", memory[0] / memory[1]),
        row(f"state of a session after {len(bank)} latent frames", bank.nbytes / 1e6, "MB", cache / 1e6, "KV cache", cache / bank.nbytes),
    ]


def sliding_window(session: WorldSession) -> Callable[[], Any]:
    """Returns a function that generates a chunk by Diffusers: context and new latents denoised together in 50 steps, then decoded."""
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    config = session.model.config
    sizes = {key: value for key, value in config.model.transformer().items() if key not in ("camera_gate", "block_causal")}
    transformer = WanTransformer3DModel(**sizes).eval()
    known, new = config.model.history.num_frames + 1, config.model.chunk_latents
    latents = torch.randn(1, config.model.latent_channels, known + new, *CODEC_GRID.latent_size(config.height, config.width))
    condition, text = torch.randn(1, 4 + latents.shape[1], *latents.shape[2:]), torch.randn(1, config.text.length, config.model.text_dim)

    @torch.inference_mode()
    def chunk() -> None:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=config.model.shift)
        scheduler.set_timesteps(DIFFUSERS_STEPS)
        noisy = torch.randn_like(latents)
        for timestep in scheduler.timesteps:
            velocity = transformer(torch.cat([noisy, condition], dim=1), timestep[None], text, return_dict=False)[0]
            noisy = scheduler.step(velocity, timestep, noisy, return_dict=False)[0]
        session.codec.decode_chunk(noisy[:, :, -new:], None)

    return chunk


class CachedBlock(TransformerBlock):
    """A block that writes its keys and values after those of all earlier tokens, from `filled` on, and attends to all.

    keys, values: buffers (1, heads, tokens, head_dim)
    """

    keys: Tensor
    values: Tensor
    filled: int

    def attend(self, x: Tensor, rotary: Rotary, part: Part | None = None, past: KeysValues | None = None) -> tuple[Tensor, KeysValues]:
        attn: Any = self.attn1
        query, key, value = project(attn, x)
        normed = qk_norm_rope(query, key, attn.norm_q.weight, attn.norm_k.weight, *rotary, eps=attn.norm_q.eps)
        query, key = (tensor.transpose(1, 2) for tensor in normed)
        end = self.filled + x.shape[1]
        self.keys[:, :, self.filled : end] = key
        self.values[:, :, self.filled : end] = value.unflatten(2, (attn.heads, -1)).transpose(1, 2)
        output = torch.nn.functional.scaled_dot_product_attention(query, self.keys[:, :, :end], self.values[:, :, :end])
        return attn.to_out[0](output.transpose(1, 2).flatten(2)), KeysValues(self.keys, self.values, end)


class KeyValueRollout:
    """A few-step rollout of the same sizes that keeps keys and values of every token. `chunk` generates the chunk after `latent_frames`."""

    def __init__(self, session: WorldSession, latent_frames: int) -> None:
        self.session, config = session, session.model.config
        self.ray_cache = RayCache()
        joint = config.model.model_copy(update={"history_attention": "joint"})
        plain = config.model_copy(update={"model": joint, "quantization": "none"})
        world = WorldModel.create(plain, 0)
        self.experts = world.experts.eval()
        if config.quantization == "w8a8":
            quantize_experts(world, QuantizeSettings(max_layer_error=1.0))
        self.start = latent_frames
        per_frame = config.model.tokens_per_frame(config.height, config.width)
        for _, expert in self.experts.named_experts():
            for block in expert.blocks:
                block.__class__ = CachedBlock
                tokens = (latent_frames + config.model.chunk_latents) * per_frame
                block.keys, block.values = torch.randn(2, 1, config.model.num_attention_heads, tokens, config.model.attention_head_dim)
                block.filled = latent_frames * per_frame
        self.text = torch.randn(1, config.text.length, config.model.text_dim)

    @torch.inference_mode()
    def chunk(self) -> None:
        """Denoises the new latents in four steps, runs each expert once on the clean latents for its cache, and decodes."""
        config = self.session.model.config
        model, frames = config.model, config.model.chunk_latents
        cameras = LatentCameras(torch.tensor(config.intrinsics).expand(1, frames, 4, 4), torch.eye(4).expand(1, frames, 4, 4, 4))
        rays, ids = cameras.rays(config.height, config.width, self.ray_cache), torch.arange(self.start, self.start + frames)
        noisy = torch.randn(1, model.latent_channels, frames, *CODEC_GRID.latent_size(config.height, config.width))
        condition, prepared = torch.zeros(1, 4 + noisy.shape[1], *noisy.shape[2:]), dict[int, Any]()
        levels = [float(level) for level in config.schedule]
        runs = [(self.experts.at(level), level) for level in levels] + [(expert, 0.0) for _, expert in self.experts.named_experts()]
        for expert, level in runs:
            hidden = torch.cat([noisy, condition], dim=1)
            if id(expert) not in prepared:
                prepared[id(expert)] = expert.prepare(hidden, self.text, rays, ids)
            velocity = expert.denoise(hidden, torch.tensor([1000 * level]), prepared[id(expert)])
            noisy = noisy - 0.5 * velocity
        self.session.codec.decode_chunk(noisy, None)
