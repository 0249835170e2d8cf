"""Self-forcing distillation (paper 4.4): fake phases and student phases in turn over the rollout that serves."""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from moworld.distillation.consistency import ConsistencySettings
from moworld.distillation.dmd import dmd_direction, draw_score_level, fake_loss, student_loss
from moworld.distillation.monitors import CollapseMonitor, MonitorSettings, measures
from moworld.model.latent_cameras import LatentCameras
from moworld.model.rollout import Noise, NoiseShare, Rollout, roll_out
from moworld.model.window import Window, make_window
from moworld.model.world import WorldModel
from moworld.settings import Settings
from moworld.training.checkpoint import Checkpoints
from moworld.training.loop import Learner, OptimizerSettings
from moworld.training.parallel import ParallelSettings, Ranks
from moworld.training.trainer import Batch, Curves, resume, training_state

TEACHER_EVALUATIONS = "teacher evaluations"


class DistillSettings(Settings):
    """`steps` student steps, each after `fake_steps` fake steps; rollouts of `chunks` chunks; score levels as in Self-Forcing.

    batch:       over all ranks
    consistency: a start before it, for comparison; None, the paper's way, does without
    """

    chunks: int
    batch: int
    steps: int
    fake_steps: int = 5
    student: OptimizerSettings
    fake: OptimizerSettings
    guidance: float = 1.0
    lowest_level: float = 0.02
    highest_level: float = 0.98
    monitor: MonitorSettings = MonitorSettings()
    consistency: ConsistencySettings | None = None
    checkpoint_every: int = 0
    parallel: ParallelSettings = ParallelSettings()


def student_rollout(student: WorldModel, batch: Batch, generator: Noise) -> tuple[Tensor, Window, str]:
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
    drawing = generator.generator if isinstance(generator, NoiseShare) else generator
    exit_step = int(torch.randint(config.student_steps, (), generator=drawing))
    generated = roll_out(rollout, c2w[:, 1:], intrinsics[:, 1:], exit_step)
    start = torch.zeros_like(batch["first_latent"])
    window = make_window(latents[:, :, :1], LatentCameras.from_frames(intrinsics, c2w), start, batch["text"])
    return generated, window, student.experts.name_at(float(student.config.schedule[exit_step]))


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
            rollout, window, _ = student_rollout(self.student, batch, self.ranks.noise(self.generator))
        level = self._level()
        loss = fake_loss(self.fake, rollout, window, level, self.ranks.noise(self.generator))
        self.learners[f"fake {self.fake.name_at(level)}"].step(loss)
        return self._mean(loss)

    def student_phase(self, batch: Batch) -> tuple[dict[str, float], str]:
        """One step of the student along g_DMD (eq. 16 to 18). Returns `monitors.measures` with `direction`, or why the student has collapsed."""
        rollout, window, expert = student_rollout(self.student, batch, self.ranks.noise(self.generator))
        found = measures(rollout.detach(), batch["latents"], self.student.config.model.chunk_latents)
        values = {name: self._mean(torch.tensor(value)) for name, value in found.items()}
        reason = self.monitor.watch(values)  # of the weights before this step
        if reason:
            self.monitor.restore()
            return values, reason
        direction = dmd_direction(
            self.teacher, self.fake, rollout, window, self._level(), self.settings.guidance, self.ranks.noise(self.generator)
        )
        self.learners[f"student {expert}"].step(student_loss(rollout, direction))
        return {**values, "direction": self._mean(direction.abs().mean())}, ""

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
