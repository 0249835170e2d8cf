"""Hot paths side by side with what a user would otherwise pick. A ratio above 1 says that ours is faster.

Ours and the peer take turns, so that a busy machine slows both; the median of the turns counts.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moworld.model.text import TextSettings
from moworld.model.world import ModelSettings, WorldConfig, WorldModel

Row = dict[str, Any]


def side_by_side(case: str, ours: Callable[[], Any], peer: Callable[[], Any], peer_name: str, turns: int = 7) -> Row:
    """{"case", "ours", "peer", "peer_name", "ratio", "unit"}: milliseconds of each, and the peer's over ours."""
    seconds: dict[Callable[[], Any], list[float]] = {ours: [], peer: []}
    for run in (ours, peer):
        run()  # warm
    for turn in range(turns):
        for run in (ours, peer) if turn % 2 else (peer, ours):
            started = time.perf_counter()
            run()
            seconds[run].append(time.perf_counter() - started)
    mine, theirs = (1000 * statistics.median(seconds[run]) for run in (ours, peer))
    return {
        "case": case,
        "ours": round(mine, 3),
        "peer": round(theirs, 3),
        "peer_name": peer_name,
        "ratio": round(theirs / mine, 3),
        "unit": "ms",
    }


def bench_attention(model: ModelSettings, tokens: int) -> list[Row]:
    """Self-attention of a block against Diffusers' processor, and one key block of ring attention against SDPA; forward and backward."""
    from diffusers.models.transformers.transformer_wan import WanAttnProcessor

    from kernels.attention import partial_attention, partial_attention_backward
    from moworld.model.attention import SelfAttention
    from moworld.model.transformer import MoWorldTransformer3DModel

    transformer = MoWorldTransformer3DModel(**model.transformer())
    attention, width = transformer.blocks[0].attn1, model.num_attention_heads * model.attention_head_dim
    x, rotary = torch.randn(1, tokens, width, requires_grad=True), transformer.rope(torch.empty(1, 1, tokens, 2, 2), torch.arange(tokens))

    def run(processor: Any) -> Callable[[], None]:
        return lambda: processor(attention, x, None, None, rotary).sum().backward()

    query, key, value = (torch.randn(1, model.num_attention_heads, tokens, model.attention_head_dim, requires_grad=True) for _ in range(3))
    (q, k, v), gradient = (part.detach() for part in (query, key, value)), torch.randn_like(query)

    def partial() -> None:
        output, lse = partial_attention(q, k, v)
        partial_attention_backward(gradient, q, k, v, output, lse)

    def sdpa() -> None:
        torch.autograd.grad(torch.nn.functional.scaled_dot_product_attention(query, key, value), (query, key, value), gradient)

    return [
        side_by_side(f"self-attention, {tokens} tokens", run(SelfAttention()), run(WanAttnProcessor()), "Diffusers' WanAttnProcessor"),
        side_by_side(f"a key block of the ring, {tokens} tokens", partial, sdpa, "SDPA"),
    ]


def bench_parallel(model: ModelSettings, frames: int, height: int, width: int, text: int) -> list[Row]:
    """A training step against a plain loop around the same model with Diffusers' attention, and two ranks against one.

    Diffusers' own context parallel is no peer on CPUs: it cannot run there.
    """
    rows = [_training_step(model, frames, height, width, text)]
    seconds = {name: _on_ranks(world, settings, (model, frames, height, width, text)) for name, world, settings in (
        ("one rank, two threads", 1, {}), ("Ulysses, two ranks", 2, {"ulysses": 2}), ("ring, two ranks", 2, {"ring": 2}))}  # fmt: skip
    alone = seconds.pop("one rank, two threads")
    for name, mine in seconds.items():
        rows.append({"case": f"training step, {name} of one thread", "ours": round(1000 * mine, 3), "peer": round(1000 * alone, 3),
                     "peer_name": "one rank of two threads", "ratio": round(alone / mine, 3), "unit": "ms"})  # fmt: skip
    return rows


def _world(model: ModelSettings, height: int, width: int, text: int) -> WorldModel:
    config = WorldConfig(
        model=model, text=TextSettings(kind="minilm", length=text), height=height, width=width, fps=16.0, experts=("high",)
    )
    return WorldModel.create(config, 0)


def _batch(model: ModelSettings, frames: int, height: int, width: int, text: int) -> dict[str, Tensor]:
    latents, generator = (frames - 1) // 4 + 1, torch.Generator().manual_seed(0)
    return {
        "latents": torch.randn(1, model.latent_channels, latents, height // 8, width // 8, generator=generator),
        "c2w": torch.eye(4).expand(1, frames, 4, 4).clone(),
        "intrinsics": torch.tensor([0.5, 1.0, 0.5, 0.5]).expand(1, frames, 4).clone(),
        "text": torch.randn(1, text, model.text_dim, generator=generator),
        "first_latent": torch.zeros(1, dtype=torch.long),
    }


def _training_step(model: ModelSettings, frames: int, height: int, width: int, text: int) -> Row:
    from diffusers.models.transformers.transformer_wan import WanAttnProcessor

    from moworld.model.latent_cameras import LatentCameras
    from moworld.training.loop import Learner, OptimizerSettings
    from moworld.training.objective import flow_matching_loss

    batch, world, plain = _batch(model, frames, height, width, text), *(_world(model, height, width, text) for _ in range(2))
    expert, theirs = world.experts.high.train(), plain.experts.high.train()

    class Plain(WanAttnProcessor):
        """Diffusers' processor, of which the transformer gets no keys and values to keep."""

        def take_own(self) -> None:
            return None

    for block in theirs.blocks:
        block.attn1.set_processor(Plain())
    learner, generator = Learner(expert, OptimizerSettings(lr=1e-5), 1000), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-5)

    def ours() -> None:
        learner.step(flow_matching_loss(world.experts, "high", batch, model.shift, generator))

    def peer() -> None:
        latents, level = batch["latents"], torch.rand(1)
        noise = torch.randn_like(latents)
        mask, first = torch.zeros_like(latents[:, :4]), torch.zeros_like(latents)
        mask[:, :, 0], first[:, :, 0] = 1, latents[:, :, 0]
        rays = LatentCameras.from_frames(batch["intrinsics"], batch["c2w"]).rays(height, width).maps()
        hidden = torch.cat([(1 - level) * latents + level * noise, mask, first], dim=1)
        loss = torch.nn.functional.mse_loss(theirs(hidden, 1000 * level, batch["text"], rays), noise - latents)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return side_by_side(f"training step, {frames} frames", ours, peer, "a plain loop with Diffusers' attention")


def _on_ranks(world: int, settings: dict[str, Any], case: tuple[Any, ...]) -> float:
    """Median seconds of a training step on `world` ranks that share one sample on this machine's two threads."""
    import multiprocessing

    from torch.multiprocessing import start_processes

    multiprocessing.get_context("forkserver").set_forkserver_preload(["torch.distributed.fsdp", "moworld.model.transformer"])
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_rank, (world, settings, case, folder), nprocs=world, start_method="forkserver")
        return float(Path(folder, "seconds").read_text())


def _rank(rank: int, world: int, settings: dict[str, Any], case: tuple[Any, ...], folder: str, turns: int = 7) -> None:
    from moworld.training.loop import Learner, OptimizerSettings
    from moworld.training.objective import flow_matching_loss
    from moworld.training.parallel import ParallelSettings, join_ranks

    torch.set_num_threads(2 // world)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    if world > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    model, _, height, width, text = case
    ranks, made, batch = join_ranks(ParallelSettings(**settings)), _world(model, height, width, text), _batch(*case)
    ranks.place(made.experts.high)
    learner, generator, seconds = Learner(made.experts.high, OptimizerSettings(lr=1e-5), 1000), torch.Generator().manual_seed(0), []
    for _ in range(turns + 1):
        started = time.perf_counter()
        learner.step(flow_matching_loss(made.experts, "high", batch, model.shift, generator, ranks=ranks))
        seconds.append(time.perf_counter() - started)
    if rank == 0:
        Path(folder, "seconds").write_text(str(statistics.median(seconds[1:])))
    if world > 1:
        torch.distributed.destroy_process_group()
