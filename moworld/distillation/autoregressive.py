"""Autoregressive flow matching (paper 4.3): the bidirectional weights learn to generate one chunk from ground-truth history and an anchor."""

from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from moworld.model.flow import add_noise, clean_from_velocity, draw_noise_levels, velocity
from moworld.model.history import HistoryBank, HistoryPolicy
from moworld.model.latent_cameras import LatentCameras
from moworld.model.rollout import seeded_noise
from moworld.model.window import Window, make_window, predict_velocity
from moworld.model.world import WorldModel
from moworld.settings import Settings
from moworld.training.loop import Learner, OptimizerSettings
from moworld.training.objective import drop_conditions


class AutoregressiveSettings(Settings):
    """`frames`: length of the clips that chunks are drawn from; `anchor_weight` is lambda of eq. 12."""

    frames: int
    batch: int
    steps: int
    optimizer: OptimizerSettings
    anchor_weight: float = 1.0
    camera_dropout: float = 0.1
    text_dropout: float = 0.1


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


def autoregressive_loss(
    world: WorldModel, name: str, batch: dict[str, Tensor], settings: AutoregressiveSettings, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """L_AR = L_FM + lambda L_anchor (eq. 10 to 12) of one expert; the chunk index is uniform (eq. 7). Returns the loss and its parts."""
    config = world.config.model
    highest = last_chunk(batch["latents"].shape[2], config.chunk_latents)
    chunk = int(torch.randint(highest + 1, (), generator=generator))
    window, clean = ground_truth_window(batch, chunk, config.chunk_latents, config.history)
    window = drop_conditions(window, settings.camera_dropout, settings.text_dropout, generator)
    level = draw_noise_levels(clean.shape[0], *world.experts.noise_range(name), config.shift, generator).to(clean)
    noise = seeded_noise(tuple(clean.shape), generator, clean)
    level_5d = level[:, None, None, None, None]
    noisy = add_noise(clean, noise, level_5d)
    predicted = predict_velocity(dict(world.experts.named_experts())[name], noisy, level, window)
    flow = torch.nn.functional.mse_loss(predicted[:, :, 1:], velocity(clean, noise)[:, :, 1:])
    anchor = torch.nn.functional.mse_loss(clean_from_velocity(noisy, predicted, level_5d)[:, :, :1], clean[:, :, :1])
    return flow + settings.anchor_weight * anchor, {"flow": flow.item(), "anchor": anchor.item()}


def train_autoregressive(
    world: WorldModel, batches: Iterator[dict[str, Tensor]], settings: AutoregressiveSettings, seed: int
) -> dict[str, list[list[float]]]:
    """Adapt both experts of `world`, initialised from the teacher, in place. Returns loss curves per expert and part."""
    generator = torch.Generator().manual_seed(seed)
    world.experts.train()
    learners = {name: Learner(expert, settings.optimizer, settings.steps) for name, expert in world.experts.named_experts()}
    curves: dict[str, list[list[float]]] = {f"{name} {part}": [] for name in learners for part in ("flow", "anchor")}
    for step in tqdm(range(settings.steps), desc="autoregressive flow matching", unit="step"):
        for name, learner in learners.items():
            loss, parts = autoregressive_loss(world, name, next(batches), settings, generator)
            learner.step(loss)
            for part, value in parts.items():
                curves[f"{name} {part}"].append([step, round(value, 5)])
    for learner in learners.values():
        learner.use_average()
    world.experts.eval()
    return curves
