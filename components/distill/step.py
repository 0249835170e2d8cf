"""Self-forcing distillation (paper 4.4): the autoregressive student becomes a few-step one on its own rollouts."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moworld.distillation.phases import DistillSettings
    from moworld.model.world import WorldModel
    from moworld.training.parallel import Ranks
    from moworld.training.trainer import Batch, Curves


def distill(
    features: str, teacher: str, student: str, out: str, settings: dict[str, Any], seed: int, checkpoints: str | None = None
) -> dict[str, Any]:
    """Write the few-step student with losses.json. One that collapses is written as it was before, and `ended_early` says why.

    settings:    where they have a start, that comes first
    checkpoints: a folder to go on from after a kill, and to write to; None keeps none
    """
    from components.train_curriculum.step import tail_mean
    from moworld.data.features import FeatureStore
    from moworld.data.loader import batches
    from moworld.distillation.phases import TEACHER_EVALUATIONS, DistillSettings
    from moworld.distillation.phases import distill as train
    from moworld.files import sha256_file
    from moworld.model.world import WorldModel
    from moworld.training.checkpoint import Checkpoints
    from moworld.training.parallel import join_ranks

    chosen = DistillSettings(**settings)
    ranks = join_ranks(chosen.parallel)
    world, frozen = WorldModel.load(student), WorldModel.load(student if chosen.teacher == "autoregressive" else teacher)
    world.codec_folder = Path(features) / "codec"
    store, seed = FeatureStore(features), seed + 2
    task = {"settings": settings, "seed": seed, "features": sha256_file(Path(features) / "index.parquet")}
    kept = Checkpoints(checkpoints, chosen.checkpoint_every, task, ranks.is_first) if checkpoints else None

    def batches_of(num_latents: int, size: int, seed: int, number: int) -> Iterator[dict[str, Any]]:
        return batches(store, "train", num_latents, size, seed, number, ranks.data_rank, ranks.data_size)

    curves: Curves = {}
    for number, start in enumerate(("guidance_start", "consistency"), 1):
        if getattr(chosen, start):
            world, found = _start(start, world, chosen, batches_of, seed + number, ranks, checkpoints, task)
            curves |= found
    num_latents = 1 + chosen.chunks * world.config.model.chunk_latents
    found, reason = train(world, frozen, lambda number: batches_of(num_latents, chosen.batch, seed, number), chosen, seed, ranks, kept)
    curves |= found
    world.save(out, write=ranks.is_first, losses=curves)
    if kept:
        kept.clear()
    ended = {"ended_early": reason} if reason else {}
    told = {name.replace(" ", "_"): tail_mean(curve) for name, curve in curves.items() if name != TEACHER_EVALUATIONS}
    asked = {
        f"{TEACHER_EVALUATIONS.replace(' ', '_')}_before_students": curve[0][1] for curve in [curves.get(TEACHER_EVALUATIONS)] if curve
    }
    return {"steps": len(curves.get("direction", [])), **ended, **asked, **told}


def _start(
    name: str,
    world: "WorldModel",
    chosen: "DistillSettings",
    batches_of: Callable[[int, int, int, int], Iterator["Batch"]],
    seed: int,
    ranks: "Ranks",
    checkpoints: str | None,
    task: dict[str, Any],
) -> tuple["WorldModel", "Curves"]:
    """The student after the start of this name, and its curves; once it is done it lies among the checkpoints, to be taken up again.

    batches_of: (latent frames, size, seed, number of the first batch) -> batches
    """
    from moworld.distillation.consistency import train_consistency
    from moworld.distillation.guidance import train_guidance
    from moworld.files import read_json
    from moworld.model.world import WorldModel
    from moworld.training.checkpoint import Checkpoints

    trains: dict[str, Callable[..., Curves]] = {"guidance_start": train_guidance, "consistency": train_consistency}
    settings = getattr(chosen, name)
    done = Path(checkpoints, f"{name}-done") if checkpoints else None
    if done and done.is_dir() and read_json(done / "task.json") == task:
        started = WorldModel.load(done)
        started.codec_folder = world.codec_folder
        return started, read_json(done / "losses.json")
    num_latents = (settings.frames - 1) // 4 + 1 if settings.frames else 1 + chosen.chunks * world.config.model.chunk_latents
    kept = Checkpoints(Path(checkpoints, name), chosen.checkpoint_every, task, ranks.is_first) if checkpoints else None
    optimizer = settings.optimizer or chosen.student
    size = getattr(settings, "batch", 0) or chosen.batch
    curves = trains[name](world, lambda number: batches_of(num_latents, size, seed, number), settings, optimizer, seed, ranks, kept)
    if done:
        world.save(done, write=ranks.is_first, losses=curves, task=task)
    return world, curves
