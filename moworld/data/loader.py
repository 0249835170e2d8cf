"""Training batches of windows. The order is a pure function of (seed, sample number): the same at any world size, resumable anywhere."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from moworld.data.features import FeatureRow, FeatureStore
from moworld.errors import InputError

Batch = dict[str, Tensor]


def sample_window(clips: list[FeatureRow], num_latents: int, seed: int, sample: int) -> tuple[FeatureRow, int]:
    """Clip and first latent frame of sample number `sample`: each epoch is a shuffle of all clips, starts are uniform."""
    epoch, place = divmod(sample, len(clips))
    order = np.random.default_rng([seed, epoch]).permutation(len(clips))
    clip = clips[int(order[place])]
    start = int(np.random.default_rng([seed, epoch, place]).integers(clip.num_latents - num_latents + 1))
    return clip, start


def batches(
    store: FeatureStore, split: str, num_latents: int, batch: int, seed: int, start_step: int = 0, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """Endless batches of one split for one rank; step s of all ranks together holds samples s * batch * world_size onwards.

    yields latents (B, C, n, h, w), c2w (B, T, 4, 4), intrinsics (B, T, 4), text (B, L, D), first_latent (B,); T = 4 (n - 1) + 1
    Raises InputError when no clip of the split is as long as the window.
    """
    clips = [row for row in store.of_split(split) if row.num_latents >= num_latents]
    if not clips:
        longest = max((row.num_frames for row in store.of_split(split)), default=0)
        raise InputError(
            store.path,
            split,
            f"clips of at most {longest} frames",
            f"{4 * (num_latents - 1) + 1} frames",
            "shorten the stage or record longer",
        )
    step = start_step
    while True:
        first = (step * world_size + rank) * batch
        chosen = [sample_window(clips, num_latents, seed, sample) for sample in range(first, first + batch)]
        windows = [store.read_window(clip.clip_id, start, num_latents) for clip, start in chosen]
        stacked = {key: torch.stack([window[key] for window in windows]) for key in windows[0]}
        yield {**stacked, "first_latent": torch.tensor([start for _, start in chosen])}
        step += 1
