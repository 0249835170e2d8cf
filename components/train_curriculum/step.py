"""One stage of the curriculum (paper 3.3): both experts, from the weights of the stage before."""

from collections.abc import Iterator
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
) -> dict[str, Any]:
    """Write the world model after this stage, with losses.json. Without `previous` the experts start from fresh weights.

    experts: those to train, and to write, `high`, `low`; both when None. On a cluster each pool trains one.
    checkpoints: a folder to go on from after a kill, and to write to; None keeps none
    """
    from moworld.data.features import FeatureStore
    from moworld.data.loader import batches
    from moworld.files import read_json, sha256_file
    from moworld.model.world import ModelSettings, WorldConfig, WorldModel
    from moworld.training.checkpoint import Checkpoints
    from moworld.training.curriculum import Stage, train_stage
    from moworld.training.parallel import join_ranks

    chosen = Stage(**stage)
    ranks = join_ranks(chosen.parallel)
    store = FeatureStore(features)
    if previous:
        world = WorldModel.load(previous)
    else:
        config = WorldConfig(model=ModelSettings(**model), **read_json(Path(features) / "world.json"))
        world = WorldModel.create(config, seed)
    world.codec_folder = Path(features) / "codec"
    seed += chosen.frames
    task = {"stage": stage, "model": model, "seed": seed, "features": sha256_file(Path(features) / "index.parquet"), "experts": experts}
    kept = Checkpoints(checkpoints, chosen.checkpoint_every, task, ranks.is_first) if checkpoints else None

    def batches_from(step: int) -> Iterator[dict[str, Any]]:
        return batches(store, "train", chosen.num_latents, chosen.batch, seed, step, ranks.data_rank, ranks.data_size)

    curves = train_stage(world, batches_from, chosen, seed, experts, ranks, kept)
    world.save(out, names=experts, write=ranks.is_first, losses=curves)
    if kept:
        kept.clear()
    return {"frames": chosen.frames, "steps": chosen.steps, **{f"loss_{name}": tail_mean(curve) for name, curve in curves.items()}}


def tail_mean(curve: list[list[float]], tail: float = 0.2) -> float:
    """Mean of the last fifth of a loss curve."""
    values = [value for _, value in curve[-max(1, int(len(curve) * tail)) :]]
    return round(sum(values) / len(values), 5)
