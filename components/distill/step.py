"""Self-forcing distillation (paper 4.4): the autoregressive student becomes a few-step one on its own rollouts."""

from pathlib import Path
from typing import Any


def distill(features: str, teacher: str, student: str, out: str, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Write the few-step student with losses.json."""
    from components.train_curriculum.step import tail_mean
    from moworld.data.features import FeatureStore
    from moworld.data.loader import batches
    from moworld.distillation.phases import DistillSettings
    from moworld.distillation.phases import distill as train
    from moworld.model.world import WorldModel

    chosen = DistillSettings(**settings)
    world, frozen = WorldModel.load(student), WorldModel.load(teacher)
    num_latents = 1 + chosen.chunks * world.config.model.chunk_latents
    world.codec_folder = Path(features) / "codec"
    curves = train(world, frozen, batches(FeatureStore(features), "train", num_latents, chosen.batch, seed + 2), chosen, seed + 2)
    world.save(out, losses=curves)
    return {"steps": chosen.steps, **{name: tail_mean(curve) for name, curve in curves.items()}}
