"""Autoregressive flow matching (paper 4.3): the teacher's weights learn to continue from history."""

from pathlib import Path
from typing import Any


def train_autoregressive(
    features: str, teacher: str, out: str, settings: dict[str, Any], model: dict[str, Any], seed: int, checkpoints: str | None = None
) -> dict[str, Any]:
    """Writes the autoregressive student, initialised from the teacher, with losses.json; returns steps and final losses.

    teacher:     a teacher, or an earlier student to train further, which may be quantized
    model:       section `model` of the profile: the student's chunk, history and few-step schedule
    checkpoints: folder to resume from and to write to; None writes none
    """
    from moworld.distillation.autoregressive import train_autoregressive as train
    from moworld.distillation.settings import AutoregressiveSettings
    from moworld.model.world import ModelSettings, WorldModel, read_config
    from moworld.training.checkpoint import Checkpoints
    from moworld.training.parallel import join_ranks
    from moworld.training.task import task_of
    from moworld.training.trainer import Run
    from moworld_ops.components.losses import tail_mean
    from moworld_ops.components.platform.trainer_status import status_reporter

    chosen = AutoregressiveSettings(**settings)
    ranks = join_ranks(chosen.parallel)
    world = WorldModel.load(teacher, place=ranks.place if read_config(teacher).quantization == "none" else None)
    world.dequantize()
    world.config = world.config.model_copy(update={"kind": "student", "model": ModelSettings(**model)})
    world.codec_folder = Path(features) / "codec"
    seed += 1
    task = ranks.from_first(lambda: task_of({"settings": settings, "model": model, "seed": seed}, features=features, teacher=teacher))
    saved = Checkpoints(checkpoints, chosen.checkpoint_every, task, ranks.is_first) if checkpoints else None
    run = Run.on_features(features, chosen.num_latents, chosen.batch, seed, ranks, saved, status_reporter())
    curves = train(world, chosen, run)
    world.save(out, write=ranks.is_first, losses=curves)
    if saved:
        saved.clear()
    return {"steps": chosen.steps, **{f"loss_{name.replace(' ', '_')}": tail_mean(curve) for name, curve in curves.items()}}
