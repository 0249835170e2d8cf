"""Distribution matching (eq. 14 to 18) with known answers, and its phases on a tiny model."""

import copy

import torch

from moworld.distillation.dmd import dmd_direction, fake_loss, student_loss
from moworld.distillation.phases import distill, score_windows, student_rollout
from moworld.distillation.settings import DistillSettings
from moworld.model.experts import Experts
from moworld.model.latent_cameras import LatentCameras
from moworld.model.rollout import Rollout
from moworld.model.window import make_window
from moworld.training.settings import OptimizerSettings
from moworld.training.trainer import Run
from tests.moworld.worlds import batches_from, tiny_batch, tiny_world


class Points(torch.nn.Module):
    """The exact velocity field of a one-point distribution: v = (z - point) / t."""

    def __init__(self, point: float) -> None:
        super().__init__()
        self.point = point

    def forward(self, hidden_states, timestep, **conditions):
        return ((hidden_states[:, :16] - self.point) / (timestep[:, None, None, None, None] / 1000),)


def window_of(batch):
    cameras = LatentCameras.from_frames(batch["intrinsics"], batch["c2w"])
    return make_window(batch["latents"][:, :, :1], cameras, batch["first_latent"], batch["text"])


def test_descending_along_the_direction_moves_the_rollout_towards_the_teachers_distribution() -> None:
    """Teacher's data at 3, student's at 1: eq. 17 and 18 increase the rollout, and are 0 when the two agree."""
    batch = tiny_batch(4)
    teacher, fake = (Experts(Points(p), Points(p), 0.9) for p in (3.0, 1.0))
    rollout = torch.full_like(batch["latents"], 1.0, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    direction = dmd_direction(teacher, fake, rollout, window_of(batch), 0.5, 1.0, generator)
    (gradient,) = torch.autograd.grad(student_loss(rollout, direction), rollout)
    assert (gradient[:, :, 1:] < 0).all() and (gradient[:, :, 0] == 0).all()
    agreed = dmd_direction(teacher, teacher, rollout, window_of(batch), 0.5, 1.0, generator)
    assert agreed.abs().max() < 1e-5


def test_the_gradient_of_the_student_loss_is_the_direction() -> None:
    rollout, direction = torch.randn(2, 16, 3, 2, 2, requires_grad=True), torch.randn(2, 16, 3, 2, 2)
    (gradient,) = torch.autograd.grad(student_loss(rollout, direction), rollout)
    torch.testing.assert_close(gradient * rollout.numel(), direction)


def test_the_fake_loss_is_zero_for_the_exact_velocity_only() -> None:
    batch = tiny_batch(4)
    rollout = torch.full_like(batch["latents"], 2.0)
    losses = [
        float(fake_loss(Experts(Points(p), Points(p), 0.9), rollout, window_of(batch), 0.7, torch.Generator().manual_seed(0)))
        for p in (2.0, 2.5)
    ]
    assert losses[0] < 1e-8 and losses[1] > 0.1


def test_the_training_rollout_returns_the_expert_with_gradients() -> None:
    student = tiny_world()
    names = set()
    for seed in range(6):
        rollout, name = student_rollout(student, tiny_batch(7), torch.Generator().manual_seed(seed))
        assert rollout.shape == (2, 16, 7, 2, 4)
        student.experts.zero_grad()
        rollout.square().mean().backward()
        assert all((getattr(student.experts, other).proj_out.weight.grad is not None) == (other == name) for other in ("high", "low"))
        names.add(name)
    assert names == {"high", "low"}


def test_a_bidirectional_teacher_scores_the_whole_rollout_from_its_first_frame() -> None:
    batch, rollout = tiny_batch(7), torch.randn(2, 16, 7, 2, 4)
    ((window, part),) = score_windows(rollout, batch, tiny_world().config.model, "bidirectional")
    assert part is rollout and window.shape == rollout.shape and window.history.shape[2] == 0
    assert torch.equal(window.condition[:, 4:, :1], rollout[:, :, :1]) and not window.condition[:, :, 1:].any()


def test_an_autoregressive_teacher_scores_each_chunk_in_its_generation_window(monkeypatch) -> None:
    made = []
    window_of_rollout = Rollout.window
    monkeypatch.setattr(Rollout, "window", lambda *given: made.append(window_of_rollout(*given)) or made[-1])
    student, batch = tiny_world(), tiny_batch(10)
    rollout, _ = student_rollout(student, batch, torch.Generator().manual_seed(0))
    judged = score_windows(rollout, batch, student.config.model, "autoregressive")
    assert len(judged) == len(made) == 3
    for chunk, ((window, part), served) in enumerate(zip(judged, made, strict=True)):
        assert torch.equal(part, rollout[:, :, 3 * chunk : 3 * chunk + 4]) and part.requires_grad
        for name in ("condition", "history", "frame_ids", "text"):
            assert torch.equal(getattr(window, name), getattr(served, name)), name
            assert not getattr(window, name).requires_grad
        torch.testing.assert_close(window.camera.motion, served.camera.motion, rtol=1e-4, atol=1e-5)


def test_distillation_is_deterministic_and_changes_the_student_only() -> None:
    optimizer = OptimizerSettings(lr=1e-3, betas=(0.0, 0.999))
    settings = DistillSettings(chunks=2, batch=2, steps=2, fake_steps=2, student=optimizer, fake=optimizer)

    def run():
        teacher, student = tiny_world(0), tiny_world(1)
        before = copy.deepcopy(teacher.experts.state_dict()), copy.deepcopy(student.experts.state_dict())
        curves, _ = distill(student, teacher, settings, Run(batches_from, seed=5))
        return before, teacher.experts.state_dict(), student.experts.state_dict(), curves

    (teacher_before, student_before), teacher_after, student_after, curves = run()
    again = run()
    assert all(torch.equal(teacher_before[k], teacher_after[k]) for k in teacher_before)
    assert any(not torch.equal(student_before[k], student_after[k]) for k in student_before)
    assert all(torch.equal(student_after[k], again[2][k]) for k in student_after)
    assert len(curves["fake"]) == 4 and len(curves["direction"]) == 2 and curves == again[3]
