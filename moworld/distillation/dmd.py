"""The losses of self-forcing distribution matching (DMD, paper 4.4, eq. 14 to 18), each a function of a student rollout."""

import torch
from torch import Tensor

from moworld.model.experts import Experts
from moworld.model.flow import clean_from_velocity, shift_noise_level
from moworld.model.rollout import Noise, seeded_noise
from moworld.model.window import Window, predict_velocity
from moworld.training.objective import noised, velocity_loss


def draw_score_level(low: float, high: float, shift: float, generator: torch.Generator) -> float:
    """Returns one noise level for a whole rollout: uniform, warped by the shift, clamped to [low, high]."""
    return float(shift_noise_level(torch.rand((), generator=generator, dtype=torch.float64), shift).clamp(low, high))


def fake_loss(fake: Experts, rollout: Tensor, window: Window, level: float, generator: Noise) -> Tensor:
    """Returns L_fake (eq. 15): the error of the fake model's velocity on noised student rollouts (eq. 14).

    rollout: (B, C, F, h, w) without gradient; the first latent frame is given and does not count
    window:  the conditions of the whole rollout
    """
    noise = seeded_noise(tuple(rollout.shape), generator, rollout)
    noisy, levels = noised(rollout, noise, level)
    return velocity_loss(predict_velocity(fake.at(level), noisy, levels, window), rollout, noise)


@torch.no_grad()
def dmd_direction(
    teacher: Experts, fake: Experts, rollout: Tensor, window: Window, level: float, guidance: float, generator: Noise
) -> Tensor:
    """Returns g_DMD = v_real - v_fake (eq. 17) at one noise level, (B, C, F, h, w), divided by the mean |Z - Z_real| of each sample.

    With v = eps - Z, descending along g moves the rollout towards the teacher's clean prediction and away from the fake model's.
    guidance: classifier-free guidance weight of the teacher over text; 1 means none. NaN becomes 0.
    """
    noisy, levels = noised(rollout, seeded_noise(tuple(rollout.shape), generator, rollout), level)
    real = teacher_velocity(teacher, noisy, levels, window, level, guidance)
    direction = level * (real - predict_velocity(fake.at(level), noisy, levels, window))
    distance = (rollout - clean_from_velocity(noisy, real, level))[:, :, 1:].abs().mean(dim=(1, 2, 3, 4), keepdim=True)
    direction = torch.nan_to_num(direction / distance.clamp_min(1e-6))
    direction[:, :, 0] = 0  # the first frame is given
    return direction


def teacher_velocity(teacher: Experts, noisy: Tensor, levels: Tensor, window: Window, level: float, guidance: float) -> Tensor:
    """Returns v_real (eq. 16), (B, C, F, h, w), with classifier-free guidance over text unless `guidance` is 1."""
    conditional = predict_velocity(teacher.at(level), noisy, levels, window)
    if guidance == 1:
        return conditional
    absent = torch.ones(noisy.shape[0], dtype=torch.bool, device=noisy.device)
    unconditional = predict_velocity(teacher.at(level), noisy, levels, window.without(text=absent))
    return unconditional + guidance * (conditional - unconditional)


def student_loss(rollout: Tensor, direction: Tensor) -> Tensor:
    """Returns the DMD loss L_student = sg(g_DMD) . Z (eq. 18), a mean over elements; its gradient in the rollout is the direction."""
    return (direction.detach() * rollout).mean()
