"""Self-forcing distillation (paper 4.4): the autoregressive student becomes a few-step one on its own rollouts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def distill(
    features: str, teacher: str, student: str, out: str, settings: dict[str, Any], seed: int, checkpoints: str | None = None
) -> dict[str, Any]:
    """Write the few-step student with losses.json. One that collapses is written as it was before, and `ended_early` says why.

    checkpoints: a folder to go on from after a kill, and to write to; None keeps none
    """
    from components.train_curriculum.step import tail_mean
    from moworld.data.features import FeatureStore
    from moworld.data.loader import batches
    from moworld.distillation.phases import DistillSettings
    from moworld.distillation.phases import distill as train
    from moworld.files import sha256_file
    from moworld.model.world import WorldModel
    from moworld.training.checkpoint import Checkpoints
    from moworld.training.parallel import join_ranks

    chosen = DistillSettings(**settings)
    ranks = join_ranks(chosen.parallel)
    world, frozen = WorldModel.load(student), WorldModel.load(teacher)
    num_latents = 1 + chosen.chunks * world.config.model.chunk_latents
    world.codec_folder = Path(features) / "codec"
    store, seed = FeatureStore(features), seed + 2
    task = {"settings": settings, "seed": seed, "features": sha256_file(Path(features) / "index.parquet")}
    kept = Checkpoints(checkpoints, chosen.checkpoint_every, task, ranks.is_first) if checkpoints else None

    def batches_from(number: int) -> Iterator[dict[str, Any]]:
        return batches(store, "train", num_latents, chosen.batch, seed, number, ranks.data_rank, ranks.data_size)

    curves, reason = train(world, frozen, batches_from, chosen, seed, ranks, kept)
    world.save(out, write=ranks.is_first, losses=curves)
    if kept:
        kept.clear()
    ended = {"ended_early": reason} if reason else {}
    return {"steps": len(curves.get("direction", [])), **ended, **{name: tail_mean(curve) for name, curve in curves.items()}}
