"""Near-duplicates in a set of clips (paper 2): the same footage re-encoded, scaled, cut or shifted in time.

A clip is a set of 64-bit perceptual hashes of its frames (pHash, Zauner 2010). Two frames match if at most 7 bits differ.
Candidates share one of eight bytes: seven differing bits leave at least one byte equal, so not all pairs are compared.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moworld.data.clips import Clip
from moworld.files import Pathlike, atomic_write
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


def hash_file(folder: Pathlike, video_sha256: str) -> Path:
    """Returns the file of a clip's hashes in a folder of hashes."""
    return Path(folder) / video_sha256[:2] / f"{video_sha256}.npy"


def stored_hashes(clip: Clip, folder: Pathlike, store: Pathlike | None) -> Hashes:
    """Returns `clip_hashes`, read from a folder of hashes, or computed and added to it. None for no such folder."""
    if store is None:
        return clip_hashes(clip, folder)
    path = hash_file(store, clip.video_sha256)
    with suppress(OSError, ValueError, EOFError):  # missing or damaged
        found = np.load(path, allow_pickle=False)
        if found.dtype == np.uint8 and found.ndim == 2 and found.shape[1] == BANDS:
            return np.asarray(found)
    made = clip_hashes(clip, folder)
    with atomic_write(path) as stream:
        np.save(stream, made)
    return made


def with_similarity(clips: list[Clip], hashes: list[Hashes]) -> list[Clip]:
    """Returns the clips with `similarity`, the largest share of a clip's frames that one earlier clip also shows, and that clip's id.

    hashes: (N, 8) per clip. The first of two equal clips gets 0. A clip that has a similarity keeps it.
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
        share = round(float(shared.max() / max(len(own), 1)), 4)
        measured = replace(clip, similarity=share, similar_to=clips[int(shared.argmax())].clip_id if share else None)
        result.append(measured if clip.similarity is None else clip)
        for offset, row in enumerate(own):
            for key in enumerate(row.tolist()):
                buckets.setdefault(key, []).append(start + offset)
        start += len(own)
    return result
