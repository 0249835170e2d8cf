"""Self-forcing distillation (paper 4.4): alternating fake and student phases over the rollout that serves."""

import torch
from torch import Tensor

from moworld.distillation.autoregressive import ground_truth_window, rollout_of
from moworld.distillation.chunkwise import ChunkwiseGradients
from moworld.distillation.dmd import dmd_direction, draw_score_level, fake_loss, student_loss
from moworld.distillation.monitors import CollapseMonitor, measures
from moworld.distillation.settings import DistillSettings
from moworld.model.rollout import Denoise, NoiseShare, roll_out
from moworld.model.settings import ModelSettings
from moworld.model.window import Window
from moworld.model.world import WorldModel
from moworld.training.loop import Learner
from moworld.training.objective import bidirectional_window
from moworld.training.parallel import Ranks
from moworld.training.trainer import Batch, Curves, Run, resume, training_state

TEACHER_EVALUATIONS = "teacher evaluations"


def student_rollout(
    student: WorldModel, batch: Batch, generator: torch.Generator | NoiseShare, denoise: Denoise | None = None
) -> tuple[Tensor, str]:
    """Returns Z = Rollout^AR (eq. 13) along the batch's cameras, (B, C, F, h, w), and the name of the expert with gradients.

    The exit step is drawn once and shared by all chunks; gradients pass through that step only, so through one expert only.
    denoise: of another `Denoiser` than the student's experts
    """
    rollout = rollout_of(student, batch, generator, denoise=denoise)
    source = generator.generator if isinstance(generator, NoiseShare) else generator
    exit_step = int(torch.randint(student.config.model.student_steps, (), generator=source))
    generated = roll_out(rollout, batch["c2w"][:, 1:], batch["intrinsics"][:, 1:], exit_step)
    return generated, student.experts.name_at(float(student.config.schedule[exit_step]))


def score_windows(rollout: Tensor, batch: Batch, model: ModelSettings, teacher: str) -> list[tuple[Window, Tensor]]:
    """Returns the windows in which teacher and fake model score a rollout (B, C, F, h, w), each with its part of the rollout.

    teacher: see `DistillSettings.teacher`: one window of the whole rollout, or one of each chunk under the rollout's own history
    The first latent frame of a part is given: the clip's first frame, or a chunk's anchor.
    """
    if teacher == "autoregressive":
        batch, length = {**batch, "latents": rollout}, model.chunk_latents
        return [ground_truth_window(batch, chunk, length, model.history) for chunk in range((rollout.shape[2] - 1) // length)]
    return [(bidirectional_window(batch, rollout[:, :, :1]), rollout)]


class SelfForcing:
    """Student, teacher and fake model of a distillation, and the two phases. The teacher is frozen; the fake model starts as its copy."""

    def __init__(self, student: WorldModel, teacher: WorldModel, settings: DistillSettings, seed: int, ranks: Ranks) -> None:
        self.student, self.teacher, self.settings, self.ranks = student, teacher.experts.requires_grad_(False), settings, ranks
        for _, expert in student.experts.named_experts():
            ranks.place(expert)
        for _, expert in self.teacher.named_experts():
            ranks.place(expert, settings.offload_teacher)
        self.fake = ranks.copy(self.teacher, torch.float32).requires_grad_(True)
        self.learners = {
            f"student {name}": Learner(expert, settings.student, settings.steps) for name, expert in student.experts.named_experts()
        }
        fake_steps = settings.steps * settings.fake_steps
        self.learners |= {f"fake {name}": Learner(expert, settings.fake, fake_steps) for name, expert in self.fake.named_experts()}
        self.generator = torch.Generator().manual_seed(seed)
        self.steps = 0  # of the student, by either expert
        self.fake_steps = 0
        self.teacher_evaluations = 0  # forward passes of the teacher
        for _, expert in self.teacher.named_experts():
            expert.register_forward_hook(self._count)
        self.monitor = CollapseMonitor(settings.monitor, student.experts)

    def fake_phase(self, batch: Batch) -> float:
        """Trains the fake model for one step on the student's rollouts (eq. 14, 15); returns its loss."""
        with torch.no_grad():
            rollout, _ = student_rollout(self.student, batch, self.ranks.noise(self.generator))
        level, noise = self._level(), self.ranks.noise(self.generator)
        losses = [fake_loss(self.fake, part, window, level, noise) for window, part in self._score_windows(rollout, batch)]
        loss = torch.stack(losses).mean()
        self.learners[f"fake {self.fake.name_at(level)}"].step(loss, self.fake_steps)
        self.fake_steps += 1
        return self._mean(loss)

    def student_phase(self, batch: Batch) -> tuple[dict[str, float], str]:
        """Trains the student for one step along g_DMD (eq. 16 to 18); returns `monitors.measures` with `direction`, or the collapse reason."""
        chunkwise = ChunkwiseGradients(self.student.experts, self.student.config.model.sampler)
        saving = self.ranks.settings.checkpoint_activations
        denoise = chunkwise.denoise if saving else None
        rollout, expert = student_rollout(self.student, batch, self.ranks.noise(self.generator), denoise)
        found = measures(rollout.detach(), batch["latents"], self.student.config.model.chunk_latents)
        values = {name: self._mean(torch.tensor(value)) for name, value in found.items()}
        reason = self.monitor.watch(values)  # measures of the weights before this step
        if reason:
            self.monitor.restore()
            return values, reason
        level, noise, guidance = self._level(), self.ranks.noise(self.generator), self.settings.guidance
        losses, magnitudes = [], []
        for window, part in self._score_windows(rollout, batch):
            direction = dmd_direction(self.teacher, self.fake, part.detach(), window, level, guidance, noise)
            losses.append(student_loss(part, direction))
            magnitudes.append(direction.abs().mean())
        backward = chunkwise.backward if saving else Tensor.backward
        self.learners[f"student {expert}"].step(torch.stack(losses).mean(), self.steps, backward)
        self.steps += 1
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


def distill(student: WorldModel, teacher: WorldModel, settings: DistillSettings, run: Run) -> tuple[Curves, str]:
    """Trains `student` in place; returns loss curves, and the reason if it collapsed, else "".

    run:    a student step takes fake_steps + 1 batches
    Curves: `fake` is L_fake (eq. 15). `direction` is the mean magnitude of g_DMD, which decreases as the two distributions agree.
            TEACHER_EVALUATIONS is the number of teacher forward passes before each student phase, 0 before the first. The others are
            `monitors.measures`.
    A collapsed student is reset to its last weights within bounds, and the training ends.
    """
    checkpoints, forcing, reason = run.checkpoints, SelfForcing(student, teacher, settings, run.seed, run.ranks), ""
    saved = resume(checkpoints, forcing.learners, forcing.generator, forcing.monitor.weights)
    done, curves = saved.get("step", 0), Curves(saved.get("curves", {}))
    forcing.steps, forcing.fake_steps = done, done * settings.fake_steps
    forcing.monitor.recall(saved.get("monitor", {}))
    forcing.teacher_evaluations = saved.get(TEACHER_EVALUATIONS, 0)
    batches = run.batches_on_device(done * (settings.fake_steps + 1))
    for step in run.progress("self-forcing distillation", done, settings.steps, curves):
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
