"""Autoregressive flow matching (paper 4.3): the teacher's weights learn to continue from history."""

from pathlib import Path
from typing import Any


def train_autoregressive(
    features: str, teacher: str, out: str, settings: dict[str, Any], model: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Write the autoregressive student, initialised from the teacher, with losses.json.

    model: the profile's section `model`, whose chunk, history and few-step schedule the student follows
    """
    from components.train_curriculum.step import tail_mean
    from moworld.data.features import FeatureStore
    from moworld.data.loader import batches
    from moworld.distillation.autoregressive import AutoregressiveSettings
    from moworld.distillation.autoregressive import train_autoregressive as train
    from moworld.model.world import ModelSettings, WorldModel

    chosen = AutoregressiveSettings(**settings)
    world = WorldModel.load(teacher)
    world.config = world.config.model_copy(update={"kind": "student", "model": ModelSettings(**model)})
    world.codec_folder = Path(features) / "codec"
    num_latents = (chosen.frames - 1) // 4 + 1
    curves = train(world, batches(FeatureStore(features), "train", num_latents, chosen.batch, seed + 1), chosen, seed + 1)
    world.save(out, losses=curves)
    return {"steps": chosen.steps, **{f"loss_{name.replace(' ', '_')}": tail_mean(curve) for name, curve in curves.items()}}
