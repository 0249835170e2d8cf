"""Rollout^AR (eq. 13): generates chunk after chunk from a first frame, text and cameras. Distillation and serving use the same code.

The first latent frame of a chunk's window is the anchor, the last frame of the previous chunk; it is dropped after denoising, and the new
frames are appended to the history bank. `sample_window` samples the teacher: many Euler steps over one bidirectional window.
"""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moworld.model.experts import Experts
from moworld.model.flow import add_noise, clean_from_velocity, sampling_schedule
from moworld.model.history import HistoryBank
from moworld.model.latent_cameras import LatentCameras, RayCache
from moworld.model.latent_grid import CODEC_GRID
from moworld.model.settings import HistoryPolicy, Sampler
from moworld.model.window import PreparedWindow, Window, make_window, predict_velocity


@dataclass(frozen=True)
class NoiseShare:
    """A generator that draws noise for all ranks and returns part `index` of `parts`, so that noise does not depend on the number of ranks."""

    generator: torch.Generator
    index: int = 0
    parts: int = 1


@dataclass(frozen=True)
class NoisePerWorld:
    """A generator for each sample, so that a world's noise does not depend on the other worlds of its batch."""

    generators: tuple[torch.Generator, ...]


Noise = torch.Generator | NoiseShare | NoisePerWorld
Denoise = Callable[..., Tensor]  # (window, schedule, generator[, exit_step]) -> clean latents


def seeded_noise(shape: tuple[int, ...], generator: Noise, like: Tensor) -> Tensor:
    """Returns Gaussian noise of `shape` (B, ...), drawn on the generator's device and moved: the same numbers on every device."""
    if isinstance(generator, NoisePerWorld):
        return torch.stack([torch.randn(shape[1:], generator=own, device=own.device) for own in generator.generators]).to(like)
    share = generator if isinstance(generator, NoiseShare) else NoiseShare(generator)
    drawn = torch.randn((shape[0] * share.parts, *shape[1:]), generator=share.generator, device=share.generator.device).to(like)
    return drawn.chunk(share.parts)[share.index]


def world_generator(seed: int, picture: NDArray[np.uint8]) -> torch.Generator:
    """Returns the generator of the noise of a world that starts from a picture (H, W, 3) at the model's size.

    What comes into view follows the noise, so worlds of different pictures get different noise under the same seed.
    """
    digest = hashlib.sha256(picture.tobytes() + seed.to_bytes(16, "big", signed=True)).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def denoise_few_steps(
    experts: Experts,
    window: Window,
    schedule: Tensor,
    generator: Noise,
    exit_step: int | None = None,
    sampler: Sampler = "stochastic",
    predict: Callable[..., Tensor] = predict_velocity,
) -> Tensor:
    """Returns clean latents (B, C, F, h, w) in few steps: predicts the clean window, noises it to the next level, and repeats.

    schedule:  (S,) descending noise levels, the first is 1
    sampler:   `stochastic` adds new noise, as in Self-Forcing; `euler` the noise that the prediction implies, a step along the flow
    exit_step: index of the step whose prediction is returned; only that step passes gradients. None runs all steps.
    predict:   `predict_velocity`, or what takes its place in the step with gradients
    """
    last = len(schedule) - 1 if exit_step is None else exit_step
    noisy, prepared = seeded_noise(window.shape, generator, window.condition), dict[int, PreparedWindow]()
    for index in range(last + 1):
        level, learning = float(schedule[index]), torch.is_grad_enabled() and index == last
        expert, levels = experts.at(level), torch.full((noisy.shape[0],), level, dtype=noisy.dtype, device=noisy.device)
        if learning:  # in one call, because the conditions need gradients, too
            predicted = predict(expert, noisy, levels, window)
        else:
            with torch.no_grad():
                if id(expert) not in prepared:
                    prepared = {id(expert): PreparedWindow(expert, window)}  # levels descend: the previous expert is not needed again
                predicted = prepared[id(expert)].velocity(noisy, levels)
        clean = clean_from_velocity(noisy, predicted, level)
        if index < last:
            noise = seeded_noise(window.shape, generator, clean) if sampler == "stochastic" else noisy + (1 - level) * predicted
            noisy = add_noise(clean, noise, schedule[index + 1].to(clean))
    return clean


class Denoiser(Protocol):
    """Computes the clean latents of a chunk. Strategies: `ExpertsDenoiser`, and in `moworld.inference` on demand and over ranks."""

    def denoise(self, window: Window, schedule: Tensor, generator: Noise) -> Tensor:
        """Returns clean latents (B, C, F, h, w) on the window's device, given (S,) descending noise levels (see `denoise_few_steps`)."""


@dataclass(frozen=True)
class ExpertsDenoiser:
    """Denoises with experts that are in memory."""

    experts: Experts
    sampler: Sampler = "stochastic"

    def denoise(self, window: Window, schedule: Tensor, generator: Noise, exit_step: int | None = None) -> Tensor:
        return denoise_few_steps(self.experts, window, schedule, generator, exit_step, self.sampler)


class KeptSpread:
    """Keeps the latents of a rollout from fading: raises the contrast of a chunk where that of the last chunks is too low.

    The spread of a chunk is the standard deviation of its latents about the mean of each channel. A single chunk may have little of it, as a
    wall close by does; only a moving average below `least` is corrected, by at most LARGEST_GAIN.
    """

    DECAY, LARGEST_GAIN = 7 / 8, 1.5

    def __init__(self, least: float) -> None:
        self.least, self.average = least, torch.tensor(least)

    def __call__(self, chunk: Tensor) -> Tensor:
        """Returns the chunk (B, C, L, h, w), scaled about the mean of each channel and sample."""
        if not self.least:
            return chunk
        about = chunk - chunk.mean(dim=(2, 3, 4), keepdim=True)
        gain = (self.least / self.average.to(chunk)).clamp(1, self.LARGEST_GAIN).detach()
        kept = chunk + (gain - 1) * about
        spread = gain * about.detach().square().mean(dim=(1, 2, 3, 4), keepdim=True).sqrt()
        self.average = self.DECAY * self.average.to(chunk) + (1 - self.DECAY) * spread
        return kept

    def rows(self, rows: Tensor) -> "KeptSpread":
        """Returns the state of worlds `rows` (K,)."""
        kept = KeptSpread(self.least)
        kept.average = self.average[rows] if self.average.ndim else self.average
        return kept


class Rollout:
    """The state of one autoregressive generation of B worlds: the history bank and the rays' cache.

    first_latent: (B, C, 1, h, w); text: (B, L, text_dim); intrinsics: (B, 4) normalised, the default for chunks without their own
    schedule:     (S,) noise levels of the few-step sampler; chunk_latents: new latent frames per chunk
    sampler:      see `denoise_few_steps`
    least_spread: see `KeptSpread`
    denoise:      of another `Denoiser` than these experts with this sampler
    """

    def __init__(
        self,
        experts: Experts,
        first_latent: Tensor,
        text: Tensor,
        intrinsics: Tensor,
        *,
        schedule: Tensor,
        policy: HistoryPolicy,
        chunk_latents: int,
        generator: Noise,
        first_pose: Tensor | None = None,
        sampler: Sampler = "stochastic",
        least_spread: float = 0.0,
        denoise: Denoise | None = None,
    ) -> None:
        self.experts, self.text, self.intrinsics = experts, text, intrinsics
        self.schedule, self.policy, self.chunk_latents, self.generator = schedule, policy, chunk_latents, generator
        self.denoise = denoise or ExpertsDenoiser(experts, sampler).denoise
        batch = first_latent.shape[0]
        pose = torch.eye(4, device=first_latent.device).expand(batch, 4, 4) if first_pose is None else first_pose
        self.bank = HistoryBank(first_latent, LatentCameras.from_frames(intrinsics[:, None], pose[:, None]), policy.capacity)
        self.ray_cache, self.keep_spread = RayCache(), KeptSpread(least_spread)

    def window(self, cameras: LatentCameras) -> Window:
        """Returns the window of the next chunk, whose new frames have these cameras."""
        bank, batch = self.bank, self.text.shape[0]
        indices = bank.select(cameras, self.policy)
        start = torch.full((batch,), bank.time - 1, device=indices.device)
        anchor, anchor_camera = bank.latents[:, :, -1:], bank.cameras[-1:]
        history = bank.gather(indices), bank.cameras.gather(indices), bank.times(indices)
        return make_window(anchor, anchor_camera.cat(cameras), start, self.text, *history, ray_cache=self.ray_cache)

    def next_chunk(self, c2w: Tensor, intrinsics: Tensor | None = None, exit_step: int | None = None) -> Tensor:
        """Generates one chunk and appends it to the bank.

        c2w:        (B, 4 * chunk_latents, 4, 4) poses of the new video frames in the world of the first frame, model units
        intrinsics: (B, 4 * chunk_latents, 4) normalised, or None for those of the first frame
        returns:    (B, C, chunk_latents, h, w); gradients as in `denoise_few_steps`
        """
        if intrinsics is None:
            intrinsics = self.intrinsics[:, None].expand(-1, c2w.shape[1], -1)
        cameras = LatentCameras.from_chunk(intrinsics, c2w.to(self.bank.latents))
        window = self.window(cameras)
        exits = {} if exit_step is None else {"exit_step": exit_step}
        chunk = self.keep_spread(self.denoise(window, self.schedule, self.generator, **exits)[:, :, 1:])  # without the anchor
        self.bank.append(chunk, cameras)
        return chunk

    def branch(self, rows: Tensor, generator: Noise) -> "Rollout":
        """Returns a rollout whose worlds continue worlds `rows` (K,) of this one, which stays as it is: several futures of one past."""
        branched = copy.copy(self)
        branched.text, branched.intrinsics, branched.bank = self.text[rows], self.intrinsics[rows], self.bank.rows(rows)
        branched.generator, branched.keep_spread = generator, self.keep_spread.rows(rows)
        return branched


def roll_out(rollout: Rollout, c2w: Tensor, intrinsics: Tensor | None = None, exit_step: int | None = None) -> Tensor:
    """Generates all chunks of a camera path (eq. 13).

    c2w:     (B, T, 4, 4) of the frames after the first one, T a multiple of 4 * chunk_latents
    returns: (B, C, 1 + T / 4, h, w) the first latent frame and all generated ones
    """
    frames = CODEC_GRID.frames_after_first(rollout.chunk_latents)
    chunks = [rollout.bank.latents[:, :, :1]]
    for start in range(0, c2w.shape[1], frames):
        own = None if intrinsics is None else intrinsics[:, start : start + frames]
        chunks.append(rollout.next_chunk(c2w[:, start : start + frames], own, exit_step))
    return torch.cat(chunks, dim=2)


def sample_window(experts: Experts, window: Window, num_steps: int, shift: float, generator: torch.Generator) -> Tensor:
    """Returns clean latents (B, C, F, h, w) of one window by Euler steps along the flow: samples the bidirectional teacher."""
    levels, prepared = sampling_schedule(num_steps, shift), dict[int, PreparedWindow]()
    noisy = seeded_noise(window.shape, generator, window.condition)
    for level, following in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
        expert, at = experts.at(level), torch.full((noisy.shape[0],), level, dtype=noisy.dtype, device=noisy.device)
        if id(expert) not in prepared:
            prepared = {id(expert): PreparedWindow(expert, window)}
        noisy = noisy + (following - level) * prepared[id(expert)].velocity(noisy, at)
    return noisy
