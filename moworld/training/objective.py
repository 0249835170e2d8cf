"""The flow-matching loss of pretraining (paper 3.1, eq. 1), of one expert on its own range of noise levels."""

import torch
from torch import Tensor
from torch.nn import functional

from moworld.model.experts import Experts
from moworld.model.flow import add_noise, draw_noise_levels, velocity
from moworld.model.latent_cameras import LatentCameras
from moworld.model.rollout import seeded_noise
from moworld.model.window import Window, make_window, predict_velocity
from moworld.training.parallel import ONE_RANK, Ranks


def flow_matching_loss(
    experts: Experts,
    name: str,
    batch: dict[str, Tensor],
    shift: float,
    generator: torch.Generator,
    camera_dropout: float = 0.0,
    text_dropout: float = 0.0,
    ranks: Ranks = ONE_RANK,
) -> Tensor:
    """Returns L_pre (eq. 1): the squared error of the velocity of the frames after the first, given the first one, text and cameras.

    name:    'high' or 'low', the expert; it determines the range of noise levels
    batch:   latents (B, C, F, h, w), c2w (B, T, 4, 4) and intrinsics (B, T, 4) with T = 4 (F - 1) + 1, text (B, L, D), first_latent (B,)
    returns: scalar; the first latent frame is given, so it does not count
    """
    latents, expert = batch["latents"], dict(experts.named_experts())[name]
    part = expert.part(tuple(latents.shape))
    window = bidirectional_window(batch, latents[:, :, :1], None if part is None else part.frames)
    window = drop_conditions(window, camera_dropout, text_dropout, generator, ranks)
    level, noise = draw_noise(latents, experts.noise_range(name), shift, generator, ranks)
    noisy = add_noise(latents, noise, level[:, None, None, None, None])
    return velocity_loss(predict_velocity(expert, noisy, level, window), latents, noise)


def bidirectional_window(batch: dict[str, Tensor], first: Tensor, rays_of: slice | None = None) -> Window:
    """Returns the window of all latent frames of the batch, given the first one, (B, C, 1, h, w); `rays_of`: frames that need rays."""
    cameras, start = LatentCameras.from_frames(batch["intrinsics"], batch["c2w"]), torch.zeros(len(first), dtype=torch.long)
    return make_window(first, cameras, start.to(first.device), batch["text"], rays_of=rays_of)


def velocity_loss(predicted: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """Returns the mean squared error of a predicted velocity on the latent frames after the given first one (eq. 1, 10 and 15)."""
    return functional.mse_loss(predicted[:, :, 1:], velocity(clean, noise)[:, :, 1:])


def drop_conditions(window: Window, camera: float, text: float, generator: torch.Generator, ranks: Ranks) -> Window:
    """Removes cameras and text of random samples with these probabilities, so that the model learns the unconditional velocity too."""
    draw = ranks.of_global(torch.rand(2, window.shape[0] * ranks.data_size, generator=generator), dim=1).to(window.text.device)
    return window.without(camera=draw[0] < camera, text=draw[1] < text)


def draw_noise(clean: Tensor, levels: tuple[float, float], shift: float, generator: torch.Generator, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """Returns noise levels (B,) and noise like `clean` (B, C, F, h, w): drawn for the global batch, then cut to this rank's samples."""
    level = draw_noise_levels(clean.shape[0] * ranks.data_size, *levels, shift, generator)
    return ranks.of_global(level).to(clean), seeded_noise(tuple(clean.shape), ranks.noise(generator), clean)


def noised(clean: Tensor, noise: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Returns Z_t = (1 - t) Z + t eps (eq. 14) for one level t, and that level for each sample, (B,)."""
    levels = torch.full((clean.shape[0],), level, dtype=clean.dtype, device=clean.device)
    return add_noise(clean, noise, levels[:, None, None, None, None]), levels
