"""The flow-matching loss of pretraining (eq. 1), for one expert on its own range of noise levels."""

import torch
from torch import Tensor

from moworld.model.experts import Experts
from moworld.model.flow import add_noise, draw_noise_levels, velocity
from moworld.model.latent_cameras import LatentCameras
from moworld.model.rollout import seeded_noise
from moworld.model.window import Window, make_window, predict_velocity
from moworld.training.parallel import Ranks


def drop_conditions(window: Window, camera: float, text: float, generator: torch.Generator, ranks: Ranks) -> Window:
    """Train without cameras and without text now and then (probabilities per sample): the model then knows what their absence means."""
    draw = ranks.of_global(torch.rand(2, window.shape[0] * ranks.data_size, generator=generator), dim=1).to(window.text.device)
    return window.without(camera=draw[0] < camera, text=draw[1] < text)


def draw_noise(clean: Tensor, levels: tuple[float, float], shift: float, generator: torch.Generator, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """Noise levels (B,) and noise like `clean` (B, C, F, h, w), drawn for the global batch and then cut to this rank's samples."""
    level = draw_noise_levels(clean.shape[0] * ranks.data_size, *levels, shift, generator)
    return ranks.of_global(level).to(clean), seeded_noise(tuple(clean.shape), ranks.noise(generator), clean)


def flow_matching_loss(
    experts: Experts,
    name: str,
    batch: dict[str, Tensor],
    shift: float,
    generator: torch.Generator,
    camera_dropout: float = 0.0,
    text_dropout: float = 0.0,
    ranks: Ranks | None = None,
) -> Tensor:
    """L_pre (eq. 1): squared error of the velocity of the future frames, given the first one, text and cameras.

    name:  'high' or 'low': the expert, and with it the range of noise levels
    batch: latents (B, C, F, h, w), c2w (B, T, 4, 4) and intrinsics (B, T, 4) with T = 4 (F - 1) + 1, text (B, L, D), first_latent (B,)
    returns: scalar; the first latent frame is given, so it does not count
    """
    ranks, latents = ranks or Ranks(), batch["latents"]
    expert = dict(experts.named_experts())[name]
    part = expert.part(tuple(latents.shape))
    cameras = LatentCameras.from_frames(batch["intrinsics"], batch["c2w"])
    window = make_window(
        latents[:, :, :1], cameras, torch.zeros_like(batch["first_latent"]), batch["text"], rays_of=None if part is None else part.frames
    )
    window = drop_conditions(window, camera_dropout, text_dropout, generator, ranks)
    level, noise = draw_noise(latents, experts.noise_range(name), shift, generator, ranks)
    noisy = add_noise(latents, noise, level[:, None, None, None, None])
    predicted = predict_velocity(expert, noisy, level, window)
    return torch.nn.functional.mse_loss(predicted[:, :, 1:], velocity(latents, noise)[:, :, 1:])
