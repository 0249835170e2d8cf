"""Near-duplicates in a set of clips (paper 2): the same footage re-encoded, scaled, cut or shifted in time.

A clip is a set of 64-bit perceptual hashes of its frames (pHash, Zauner 2010). Two frames match if at most 7 bits differ.
Candidates share one of eight bytes: seven differing bits leave at least one byte equal, so not all pairs are compared.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moworld.data.clips import Clip
from moworld.files import Pathlike
from moworld.video import iterate_frames

Hashes = NDArray[np.uint8]
BANDS = 8
MAX_BITS = BANDS - 1
EVERY_SECONDS = 0.5


def frame_hash(frame: NDArray[np.uint8]) -> Hashes:
    """Returns the 64-bit pHash of a frame (H, W, 3) as (8,) uint8."""
    import imagehash
    from PIL import Image

    return np.packbits(imagehash.phash(Image.fromarray(frame)).hash)


def clip_hashes(clip: Clip, folder: Pathlike) -> Hashes:
    """Returns hashes (N, 8) of a clip's frames, two per second. Uniform frames are omitted, because they all look alike."""
    step = max(1, round(clip.fps * EVERY_SECONDS))
    frames = (frame for index, frame in enumerate(iterate_frames(Path(folder) / clip.video)) if index % step == 0)
    hashes = [frame_hash(frame) for frame in frames if frame.std() > 4]
    return np.stack(hashes) if hashes else np.zeros((0, BANDS), np.uint8)


def with_similarity(clips: list[Clip], hashes: list[Hashes]) -> list[Clip]:
    """Returns the clips with `similarity`: the largest share of a clip's frames that one earlier clip also shows.

    hashes: (N, 8) per clip. The first of two equal clips gets 0.
    """
    owner = np.concatenate([np.full(len(own), index) for index, own in enumerate(hashes)])
    every = np.concatenate(hashes)
    buckets: dict[tuple[int, int], list[int]] = {}  # (band, byte) -> indices into `every`
    result, start = [], 0
    for clip, own in zip(clips, hashes, strict=True):
        shared = np.zeros(len(clips), int)
        for row in own:
            near = sorted({other for key in enumerate(row.tolist()) for other in buckets.get(key, ())})
            bits = np.unpackbits(every[near] ^ row, axis=1).sum(axis=1)
            shared[np.unique(owner[near][bits <= MAX_BITS])] += 1
        result.append(replace(clip, similarity=round(float(shared.max() / max(len(own), 1)), 4)))
        for offset, row in enumerate(own):
            for key in enumerate(row.tolist()):
                buckets.setdefault(key, []).append(start + offset)
        start += len(own)
    return result
