"""Autoregressive flow matching (paper 4.3): the bidirectional weights learn to generate one chunk from ground-truth history and an anchor."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from moworld.model.flow import add_noise, clean_from_velocity, velocity
from moworld.model.history import HistoryBank, HistoryPolicy
from moworld.model.latent_cameras import LatentCameras
from moworld.model.window import Window, make_window, predict_velocity
from moworld.model.world import ModelSettings, WorldModel
from moworld.settings import Settings
from moworld.training.checkpoint import Checkpoints
from moworld.training.loop import OptimizerSettings
from moworld.training.objective import draw_noise, drop_conditions
from moworld.training.parallel import ParallelSettings, Ranks
from moworld.training.trainer import Curves, train


class AutoregressiveSettings(Settings):
    """`frames`: length of the clips that chunks are drawn from; `batch`: over all ranks; `anchor_weight` is lambda of eq. 12."""

    frames: int
    batch: int
    steps: int
    optimizer: OptimizerSettings
    anchor_weight: float = 1.0
    camera_dropout: float = 0.1
    text_dropout: float = 0.1
    checkpoint_every: int = 0
    parallel: ParallelSettings = ParallelSettings()


def last_chunk(video_latents: int, chunk_latents: int) -> int:
    """i_max = floor(L_video / L_chunk) - 1 (eq. 7). L_video counts the latent frames after the first one, which is given."""
    return (video_latents - 1) // chunk_latents - 1


def ground_truth_window(batch: dict[str, Tensor], chunk: int, chunk_latents: int, policy: HistoryPolicy) -> tuple[Window, Tensor]:
    """The window of chunk i under ground-truth history (eq. 8) and anchor (eq. 9), chosen by the same policy that serves.

    batch:   latents (B, C, F, h, w), c2w (B, T, 4, 4), intrinsics (B, T, 4), text (B, L, D), first_latent (B,)
    returns: the window and its clean latents (B, C, 1 + chunk_latents, h, w), the anchor first
    """
    latents = batch["latents"]
    cameras = LatentCameras.from_frames(batch["intrinsics"], batch["c2w"])
    anchor = chunk * chunk_latents  # the last latent frame before the chunk; latent frame 0 is the given first frame
    end = anchor + 1 + chunk_latents
    bank = HistoryBank(latents[:, :, : anchor + 1], cameras[: anchor + 1])
    indices = bank.select(cameras[anchor + 1 : end], policy)
    start = torch.full_like(batch["first_latent"], anchor)
    window = make_window(
        bank.latents[:, :, -1:], cameras[anchor:end], start, batch["text"], bank.gather(indices), bank.cameras.gather(indices), indices
    )
    return window, latents[:, :, anchor:end]


def random_window(batch: dict[str, Tensor], model: ModelSettings, generator: torch.Generator) -> tuple[Window, Tensor]:
    """`ground_truth_window` of one chunk for all samples, whose index is uniform (eq. 7)."""
    chunk = int(torch.randint(last_chunk(batch["latents"].shape[2], model.chunk_latents) + 1, (), generator=generator))
    return ground_truth_window(batch, chunk, model.chunk_latents, model.history)


def autoregressive_loss(
    world: WorldModel,
    name: str,
    batch: dict[str, Tensor],
    settings: AutoregressiveSettings,
    generator: torch.Generator,
    ranks: Ranks | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """L_AR = L_FM + lambda L_anchor (eq. 10 to 12) of one expert; the chunk index is uniform (eq. 7). Returns the loss and its parts."""
    ranks, config = ranks or Ranks(), world.config.model
    window, clean = random_window(batch, config, generator)
    window = drop_conditions(window, settings.camera_dropout, settings.text_dropout, generator, ranks)
    level, noise = draw_noise(clean, world.experts.noise_range(name), config.shift, generator, ranks)
    level_5d = level[:, None, None, None, None]
    noisy = add_noise(clean, noise, level_5d)
    predicted = predict_velocity(dict(world.experts.named_experts())[name], noisy, level, window)
    flow = torch.nn.functional.mse_loss(predicted[:, :, 1:], velocity(clean, noise)[:, :, 1:])
    anchor = torch.nn.functional.mse_loss(clean_from_velocity(noisy, predicted, level_5d)[:, :, :1], clean[:, :, :1])
    return flow + settings.anchor_weight * anchor, {"flow": flow.item(), "anchor": anchor.item()}


def train_autoregressive(
    world: WorldModel,
    batches_from: Callable[[int], Iterator[dict[str, Tensor]]],
    settings: AutoregressiveSettings,
    seed: int,
    ranks: Ranks | None = None,
    checkpoints: Checkpoints | None = None,
) -> Curves:
    """Adapt both experts of `world`, initialised from the teacher, in place. Returns loss curves per expert and part (see `train`)."""

    def loss_of(name: str, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return autoregressive_loss(world, name, batch, settings, generator, ranks)

    return train(
        world, batches_from, loss_of, settings.steps, settings.optimizer, seed, "autoregressive flow matching", None, ranks, checkpoints
    )
