"""The three losses of self-forcing distribution matching (paper 4.4, eq. 14 to 18), each a function of a student rollout."""

import torch
from torch import Tensor
from torch.nn import functional

from moworld.model.experts import Experts
from moworld.model.flow import add_noise, clean_from_velocity, shift_noise_level, velocity
from moworld.model.rollout import Noise, seeded_noise
from moworld.model.window import Window, predict_velocity


def draw_score_level(low: float, high: float, shift: float, generator: torch.Generator) -> float:
    """One noise level for a whole rollout: uniform, warped by the shift, clamped to [low, high]."""
    return float(shift_noise_level(torch.rand((), generator=generator, dtype=torch.float64), shift).clamp(low, high))


def fake_loss(fake: Experts, rollout: Tensor, window: Window, level: float, generator: Noise) -> Tensor:
    """L_fake (eq. 15): the fake model learns the velocity field of the student's rollouts (eq. 14).

    rollout: (B, C, F, h, w) without gradient; the first latent frame is given and does not count
    window:  the bidirectional conditions of the whole rollout
    """
    noise = seeded_noise(tuple(rollout.shape), generator, rollout)
    noisy = add_noise(rollout, noise, torch.tensor(level))
    levels = torch.full((rollout.shape[0],), level).to(rollout)
    predicted = predict_velocity(fake.at(level), noisy, levels, window)
    return functional.mse_loss(predicted[:, :, 1:], velocity(rollout, noise)[:, :, 1:])


@torch.no_grad()
def dmd_direction(
    teacher: Experts, fake: Experts, rollout: Tensor, window: Window, level: float, guidance: float, generator: Noise
) -> Tensor:
    """g_DMD = v_real - v_fake (eq. 16, 17) at one noise level, (B, C, F, h, w), divided by the mean distance |Z - Z_real| of each sample.

    With v = eps - Z, descending along g moves the rollout towards the teacher's clean prediction and away from the fake model's.
    guidance: classifier-free guidance of the teacher over text; 1 means none. What is not a number becomes 0.
    """
    noise = seeded_noise(tuple(rollout.shape), generator, rollout)
    noisy = add_noise(rollout, noise, torch.tensor(level))
    levels = torch.full((rollout.shape[0],), level).to(rollout)
    real = predict_velocity(teacher.at(level), noisy, levels, window)
    if guidance != 1:
        absent = torch.ones(rollout.shape[0], dtype=torch.bool, device=rollout.device)
        unconditional = predict_velocity(teacher.at(level), noisy, levels, window.without(text=absent))
        real = unconditional + guidance * (real - unconditional)
    direction = level * (real - predict_velocity(fake.at(level), noisy, levels, window))
    distance = (rollout - clean_from_velocity(noisy, real, level))[:, :, 1:].abs().mean(dim=(1, 2, 3, 4), keepdim=True)
    direction = torch.nan_to_num(direction / distance.clamp_min(1e-6))
    direction[:, :, 0] = 0  # the first frame is given
    return direction


def student_loss(rollout: Tensor, direction: Tensor) -> Tensor:
    """L_student = E[sg(g_DMD) . Z] (eq. 18), averaged over elements: its gradient with respect to the rollout is the direction itself."""
    return (direction.detach() * rollout).mean()
