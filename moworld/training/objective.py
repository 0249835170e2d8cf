"""The flow-matching loss of pretraining (eq. 1), for one expert on its own range of noise levels."""

import torch
from torch import Tensor

from moworld.model.experts import Experts
from moworld.model.flow import add_noise, draw_noise_levels, velocity
from moworld.model.latent_cameras import LatentCameras
from moworld.model.rollout import seeded_noise
from moworld.model.window import Window, make_window, predict_velocity


def drop_conditions(window: Window, camera: float, text: float, generator: torch.Generator) -> Window:
    """Train without cameras and without text now and then (probabilities per sample): the model then knows what their absence means."""
    draw = torch.rand(2, window.shape[0], generator=generator)
    return window.without(camera=draw[0] < camera, text=draw[1] < text)


def flow_matching_loss(
    experts: Experts,
    name: str,
    batch: dict[str, Tensor],
    shift: float,
    generator: torch.Generator,
    camera_dropout: float = 0.0,
    text_dropout: float = 0.0,
) -> Tensor:
    """L_pre (eq. 1): squared error of the velocity of the future frames, given the first one, text and cameras.

    name:  'high' or 'low': the expert, and with it the range of noise levels
    batch: latents (B, C, F, h, w), c2w (B, T, 4, 4) and intrinsics (B, T, 4) with T = 4 (F - 1) + 1, text (B, L, D), first_latent (B,)
    returns: scalar; the first latent frame is given, so it does not count
    """
    latents = batch["latents"]
    cameras = LatentCameras.from_frames(batch["intrinsics"], batch["c2w"])
    window = make_window(latents[:, :, :1], cameras, torch.zeros_like(batch["first_latent"]), batch["text"])
    window = drop_conditions(window, camera_dropout, text_dropout, generator)
    level = draw_noise_levels(latents.shape[0], *experts.noise_range(name), shift, generator).to(latents)
    noise = seeded_noise(tuple(latents.shape), generator, latents)
    noisy = add_noise(latents, noise, level[:, None, None, None, None])
    expert = dict(experts.named_experts())[name]
    predicted = predict_velocity(expert, noisy, level, window)
    return torch.nn.functional.mse_loss(predicted[:, :, 1:], velocity(latents, noise)[:, :, 1:])
