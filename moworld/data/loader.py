"""Training batches of windows. The order is a pure function of (seed, sample number): equal at any world size, and resumable anywhere."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moworld.data.features import FeatureRow, FeatureStore
from moworld.errors import InputError

Batch = dict[str, Tensor]


def sample_window(clips: list[FeatureRow], num_latents: int, seed: int, sample: int) -> tuple[FeatureRow, int]:
    """Returns clip and first latent frame of sample number `sample`. Each epoch is a shuffle of all clips; starts are uniform."""
    epoch, place = divmod(sample, len(clips))
    clip = clips[int(_order(seed, epoch, len(clips))[place])]
    start = int(np.random.default_rng([seed, epoch, place]).integers(clip.num_latents - num_latents + 1))
    return clip, start


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, clips: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(clips)


def batches(
    store: FeatureStore,
    split: str,
    num_latents: int,
    batch: int,
    seed: int,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    ahead: int = 2,
) -> Iterator[Batch]:
    """Yields endless batches of one split, this rank's samples of each; step s of all ranks holds samples s * batch to (s + 1) * batch - 1.

    batch: samples of all ranks together, so that the order does not depend on their number
    ahead: number of batches fetched in advance; 0 fetches each on request
    yields: latents (B, C, n, h, w), c2w (B, T, 4, 4), intrinsics (B, T, 4), text (B, L, D), first_latent (B,); T = 4 (n - 1) + 1
    Raises InputError if no clip of the split is as long as the window, or the batch is not a multiple of the ranks.
    """
    if batch % world_size:
        fix = "choose a multiple, or let more ranks share a sample"
        raise InputError("stage", "batch", f"{batch} samples for {world_size} ranks", "a multiple of the ranks", fix)
    clips = store.of_split(split, num_latents)

    def select(step: int) -> list[tuple[str, int, int]]:
        share = batch // world_size
        first = step * batch + rank * share
        chosen = (sample_window(clips, num_latents, seed, sample) for sample in range(first, first + share))
        return [(clip.clip_id, start, num_latents) for clip, start in chosen]

    def read(chosen: list[tuple[str, int, int]]) -> Batch:
        windows = [store.read_window(*place) for place in chosen]
        stacked = {key: torch.stack([window[key] for window in windows]) for key in windows[0]}
        return {**stacked, "first_latent": torch.tensor([start for _, start, _ in chosen])}

    pool = ThreadPoolExecutor(max(1, ahead), thread_name_prefix="loader")

    def fetch(chosen: list[tuple[str, int, int]]) -> Callable[[], Batch]:
        if not store.reads_ahead:
            return pool.submit(read, chosen).result
        for place in chosen if ahead else ():  # the disk reads in the background; threads would compete with training for the interpreter
            store.expect_window(*place)
        return partial(read, chosen)

    coming: deque[Callable[[], Batch]] = deque()
    try:
        for step in count(start_step):
            coming.append(fetch(select(step)))
            if len(coming) > ahead:
                yield coming.popleft()()
    finally:  # runs when the generator is closed
        pool.shutdown(wait=False, cancel_futures=True)
