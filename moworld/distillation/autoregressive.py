"""Autoregressive flow matching (paper 4.3): the bidirectional weights learn to generate one chunk from ground-truth history and an anchor."""

import torch
from torch import Tensor
from torch.nn import functional

from moworld.distillation.settings import AutoregressiveSettings
from moworld.model.flow import add_noise, clean_from_velocity
from moworld.model.history import HistoryBank
from moworld.model.latent_cameras import LatentCameras
from moworld.model.settings import HistoryPolicy, ModelSettings
from moworld.model.window import Window, make_window, predict_velocity
from moworld.model.world import WorldModel
from moworld.training.objective import draw_noise, drop_conditions, velocity_loss
from moworld.training.parallel import ONE_RANK, Ranks
from moworld.training.trainer import Batch, Curves, Run, train


def last_chunk(video_latents: int, chunk_latents: int) -> int:
    """Returns i_max = floor(L_video / L_chunk) - 1 (eq. 7); L_video counts the latent frames after the first one, which is given."""
    return (video_latents - 1) // chunk_latents - 1


def random_window(batch: Batch, model: ModelSettings, generator: torch.Generator) -> tuple[Window, Tensor]:
    """Returns `ground_truth_window` of a uniformly random chunk, the same for all samples (eq. 7)."""
    chunk = int(torch.randint(last_chunk(batch["latents"].shape[2], model.chunk_latents) + 1, (), generator=generator))
    return ground_truth_window(batch, chunk, model.chunk_latents, model.history)


def ground_truth_window(batch: Batch, chunk: int, chunk_latents: int, policy: HistoryPolicy) -> tuple[Window, Tensor]:
    """Returns the window of a chunk under ground-truth history (eq. 8) and anchor (eq. 9), selected by the policy that serves.

    batch:   latents (B, C, F, h, w), c2w (B, T, 4, 4), intrinsics (B, T, 4), text (B, L, D), first_latent (B,)
    returns: the window and its clean latents (B, C, 1 + chunk_latents, h, w), the anchor first
    """
    latents, cameras = batch["latents"], LatentCameras.from_frames(batch["intrinsics"], batch["c2w"])
    anchor = chunk * chunk_latents  # the last latent frame before the chunk; latent frame 0 is the given first frame
    end = anchor + 1 + chunk_latents
    bank = HistoryBank(latents[:, :, : anchor + 1], cameras[: anchor + 1])
    indices = bank.select(cameras[anchor + 1 : end], policy)
    start = torch.full_like(batch["first_latent"], anchor)
    window = make_window(
        bank.latents[:, :, -1:], cameras[anchor:end], start, batch["text"], bank.gather(indices), bank.cameras.gather(indices), indices
    )
    return window, latents[:, :, anchor:end]


def anchor_loss(noisy: Tensor, predicted: Tensor, level: Tensor, clean: Tensor) -> Tensor:
    """Returns L_anchor (eq. 11): the mean squared error of the clean first latent frame that a velocity implies.

    noisy, predicted, clean: (B, C, F, h, w), the anchor first; level: (B, 1, 1, 1, 1)
    """
    return functional.mse_loss(clean_from_velocity(noisy, predicted, level)[:, :, :1], clean[:, :, :1])


def autoregressive_loss(
    world: WorldModel,
    name: str,
    batch: Batch,
    settings: AutoregressiveSettings,
    generator: torch.Generator,
    ranks: Ranks = ONE_RANK,
) -> tuple[Tensor, dict[str, float]]:
    """Returns L_AR = L_FM + lambda L_anchor (eq. 10 to 12) of one expert on a random chunk, and its parts by name."""
    config = world.config.model
    window, clean = random_window(batch, config, generator)
    window = drop_conditions(window, settings.camera_dropout, settings.text_dropout, generator, ranks)
    levels, noise = draw_noise(clean, world.experts.noise_range(name), config.shift, generator, ranks)
    level = levels[:, None, None, None, None]
    noisy = add_noise(clean, noise, level)
    predicted = predict_velocity(dict(world.experts.named_experts())[name], noisy, levels, window)
    flow, anchor = velocity_loss(predicted, clean, noise), anchor_loss(noisy, predicted, level, clean)
    return flow + settings.anchor_weight * anchor, {"flow": flow.item(), "anchor": anchor.item()}


def train_autoregressive(world: WorldModel, settings: AutoregressiveSettings, run: Run) -> Curves:
    """Trains both experts of `world`, initialised from the teacher, in place; returns loss curves per expert and part (see `train`)."""

    def loss_of(name: str, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return autoregressive_loss(world, name, batch, settings, generator, run.ranks)

    return train(world, run, loss_of, settings.steps, settings.optimizer, "autoregressive flow matching")
