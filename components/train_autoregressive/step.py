"""Autoregressive flow matching (paper 4.3): the teacher's weights learn to continue from history."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def train_autoregressive(
    features: str, teacher: str, out: str, settings: dict[str, Any], model: dict[str, Any], seed: int, checkpoints: str | None = None
) -> dict[str, Any]:
    """Write the autoregressive student, initialised from the teacher, with losses.json.

    model: the profile's section `model`, whose chunk, history and few-step schedule the student follows
    checkpoints: a folder to go on from after a kill, and to write to; None keeps none
    """
    from components.train_curriculum.step import tail_mean
    from moworld.data.features import FeatureStore
    from moworld.data.loader import batches
    from moworld.distillation.autoregressive import AutoregressiveSettings
    from moworld.distillation.autoregressive import train_autoregressive as train
    from moworld.files import sha256_file
    from moworld.model.world import ModelSettings, WorldModel
    from moworld.training.checkpoint import Checkpoints
    from moworld.training.parallel import join_ranks

    chosen = AutoregressiveSettings(**settings)
    ranks = join_ranks(chosen.parallel)
    world = WorldModel.load(teacher)
    world.config = world.config.model_copy(update={"kind": "student", "model": ModelSettings(**model)})
    world.codec_folder = Path(features) / "codec"
    num_latents = (chosen.frames - 1) // 4 + 1
    store, seed = FeatureStore(features), seed + 1
    task = {"settings": settings, "model": model, "seed": seed, "features": sha256_file(Path(features) / "index.parquet")}
    kept = Checkpoints(checkpoints, chosen.checkpoint_every, task, ranks.is_first) if checkpoints else None

    def batches_from(step: int) -> Iterator[dict[str, Any]]:
        return batches(store, "train", num_latents, chosen.batch, seed, step, ranks.data_rank, ranks.data_size)

    curves = train(world, batches_from, chosen, seed, ranks, kept)
    world.save(out, write=ranks.is_first, losses=curves)
    if kept:
        kept.clear()
    return {"steps": chosen.steps, **{f"loss_{name.replace(' ', '_')}": tail_mean(curve) for name, curve in curves.items()}}
