"""Self-forcing distillation (paper 4.4): the autoregressive student becomes a few-step student on its own rollouts."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moworld.distillation.settings import DistillSettings
    from moworld.model.world import WorldModel
    from moworld.training.checkpoint import Checkpoints
    from moworld.training.trainer import Curves, Run


def distill(
    features: str, teacher: str, student: str, out: str, settings: dict[str, Any], seed: int, checkpoints: str | None = None
) -> dict[str, Any]:
    """Writes the few-step student with losses.json; returns steps and final values of the curves.

    A collapsed student is written with its last weights within bounds; the result then has the reason as `ended_early`.
    settings:    section `distill` of the profile; a `guidance_start` and a `consistency` start in it are trained first
    checkpoints: folder to resume from and to write to; None writes none
    """
    from moworld.distillation.phases import TEACHER_EVALUATIONS
    from moworld.distillation.phases import distill as train
    from moworld.distillation.settings import DistillSettings
    from moworld.model.latent_grid import CODEC_GRID
    from moworld.model.world import WorldModel
    from moworld.training.checkpoint import Checkpoints
    from moworld.training.parallel import join_ranks
    from moworld.training.task import task_of
    from moworld.training.trainer import Run
    from moworld_ops.components.losses import tail_mean
    from moworld_ops.components.platform.trainer_status import status_reporter

    chosen = DistillSettings(**settings)
    ranks = join_ranks(chosen.parallel)
    world = WorldModel.load(student, place=ranks.place)
    place = partial(ranks.place, on_host=chosen.offload_teacher)
    frozen = WorldModel.load(student if chosen.teacher == "autoregressive" else teacher, place=place, dtype=ranks.dtype)
    world.codec_folder = Path(features) / "codec"
    seed += 2
    task = ranks.from_first(lambda: task_of({"settings": settings, "seed": seed}, features=features, teacher=teacher, student=student))
    num_latents = 1 + chosen.chunks * world.config.model.chunk_latents

    def saved_in(folder: str | Path | None) -> "Checkpoints | None":
        return Checkpoints(folder, chosen.checkpoint_every, task, ranks.is_first) if folder else None

    curves: Curves = {}
    for number, name in enumerate(("guidance_start", "consistency"), 1):
        if start := getattr(chosen, name):
            length = CODEC_GRID.num_latents(start.frames, name) if start.frames else num_latents
            saved = saved_in(Path(checkpoints, name) if checkpoints else None)
            batch = getattr(start, "batch", 0) or chosen.batch
            run = Run.on_features(features, length, batch, seed + number, ranks, saved, status_reporter())
            world, found = _start(name, world, chosen, run, Path(checkpoints, f"{name}-done") if checkpoints else None, task)
            curves |= found
    run = Run.on_features(features, num_latents, chosen.batch, seed, ranks, saved_in(checkpoints), status_reporter())
    found, reason = train(world, frozen, chosen, run)
    curves |= found
    world.save(out, write=ranks.is_first, losses=curves)
    if run.checkpoints:
        run.checkpoints.clear()
    result: dict[str, Any] = {"steps": len(curves.get("direction", []))}
    if reason:
        result["ended_early"] = reason
    if evaluations := curves.pop(TEACHER_EVALUATIONS, None):
        result[f"{TEACHER_EVALUATIONS.replace(' ', '_')}_before_students"] = evaluations[0][1]
    return result | {name.replace(" ", "_"): tail_mean(curve) for name, curve in curves.items()}


def _start(
    name: str, world: "WorldModel", settings: "DistillSettings", run: "Run", done: Path | None, task: dict[str, Any]
) -> tuple["WorldModel", "Curves"]:
    """Returns the student after the start `name`, and its curves; a start already finished for this task is loaded from `done`."""
    from moworld.distillation.starts import train_consistency, train_guidance
    from moworld.files import read_json
    from moworld.model.world import WorldModel
    from moworld.training.task import is_same

    trains: dict[str, Callable[..., Curves]] = {"guidance_start": train_guidance, "consistency": train_consistency}
    if done and done.is_dir() and is_same(read_json(done / "task.json"), task, done):
        started = WorldModel.load(done, place=run.ranks.place)
        started.codec_folder = world.codec_folder
        return started, read_json(done / "losses.json")
    start = getattr(settings, name)
    curves = trains[name](world, start, start.optimizer or settings.student, run)
    if done:
        world.save(done, write=run.ranks.is_first, losses=curves, task=task)
    return world, curves
