"""Training of the small codec: principal components of patches first, then the convolutions, on windows of frames."""

import random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from moworld.errors import InputError
from moworld.model.codec import StreamingCodec, group_frames, initialize_from_patches, ungroup_frames
from moworld.model.latent_grid import CODEC_GRID
from moworld.model.settings import CodecSettings
from moworld.training.loop import Learner
from moworld.training.settings import OptimizerSettings

Frames = NDArray[np.uint8]


def to_video(frames: Frames) -> Tensor:
    """Converts (T, H, W, 3) uint8 to (1, 3, T, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def to_frames(video: Tensor) -> Frames:
    """Converts (1, 3, T, H, W) in [-1, 1] to (T, H, W, 3) uint8."""
    return ((video[0] + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).cpu().numpy()


def psnr(mse: float, peak: float = 1.0) -> float:
    """Returns the peak signal-to-noise ratio in dB of a mean squared error of values in [0, peak]."""
    return float(10 * np.log10(peak**2 / max(mse, 1e-12)))


@torch.no_grad()
def reconstruction_psnr(codec: StreamingCodec, clips: list[Frames]) -> float:
    """Returns the PSNR in dB over all pixels of the clips (T, H, W, 3), each encoded and decoded as a whole."""
    errors = [functional.mse_loss(codec.decode(codec.encode(to_video(clip))), to_video(clip)).item() / 4 for clip in clips]
    return psnr(float(np.average(errors, weights=[clip.size for clip in clips])))


def train_codec(
    clips: list[Frames], settings: CodecSettings, seed: int, start: StreamingCodec | None = None
) -> tuple[StreamingCodec, dict[str, Any]]:
    """Trains a codec on clips (T, H, W, 3) of equal size; returns it with its loss curve and the PSNR before the first step.

    start: codec to continue from, in place, with its sizes and latent statistics; None starts from the principal components of patches,
           which clips shorter than a window contribute to, too
    Raises InputError if no clip has a window's length.
    """
    long_enough = [clip for clip in clips if len(clip) >= window_frames(settings)]
    if not long_enough:
        longest, fix = max(map(len, clips), default=0), "lower codec.groups or record longer clips"
        raise InputError("clips", "train", f"at most {longest} frames", f"{window_frames(settings)} frames", fix)
    generator, picker = torch.Generator().manual_seed(seed), random.Random(seed)
    codec = start.train() if start else _linear_codec(clips, settings, seed, picker)
    first_psnr = reconstruction_psnr(codec, clips[:2])
    learner = Learner(codec, OptimizerSettings(lr=settings.lr, weight_decay=0.0, warmup=10, final_lr=0.02), settings.steps)
    weights = group_weights(settings.groups, sum(len(clip) for clip in clips) / len(clips))
    curve = []
    for step in tqdm(range(settings.steps), desc="codec", unit="step"):
        patches = group_frames(_sample_windows(long_enough, settings, picker))
        raw = codec.encode_raw(patches)
        noise = settings.latent_noise * torch.randn(raw.shape, generator=generator)  # generated latents are never exact
        decoded, _ = codec.decode_raw(raw + noise)
        loss = reconstruction_loss(decoded - patches, weights)
        learner.step(loss)
        curve.append([step, round(loss.item(), 6)])
    codec.eval()
    if start is None:
        _set_latent_statistics(codec, clips)
    return codec, {"losses": {"reconstruction": curve}, "first_psnr_train": first_psnr}


def reconstruction_loss(error: Tensor, weights: Tensor) -> Tensor:
    """Returns the loss of errors of patches (B, F, 768, h, w): squared, absolute, and squared change from frame to frame.

    weights: (F,) of the latent frames. The change counts because pictures that are each nearly right may still flicker at groups of four.
    """
    frames = ungroup_frames(error)[:, :, CODEC_GRID.temporal - 1 :]
    change = frames[:, :, 1:] - frames[:, :, :-1]
    return ((error.square() + 0.1 * error.abs()).mean(dim=(0, 2, 3, 4)) * weights).sum() + 0.5 * change.square().mean()


def _linear_codec(clips: list[Frames], settings: CodecSettings, seed: int, picker: random.Random) -> StreamingCodec:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = StreamingCodec(settings.latent_channels, settings.hidden, settings.blocks, settings.warp)
    initialize_from_patches(codec, _sample_patches(clips, settings.pca_patches, picker))
    return codec


def window_frames(settings: CodecSettings) -> int:
    """Returns the number of video frames in a training window of `groups` latent frames."""
    return CODEC_GRID.num_frames(settings.groups)


def group_weights(groups: int, mean_frames: float) -> Tensor:
    """Returns loss weights (groups,) of a window's latent frames, of sum 1.

    The first latent frame holds one video frame, the others four; it weighs its share of the latent frames of a mean clip.
    """
    first = 1 / ((mean_frames - 1) / CODEC_GRID.temporal + 1)
    return torch.tensor([first, *[(1 - first) / (groups - 1)] * (groups - 1)])


def _sample_windows(clips: list[Frames], settings: CodecSettings, picker: random.Random) -> Tensor:
    """Returns random windows (B, 3, 4 (groups - 1) + 1, H, W); the first frame of each is a group of its own, as in a video."""
    frames = window_frames(settings)
    windows = []
    for _ in range(settings.batch):
        clip = clips[picker.randrange(len(clips))]
        start = picker.randrange(len(clip) - frames + 1)
        windows.append(to_video(clip[start : start + frames]))
    return torch.cat(windows)


def _sample_patches(clips: list[Frames], count: int, picker: random.Random) -> Tensor:
    """Returns (count or fewer, 768) random patches of all clips."""
    grids = []
    for clip in clips:
        start = picker.randrange(max(1, len(clip) - 32))
        stop = start + CODEC_GRID.whole_frames(min(33, len(clip) - start))
        grids.append(group_frames(to_video(clip[start:stop]))[0].permute(0, 2, 3, 1).flatten(0, 2))
    patches = torch.cat(grids)
    return patches[picker.sample(range(len(patches)), min(count, len(patches)))]


@torch.no_grad()
def _set_latent_statistics(codec: StreamingCodec, clips: list[Frames]) -> None:
    raw = torch.cat([codec.encode_raw(group_frames(to_video(clip)))[0] for clip in clips], dim=1)
    codec.latents_mean.copy_(raw.mean(dim=(1, 2, 3)))
    codec.latents_std.copy_(raw.std(dim=(1, 2, 3)))
