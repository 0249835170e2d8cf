"""Flow matching (eq. 1, eq. 14): noising, velocity, shifted schedules. A noise level is a number in [0, 1]; 1 is pure noise."""

import torch
from torch import Tensor

NUM_TIMESTEPS = 1000.0  # a noise level times this is the transformer's timestep


def shift_noise_level(level: Tensor, shift: float) -> Tensor:
    """Returns s u / (1 + (s - 1) u): Wan's warp of noise levels u towards noise, with the same shape and dtype."""
    return shift * level / (1 + (shift - 1) * level)


def unshift_noise_level(level: Tensor, shift: float) -> Tensor:
    """Inverse of `shift_noise_level`."""
    return level / (shift - (shift - 1) * level)


def add_noise(clean: Tensor, noise: Tensor, level: Tensor | float) -> Tensor:
    """Returns Z_t = (1 - t) Z + t eps (eq. 14). level: t, broadcastable to clean."""
    return (1 - level) * clean + level * noise


def velocity(clean: Tensor, noise: Tensor) -> Tensor:
    """Returns v = eps - Z (eq. 14), the flow-matching target."""
    return noise - clean


def clean_from_velocity(noisy: Tensor, predicted_velocity: Tensor, level: Tensor | float) -> Tensor:
    """Returns the clean latents that a velocity implies: Z = Z_t - t v."""
    return noisy - level * predicted_velocity


def sampling_schedule(num_steps: int, shift: float) -> Tensor:
    """Returns the noise levels of an Euler sampler: (num_steps + 1,) float64 from 1 down to 0, shifted."""
    return shift_noise_level(torch.linspace(1, 0, num_steps + 1, dtype=torch.float64), shift)


def few_step_schedule(num_steps: int, shift: float) -> Tensor:
    """Returns the noise levels of a few-step student: (num_steps,) float64, the sampling schedule without the final 0.

    Four steps at shift 5 are 1, 0.9375, 0.8333, 0.625: two for the high-noise expert, two for the low-noise one.
    """
    return sampling_schedule(num_steps, shift)[:-1]


def draw_noise_levels(count: int, low: float, high: float, shift: float, generator: torch.Generator) -> Tensor:
    """Returns (count,) noise levels in [low, high), uniform before the shift: distributed as the sampler's schedule spaces them."""
    bounds = unshift_noise_level(torch.tensor([low, high], dtype=torch.float64), shift)
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    levels = shift_noise_level(bounds[0] + (bounds[1] - bounds[0]) * uniform, shift)
    return levels.clamp(low, high).float()
