"""Self-forcing distillation (paper 4.4): fake phases and student phases in turn over the rollout that serves."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from moworld.distillation.dmd import dmd_direction, draw_score_level, fake_loss, student_loss
from moworld.model.latent_cameras import LatentCameras
from moworld.model.rollout import Rollout, roll_out
from moworld.model.window import Window, make_window
from moworld.model.world import WorldModel
from moworld.settings import Settings
from moworld.training.loop import Learner, OptimizerSettings


class DistillSettings(Settings):
    """`steps` student steps, each after `fake_steps` fake steps; rollouts of `chunks` chunks; score levels as in Self-Forcing."""

    chunks: int
    batch: int
    steps: int
    fake_steps: int = 5
    student: OptimizerSettings
    fake: OptimizerSettings
    guidance: float = 1.0
    lowest_level: float = 0.02
    highest_level: float = 0.98


def student_rollout(student: WorldModel, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, Window, str]:
    """Z = Rollout^AR (eq. 13) along the batch's cameras, the bidirectional window that judges it, and the expert that holds its gradients.

    The exit step is drawn once and shared by all chunks; gradients pass through that step alone, so through one expert alone.
    """
    config = student.config.model
    latents, c2w, intrinsics = batch["latents"], batch["c2w"], batch["intrinsics"]
    rollout = Rollout(
        student.experts,
        latents[:, :, :1],
        batch["text"],
        intrinsics[:, 0],
        schedule=student.config.schedule,
        policy=config.history,
        chunk_latents=config.chunk_latents,
        generator=generator,
        first_pose=c2w[:, 0],
    )
    exit_step = int(torch.randint(config.student_steps, (), generator=generator))
    generated = roll_out(rollout, c2w[:, 1:], intrinsics[:, 1:], exit_step)
    start = torch.zeros_like(batch["first_latent"])
    window = make_window(latents[:, :, :1], LatentCameras.from_frames(intrinsics, c2w), start, batch["text"])
    return generated, window, student.experts.name_at(float(student.config.schedule[exit_step]))


def distill(
    student: WorldModel, teacher: WorldModel, batches: Iterator[dict[str, Tensor]], settings: DistillSettings, seed: int
) -> dict[str, list[list[float]]]:
    """Train `student` in place; the teacher is frozen, the fake model starts from the teacher. Returns loss curves.

    Curves: `fake` is L_fake (eq. 15); `direction` is the mean magnitude of g_DMD, which shrinks as the two distributions meet;
    `motion` and `contrast` of the rollouts warn of collapse.
    """
    generator = torch.Generator().manual_seed(seed)
    shift = student.config.model.shift
    teacher.experts.requires_grad_(False)
    fake = copy.deepcopy(teacher.experts).requires_grad_(True)
    student_learners = {name: Learner(expert, settings.student, settings.steps) for name, expert in student.experts.named_experts()}
    fake_learners = {name: Learner(expert, settings.fake, settings.steps * settings.fake_steps) for name, expert in fake.named_experts()}
    curves: dict[str, list[list[float]]] = {key: [] for key in ("fake", "direction", "motion", "contrast")}

    def level() -> float:
        return draw_score_level(settings.lowest_level, settings.highest_level, shift, generator)

    for step in tqdm(range(settings.steps), desc="self-forcing distillation", unit="step"):
        for phase in range(settings.fake_steps):
            with torch.no_grad():
                rollout, window, _ = student_rollout(student, next(batches), generator)
            at = level()
            loss = fake_loss(fake, rollout, window, at, generator)
            fake_learners[fake.name_at(at)].step(loss)
            curves["fake"].append([step + phase / settings.fake_steps, round(loss.item(), 5)])
        rollout, window, exit_expert = student_rollout(student, next(batches), generator)
        direction = dmd_direction(teacher.experts, fake, rollout, window, level(), settings.guidance, generator)
        student_learners[exit_expert].step(student_loss(rollout, direction))
        curves["direction"].append([step, round(direction.abs().mean().item(), 5)])
        curves["motion"].append([step, round((rollout[:, :, 1:] - rollout[:, :, :-1]).detach().abs().mean().item(), 5)])
        curves["contrast"].append([step, round(rollout.detach().std().item(), 5)])
    for learner in student_learners.values():
        learner.use_average()
    student.experts.eval()
    return curves
