"""A session side by side with what a user would otherwise write: Diffusers over a sliding window, and a rollout with a KV cache that grows.

All have the same sizes and random weights: time does not depend on what is generated. Decoding is in our times and in the peers'. The rollout
with a cache is of our own blocks, at our precision; Diffusers is as one loads it, in float32.
"""

import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.qk_norm_rope import qk_norm_rope
from moworld.evaluation.bench import Row, side_by_side
from moworld.evaluation.speed import PROMPT, example_picture
from moworld.inference import WorldSession
from moworld.inference.quantization import QuantizeSettings, quantize_experts
from moworld.model.attention import SelfAttention
from moworld.model.codec import StreamingCodec
from moworld.model.latent_cameras import LatentCameras, Rays
from moworld.model.text import TextEncoder, make_text_encoder
from moworld.model.world import WorldConfig, WorldModel

DIFFUSERS_STEPS = 50


def bench_rollout(
    config: WorldConfig, codec_hidden: int, codec: Path, frames: int = 10_000, text_encoder: TextEncoder | None = None, int8: bool = True
) -> list[Row]:
    """Rows of a session of `frames` frames and of both peers (see `side_by_side`).

    codec: a folder for the codec's random weights; int8: as models are served (paper 5.4), else float32
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
    return [{**_row("time to the first chunk", 1000 * first_chunk, "ms")}, *rows, *_soak(session, frames)]


def random_world(config: WorldConfig, codec_hidden: int, codec: Path) -> WorldModel:
    """A model of random weights, its codec's in the folder `codec`."""
    StreamingCodec(config.model.latent_channels, hidden=codec_hidden).save_pretrained(codec)
    world = WorldModel.create(config, 0)
    world.experts.eval()
    world.codec_folder = codec
    return world


def _row(case: str, ours: float, unit: str, peer: float | None = None, peer_name: str = "", ratio: float | None = None) -> Row:
    return {
        "case": case, "ours": round(ours, 3), "peer": peer if peer is None else round(peer, 3), "peer_name": peer_name,
        "ratio": ratio if ratio is None else round(ratio, 3), "unit": unit,
    }  # fmt: skip


def _peers(session: WorldSession, frames: int) -> list[Row]:
    """Milliseconds of a chunk: ours, which do not depend on its place, beside the peers', of which the one with a cache does."""

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
    """One session over `frames` frames: sustained rate, how flat time and memory stay, the bytes of its state beside those of a KV cache."""
    seconds, memory, made = [], list[int](), 0
    began, chunks = time.perf_counter(), max(20, -(-frames // session.chunk_frames))
    for chunk in range(chunks):
        started = time.perf_counter()
        made += len(session.step("w" if chunk % 20 < 10 else "l"))
        seconds.append(time.perf_counter() - started)
        if chunk == chunks // 10:
            gc.collect()
            memory.append(_resident_bytes())
    memory.append(_resident_bytes())
    rate, few = made / (time.perf_counter() - began), max(5, min(100, chunks // 4))
    early, late = (1000 * statistics.median(part) for part in (seconds[few // 10 :][:few], seconds[-few:]))
    on_time = sum(second <= session.chunk_frames / 30 for second in seconds) / len(seconds)
    assert session.rollout is not None
    bank, cache = session.rollout.bank.nbytes, key_value_bytes(session, len(session.rollout.bank))
    return [
        _row(f"frames a second over {made} frames, decoding included", rate, "1/s", 30, "real time", rate / 30),
        _row("chunks in time at 30 frames a second", 100 * on_time, "%"),
        _row(f"median of the last {few} chunks", late, "ms", early, f"{few} early chunks", early / late),
        _row("resident memory at the end", memory[1] / 1e6, "MB", memory[0] / 1e6, "after a tenth", memory[0] / memory[1]),
        _row(
            f"state of a session after {len(session.rollout.bank)} latent frames", bank / 1e6, "MB", cache / 1e6, "KV cache", cache / bank
        ),
    ]


def key_value_bytes(session: WorldSession, latent_frames: int) -> int:
    """Bytes of keys and values of both experts for all tokens of `latent_frames`."""
    model, config = session.model.config.model, session.model.config
    tokens = latent_frames * model.tokens_per_frame(config.height, config.width)
    return 2 * len(config.experts) * model.num_layers * tokens * model.num_attention_heads * model.attention_head_dim * 4


def _resident_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def sliding_window(session: WorldSession) -> Callable[[], Any]:
    """A chunk as Diffusers' parts make it: a window of context and new latents, denoised whole in 50 steps, decoded."""
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    config = session.model.config
    sizes = {key: value for key, value in config.model.transformer().items() if key not in ("camera_gate", "block_causal")}
    transformer = WanTransformer3DModel(**sizes).eval()
    known, new = config.model.history.num_frames + 1, config.model.chunk_latents
    latents = torch.randn(1, config.model.latent_channels, known + new, config.height // 8, config.width // 8)
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


class _CachedAttention(SelfAttention):
    """Wan's self-attention that writes its keys and values behind those of all tokens before, into a buffer, and attends to all of them."""

    def __init__(self, tokens: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.keys, self.values = torch.randn(2, 1, heads, tokens, head_dim)
        self.filled = 0

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        assert rotary_emb is not None
        query, key, value = self._project(attn, hidden_states)
        normed = qk_norm_rope(query, key, attn.norm_q.weight, attn.norm_k.weight, *rotary_emb, eps=attn.norm_q.eps)
        query, key = (x.transpose(1, 2) for x in normed)
        end = self.filled + hidden_states.shape[1]
        self.keys[:, :, self.filled : end] = key
        self.values[:, :, self.filled : end] = value.unflatten(2, (attn.heads, -1)).transpose(1, 2)
        self._own = (self.keys, self.values)
        output = torch.nn.functional.scaled_dot_product_attention(query, self.keys[:, :, :end], self.values[:, :, :end])
        return attn.to_out[0](output.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class KeyValueRollout:
    """A few-step rollout of the same sizes that keeps keys and values of every token: `chunk` makes the one after `latent_frames`."""

    def __init__(self, session: WorldSession, latent_frames: int) -> None:
        self.session, config = session, session.model.config
        self.rays: Rays | None = None
        joint = config.model.model_copy(update={"history_attention": "joint"})
        plain = config.model_copy(update={"model": joint, "quantization": "none"})
        world = WorldModel.create(plain, 0)
        self.experts = world.experts.eval()
        if config.quantization == "w8a8":
            quantize_experts(world, QuantizeSettings(max_layer_error=1.0))
        self.start = latent_frames
        per_frame = config.model.tokens_per_frame(config.height, config.width)
        self.caches = []
        for _, expert in self.experts.named_experts():
            for block in expert.blocks:
                tokens = (latent_frames + config.model.chunk_latents) * per_frame
                cache = _CachedAttention(tokens, config.model.num_attention_heads, config.model.attention_head_dim)
                cache.filled = latent_frames * per_frame
                block.attn1.set_processor(cache)
                self.caches.append(cache)
        self.text = torch.randn(1, config.text.length, config.model.text_dim)

    @torch.inference_mode()
    def chunk(self) -> None:
        """Four steps over the new latents, one pass of each expert that writes the clean ones into its cache, decoding."""
        config = self.session.model.config
        model, frames = config.model, config.model.chunk_latents
        cameras = LatentCameras(torch.tensor(config.intrinsics).expand(1, frames, 4, 4), torch.eye(4).expand(1, frames, 4, 4, 4))
        rays, ids = cameras.rays(config.height, config.width, self.rays), torch.arange(self.start, self.start + frames)
        self.rays = rays
        noisy = torch.randn(1, model.latent_channels, frames, config.height // 8, config.width // 8)
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
