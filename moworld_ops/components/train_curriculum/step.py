"""One stage of the curriculum (paper 3.3): both experts, initialised with the weights of the previous stage."""

from functools import partial
from pathlib import Path
from typing import Any


def train_curriculum(
    features: str,
    previous: str | None,
    out: str,
    stage: dict[str, Any],
    model: dict[str, Any],
    seed: int,
    experts: list[str] | None = None,
    checkpoints: str | None = None,
    base: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes the world model after this stage, with losses.json; returns frames, steps and final losses.

    previous:    world model of the previous stage; None starts from `base`
    experts:     names of the experts to train and write, `high`, `low`; None means both. On a cluster each pool trains one.
    checkpoints: folder to resume from and to write to; None writes none
    base:        published weights (`moworld.model.settings.BaseSettings`); None starts from fresh weights
    """
    from moworld.files import read_json
    from moworld.model.checkpoints.base import base_hash, world_from_base
    from moworld.model.settings import BaseSettings
    from moworld.model.world import ModelSettings, WorldConfig, WorldModel
    from moworld.training.checkpoint import Checkpoints
    from moworld.training.curriculum import train_stage
    from moworld.training.parallel import join_ranks
    from moworld.training.settings import Stage
    from moworld.training.task import task_of
    from moworld.training.trainer import Run
    from moworld_ops.components.losses import tail_mean
    from moworld_ops.components.platform.trainer_status import status_reporter

    chosen = Stage(**stage)
    ranks = join_ranks(chosen.parallel)
    start = BaseSettings(**base) if base and not previous else None
    if previous:
        world = WorldModel.load(previous, names=experts, place=ranks.place)
    else:
        config = WorldConfig(model=ModelSettings(**model), **read_json(Path(features) / "world.json"))
        world = world_from_base(start, config, seed, experts, ranks.place, ranks.is_first) if start else WorldModel.create(config, seed)
    world.codec_folder = Path(features) / "codec"
    seed += chosen.frames
    settings = {"stage": stage, "model": model, "seed": seed, "experts": experts}
    content = partial(base_hash, start, world.config.experts) if start else None
    task = ranks.from_first(lambda: task_of(settings, features=features, previous=previous, base=content))
    saved = Checkpoints(checkpoints, chosen.checkpoint_every, task, ranks.is_first) if checkpoints else None
    run = Run.on_features(features, chosen.num_latents, chosen.batch, seed, ranks, saved, status_reporter())
    curves = train_stage(world, chosen, run, experts)
    world.save(out, names=experts, write=ranks.is_first, losses=curves)
    if saved:
        saved.clear()
    return {"frames": chosen.frames, "steps": chosen.steps, **{f"loss_{name}": tail_mean(curve) for name, curve in curves.items()}}
