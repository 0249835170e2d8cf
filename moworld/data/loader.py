"""Training batches of windows. The order is a pure function of (seed, sample number): the same at any world size, resumable anywhere."""

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
    """Clip and first latent frame of sample number `sample`: each epoch is a shuffle of all clips, starts are uniform."""
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
    """Endless batches of one split, one rank's samples of each: step s of all ranks together holds samples s * batch onwards.

    batch: samples of all ranks together, so that the order does not depend on their number
    ahead: batches that are fetched while the one before them is learned from; 0 fetches each when it is asked for
    yields latents (B, C, n, h, w), c2w (B, T, 4, 4), intrinsics (B, T, 4), text (B, L, D), first_latent (B,); T = 4 (n - 1) + 1
    Raises InputError when no clip of the split is as long as the window, or the ranks cannot share a batch evenly.
    """
    if batch % world_size:
        mend = "choose a multiple, or let more ranks share a sample"
        raise InputError("stage", "batch", f"{batch} samples for {world_size} ranks", "a multiple of the ranks", mend)
    clips = [row for row in store.of_split(split) if row.num_latents >= num_latents]
    if not clips:
        longest = max((row.num_frames for row in store.of_split(split)), default=0)
        found, wanted = f"clips of at most {longest} frames", f"{4 * (num_latents - 1) + 1} frames"
        raise InputError(store.path, split, found, wanted, "shorten the stage or record longer")

    def choose(step: int) -> list[tuple[str, int, int]]:
        share = batch // world_size
        first = step * batch + rank * share
        chosen = (sample_window(clips, num_latents, seed, sample) for sample in range(first, first + share))
        return [(clip.clip_id, start, num_latents) for clip, start in chosen]

    def read(chosen: list[tuple[str, int, int]]) -> Batch:
        windows = [store.read_window(*place) for place in chosen]
        stacked = {key: torch.stack([window[key] for window in windows]) for key in windows[0]}
        return {**stacked, "first_latent": torch.tensor([start for _, start, _ in chosen])}

    pool = ThreadPoolExecutor(max(1, ahead), thread_name_prefix="loader")

    def begin(chosen: list[tuple[str, int, int]]) -> Callable[[], Batch]:
        if not store.reads_ahead:
            return pool.submit(read, chosen).result
        for place in chosen if ahead else ():  # the disk works meanwhile; threads would only take turns with whoever learns
            store.expect_window(*place)
        return partial(read, chosen)

    coming: deque[Callable[[], Batch]] = deque()
    try:
        for step in count(start_step):
            coming.append(begin(choose(step)))
            if len(coming) > ahead:
                yield coming.popleft()()
    finally:  # whoever reads no further closes the generator
        pool.shutdown(wait=False, cancel_futures=True)
