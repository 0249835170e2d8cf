"""Self-forcing distillation (paper 4.4): fake phases and student phases in turn over the rollout that serves."""

import copy
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from moworld.distillation.autoregressive import ground_truth_window
from moworld.distillation.consistency import ConsistencySettings
from moworld.distillation.dmd import dmd_direction, draw_score_level, fake_loss, student_loss
from moworld.distillation.guidance import GuidanceSettings
from moworld.distillation.monitors import CollapseMonitor, MonitorSettings, measures
from moworld.model.latent_cameras import LatentCameras
from moworld.model.rollout import Noise, NoiseShare, Rollout, roll_out
from moworld.model.window import Window, make_window
from moworld.model.world import ModelSettings, WorldModel
from moworld.settings import Settings
from moworld.training.checkpoint import Checkpoints
from moworld.training.loop import Learner, OptimizerSettings
from moworld.training.parallel import ParallelSettings, Ranks
from moworld.training.trainer import Batch, Curves, resume, training_state

TEACHER_EVALUATIONS = "teacher evaluations"


class DistillSettings(Settings):
    """`steps` student steps, each after `fake_steps` fake steps; rollouts of `chunks` chunks; score levels as in Self-Forcing.

    batch:       over all ranks
    teacher:     who judges. `bidirectional`, the paper's: the pretrained model sees the whole rollout from its first frame. `autoregressive`:
                 the student as it was before, at any noise level, sees each chunk under the history that the rollout itself left for it
    guidance_start, consistency: starts before it, in this order; None, the paper's way, does without
    """

    chunks: int
    batch: int
    steps: int
    fake_steps: int = 5
    teacher: Literal["bidirectional", "autoregressive"] = "bidirectional"
    student: OptimizerSettings
    fake: OptimizerSettings
    guidance: float = 1.0
    lowest_level: float = 0.02
    highest_level: float = 0.98
    monitor: MonitorSettings = MonitorSettings()
    guidance_start: GuidanceSettings | None = None
    consistency: ConsistencySettings | None = None
    checkpoint_every: int = 0
    parallel: ParallelSettings = ParallelSettings()


def student_rollout(student: WorldModel, batch: Batch, generator: Noise) -> tuple[Tensor, str]:
    """Z = Rollout^AR (eq. 13) along the batch's cameras, and the expert that holds its gradients.

    The exit step is drawn once and shared by all chunks; gradients pass through that step alone, so through one expert alone.
    """
    config = student.config.model
    rollout = Rollout(
        student.experts,
        batch["latents"][:, :, :1],
        batch["text"],
        batch["intrinsics"][:, 0],
        schedule=student.config.schedule,
        policy=config.history,
        chunk_latents=config.chunk_latents,
        generator=generator,
        first_pose=batch["c2w"][:, 0],
        sampler=config.sampler,
    )
    drawing = generator.generator if isinstance(generator, NoiseShare) else generator
    exit_step = int(torch.randint(config.student_steps, (), generator=drawing))
    generated = roll_out(rollout, batch["c2w"][:, 1:], batch["intrinsics"][:, 1:], exit_step)
    return generated, student.experts.name_at(float(student.config.schedule[exit_step]))


def score_windows(rollout: Tensor, batch: Batch, model: ModelSettings, teacher: str) -> list[tuple[Window, Tensor]]:
    """What a rollout (B, C, F, h, w) is judged by, see `DistillSettings.teacher`: windows, and the part of the rollout that each shows.

    The first latent frame of a part is given: the clip's first frame, or a chunk's anchor.
    """
    if teacher == "autoregressive":
        batch, length = {**batch, "latents": rollout}, model.chunk_latents
        return [ground_truth_window(batch, chunk, length, model.history) for chunk in range((rollout.shape[2] - 1) // length)]
    cameras = LatentCameras.from_frames(batch["intrinsics"], batch["c2w"])
    start = torch.zeros_like(batch["first_latent"])
    return [(make_window(rollout[:, :, :1], cameras, start, batch["text"]), rollout)]


class SelfForcing:
    """The models of a distillation and what each phase does with a batch. The teacher is frozen; the fake model starts as its copy."""

    def __init__(self, student: WorldModel, teacher: WorldModel, settings: DistillSettings, seed: int, ranks: Ranks) -> None:
        self.student, self.teacher, self.settings, self.ranks = student, teacher.experts.requires_grad_(False), settings, ranks
        self.fake = copy.deepcopy(self.teacher).requires_grad_(True)
        for experts in (student.experts, self.teacher, self.fake):
            for _, expert in experts.named_experts():
                ranks.place(expert)
        self.learners = {
            f"student {name}": Learner(expert, settings.student, settings.steps) for name, expert in student.experts.named_experts()
        }
        fake_steps = settings.steps * settings.fake_steps
        self.learners |= {f"fake {name}": Learner(expert, settings.fake, fake_steps) for name, expert in self.fake.named_experts()}
        self.generator = torch.Generator().manual_seed(seed)
        self.teacher_evaluations = 0  # forward passes that were asked of the teacher
        for _, expert in self.teacher.named_experts():
            expert.register_forward_hook(self._count)
        self.monitor = CollapseMonitor(settings.monitor, student.experts)

    def fake_phase(self, batch: Batch) -> float:
        """One step of the fake model towards the student's rollouts (eq. 14, 15); returns its loss."""
        with torch.no_grad():
            rollout, _ = student_rollout(self.student, batch, self.ranks.noise(self.generator))
        level, noise = self._level(), self.ranks.noise(self.generator)
        losses = [fake_loss(self.fake, part, window, level, noise) for window, part in self._score_windows(rollout, batch)]
        loss = torch.stack(losses).mean()
        self.learners[f"fake {self.fake.name_at(level)}"].step(loss)
        return self._mean(loss)

    def student_phase(self, batch: Batch) -> tuple[dict[str, float], str]:
        """One step of the student along g_DMD (eq. 16 to 18). Returns `monitors.measures` with `direction`, or why the student has collapsed."""
        rollout, expert = student_rollout(self.student, batch, self.ranks.noise(self.generator))
        found = measures(rollout.detach(), batch["latents"], self.student.config.model.chunk_latents)
        values = {name: self._mean(torch.tensor(value)) for name, value in found.items()}
        reason = self.monitor.watch(values)  # of the weights before this step
        if reason:
            self.monitor.restore()
            return values, reason
        level, noise, guidance = self._level(), self.ranks.noise(self.generator), self.settings.guidance
        losses, magnitudes = [], []
        for window, part in self._score_windows(rollout, batch):
            direction = dmd_direction(self.teacher, self.fake, part.detach(), window, level, guidance, noise)
            losses.append(student_loss(part, direction))
            magnitudes.append(direction.abs().mean())
        self.learners[f"student {expert}"].step(torch.stack(losses).mean())
        return {**values, "direction": self._mean(torch.stack(magnitudes).mean())}, ""

    def _score_windows(self, rollout: Tensor, batch: Batch) -> list[tuple[Window, Tensor]]:
        return score_windows(rollout, batch, self.student.config.model, self.settings.teacher)

    def _count(self, *_: object) -> None:
        self.teacher_evaluations += 1

    def _level(self) -> float:
        s = self.settings
        return draw_score_level(s.lowest_level, s.highest_level, self.student.config.model.shift, self.generator)

    def _mean(self, value: Tensor) -> float:
        return round(float(self.ranks.mean(value.detach().to(self.ranks.device))), 5)


def distill(
    student: WorldModel,
    teacher: WorldModel,
    batches_from: Callable[[int], Iterator[Batch]],
    settings: DistillSettings,
    seed: int,
    ranks: Ranks | None = None,
    checkpoints: Checkpoints | None = None,
) -> tuple[Curves, str]:
    """Train `student` in place. Returns loss curves, and why it ended early.

    batches_from: the batches from a number on, this rank's samples of each; a student step takes fake_steps + 1 of them
    checkpoints:  where to go on from, and where to write; the result does not depend on where a run was cut
    Curves: `fake` is L_fake (eq. 15); `direction` is the mean magnitude of g_DMD, which shrinks as the two distributions meet; the others
    are `monitors.measures`, and TEACHER_EVALUATIONS, how often the teacher was asked before each student phase: not once before the first.
    A student that collapses gets its last good weights back, and the training ends there; else the reason is "".
    """
    ranks = ranks or Ranks()
    forcing, reason = SelfForcing(student, teacher, settings, seed, ranks), ""
    told = resume(checkpoints, forcing.learners, forcing.generator, forcing.monitor.weights)
    done, curves = told.get("step", 0), Curves(told.get("curves", {}))
    forcing.monitor.recall(told.get("monitor", {}))
    forcing.teacher_evaluations = told.get(TEACHER_EVALUATIONS, 0)
    batches = ({key: value.to(ranks.device) for key, value in batch.items()} for batch in batches_from(done * (settings.fake_steps + 1)))
    bar = tqdm(
        range(done, settings.steps), "self-forcing distillation", settings.steps, initial=done, unit="step", disable=not ranks.is_first
    )
    for step in bar:
        for phase in range(settings.fake_steps):
            curves.setdefault("fake", []).append([step + phase / settings.fake_steps, forcing.fake_phase(next(batches))])
        curves.setdefault(TEACHER_EVALUATIONS, []).append([step, forcing.teacher_evaluations])
        values, reason = forcing.student_phase(next(batches))
        for name, value in values.items():
            curves.setdefault(name, []).append([step, value])
        if reason:
            break
        if checkpoints and checkpoints.is_due(step + 1, settings.steps):
            state = {"step": step + 1, "curves": curves, "monitor": forcing.monitor.memory()}
            state[TEACHER_EVALUATIONS] = forcing.teacher_evaluations
            checkpoints.save(step + 1, training_state(forcing.learners, forcing.generator, state, forcing.monitor.weights))
    if not reason:
        for learner in forcing.learners.values():
            learner.use_average()
    if checkpoints:
        checkpoints.wait()
    student.experts.eval()
    return curves, reason
