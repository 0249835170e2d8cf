"""Near-duplicates across a set of clips (paper 2): the same footage again, re-encoded, scaled, cut or shifted in time.

Each clip is a set of 64-bit hashes of its frames (signs of low DCT frequencies, Zauner 2010). Two frames match when few bits differ. Eight bands
of eight bits find them without comparing all pairs: seven differing bits leave one band equal.
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
    """(8,) uint8, 64 bits: whether each of the 8 x 8 lowest frequencies of a frame (H, W, 3) lies above their median."""
    import cv2

    small = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[1:9, 1:9]
    return np.packbits(low > np.median(low))


def clip_hashes(clip: Clip, folder: Pathlike) -> Hashes:
    """(N, 8) hashes of a clip's frames, two a second. Frames without anything in them are left out: they all look alike."""
    step = max(1, round(clip.fps * EVERY_SECONDS))
    frames = (frame for index, frame in enumerate(iterate_frames(Path(folder) / clip.video)) if index % step == 0)
    hashes = [frame_hash(frame) for frame in frames if frame.std() > 4]
    return np.stack(hashes) if hashes else np.zeros((0, BANDS), np.uint8)


def with_similarity(clips: list[Clip], hashes: list[Hashes]) -> list[Clip]:
    """The clips, each with the largest share of its frames that one clip before it shows, too. Of two alike the first keeps 0."""
    owner = np.concatenate([np.full(len(own), index) for index, own in enumerate(hashes)]) if hashes else np.zeros(0, int)
    every = np.concatenate(hashes) if hashes else np.zeros((0, BANDS), np.uint8)
    buckets: list[dict[int, list[int]]] = [{} for _ in range(BANDS)]
    found, start = [], 0
    for index, own in enumerate(hashes):
        shared = np.zeros(max(index, 1), int)
        for row in own:
            near = sorted({other for band in range(BANDS) for other in buckets[band].get(int(row[band]), ())})
            if near:
                bits = np.unpackbits(every[near] ^ row, axis=1).sum(axis=1)
                shared[np.unique(owner[near][bits <= MAX_BITS])] += 1
        found.append(replace(clips[index], similarity=round(float(shared.max() / max(len(own), 1)), 4)))
        for offset, row in enumerate(own):
            for band in range(BANDS):
                buckets[band].setdefault(int(row[band]), []).append(start + offset)
        start += len(own)
    return found
