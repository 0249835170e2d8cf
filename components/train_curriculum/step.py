"""One stage of the curriculum (paper 3.3): both experts, from the weights of the stage before."""

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
) -> dict[str, Any]:
    """Write the world model after this stage, with losses.json. Without `previous` the experts start from fresh weights.

    experts: those to train, `high`, `low`; both when None. On a cluster each pool trains one.
    """
    from moworld.data.features import FeatureStore
    from moworld.data.loader import batches
    from moworld.files import read_json
    from moworld.model.world import ModelSettings, WorldConfig, WorldModel
    from moworld.training.curriculum import Stage, train_stage

    chosen = Stage(**stage)
    store = FeatureStore(features)
    if previous:
        world = WorldModel.load(previous)
    else:
        config = WorldConfig(model=ModelSettings(**model), **read_json(Path(features) / "world.json"))
        world = WorldModel.create(config, seed)
    world.codec_folder = Path(features) / "codec"
    curves = train_stage(
        world, batches(store, "train", chosen.num_latents, chosen.batch, seed + chosen.frames), chosen, seed + chosen.frames, experts
    )
    world.save(out, losses=curves)
    return {"frames": chosen.frames, "steps": chosen.steps, **{f"loss_{name}": tail_mean(curve) for name, curve in curves.items()}}


def tail_mean(curve: list[list[float]], tail: float = 0.2) -> float:
    """Mean of the last fifth of a loss curve."""
    values = [value for _, value in curve[-max(1, int(len(curve) * tail)) :]]
    return round(sum(values) / len(values), 5)
