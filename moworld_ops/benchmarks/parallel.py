"""`moworld bench parallel`: a training step beside a plain loop with Diffusers' attention, and two ranks beside one.

Diffusers' context parallelism is not a peer: it does not run on CPUs.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moworld.model.latent_grid import CODEC_GRID
from moworld.model.settings import ModelSettings, TextSettings
from moworld.model.world import WorldConfig, WorldModel
from moworld_ops.benchmarks.attention import diffusers_attention
from moworld_ops.benchmarks.measure import Row, row, side_by_side


def bench_parallel(model: ModelSettings, frames: int, height: int, width: int, text: int) -> list[Row]:
    """Returns rows of a training step on one sample of `frames` frames of height x width pixels and `text` text tokens."""
    case = (model, frames, height, width, text)
    alone = 1000 * _on_ranks(1, {}, case)
    rows = [_training_step(*case)]
    for name, settings in (("Ulysses, two ranks", {"ulysses": 2}), ("ring, two ranks", {"ring": 2})):
        mine = 1000 * _on_ranks(2, settings, case)
        rows.append(row(f"training step, {name} of one thread", mine, "ms", alone, "one rank of two threads", alone / mine))
    return rows


def _world(model: ModelSettings, height: int, width: int, text: int) -> WorldModel:
    encoder = TextSettings(kind="minilm", length=text)
    return WorldModel.create(WorldConfig(model=model, text=encoder, height=height, width=width, fps=16.0, experts=("high",)), 0)


def _batch(model: ModelSettings, frames: int, height: int, width: int, text: int) -> dict[str, Tensor]:
    latents, generator = CODEC_GRID.num_latents(frames), torch.Generator().manual_seed(0)
    return {
        "latents": torch.randn(1, model.latent_channels, latents, *CODEC_GRID.latent_size(height, width), generator=generator),
        "c2w": torch.eye(4).expand(1, frames, 4, 4).clone(),
        "intrinsics": torch.tensor([0.5, 1.0, 0.5, 0.5]).expand(1, frames, 4).clone(),
        "text": torch.randn(1, text, model.text_dim, generator=generator),
        "first_latent": torch.zeros(1, dtype=torch.long),
    }


def _training_step(model: ModelSettings, frames: int, height: int, width: int, text: int) -> Row:
    from moworld.model.block import TransformerBlock
    from moworld.model.latent_cameras import LatentCameras
    from moworld.training.loop import Learner
    from moworld.training.objective import flow_matching_loss
    from moworld.training.settings import OptimizerSettings

    batch, world, plain = _batch(model, frames, height, width, text), *(_world(model, height, width, text) for _ in range(2))
    expert, theirs = world.experts.high.train(), plain.experts.high.train()

    class DiffusersBlock(TransformerBlock):
        """Attends with Diffusers' module and returns no keys and values."""

        def attend(self, x: Tensor, rotary: Any, part: Any, past: Any) -> tuple[Tensor, Any]:
            return self.attn1(x, None, None, rotary), None

    for block in theirs.blocks:
        block.__class__, block.attn1 = DiffusersBlock, diffusers_attention(block.attn1)
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
        loss = torch.nn.functional.mse_loss(theirs(hidden, 1000 * level, batch["text"], camera=rays).sample, noise - latents)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return side_by_side(f"training step, {frames} frames", ours, peer, "a plain loop with Diffusers' attention")


def _on_ranks(world: int, settings: dict[str, Any], case: tuple[Any, ...]) -> float:
    """Returns the median seconds of a training step on `world` ranks that share one sample and two threads."""
    import multiprocessing

    from torch.multiprocessing import start_processes

    multiprocessing.get_context("forkserver").set_forkserver_preload(["torch.distributed.fsdp", "moworld.model.transformer"])
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_rank, (world, settings, case, folder), nprocs=world, start_method="forkserver")
        return float(Path(folder, "seconds").read_text())


def _rank(rank: int, world: int, settings: dict[str, Any], case: tuple[Any, ...], folder: str, turns: int = 7) -> None:
    from moworld.training.loop import Learner
    from moworld.training.objective import flow_matching_loss
    from moworld.training.parallel import join_ranks
    from moworld.training.settings import OptimizerSettings, ParallelSettings

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
