"""Near-duplicates in a set of clips (paper 2): the same footage re-encoded, scaled, cut or shifted in time.

A clip is a set of 64-bit perceptual hashes of its frames (pHash, Zauner 2010). Two frames match if at most 7 bits differ.
Candidates share one of eight bytes: seven differing bits leave at least one byte equal, so not all pairs are compared.

Partitions keep their hashes in a file (FRAME_HASHES), so that merging them finds duplicates over everything without a picture.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moworld.data.clips import Clip
from moworld.files import Pathlike, atomic_write, read_parquet
from moworld.video import iterate_frames

Hashes = NDArray[np.uint8]
BANDS = 8
MAX_BITS = BANDS - 1
EVERY_SECONDS = 0.5
FRAME_HASHES = "frame_hashes.parquet"  # in a clips folder of a partition: clip_id, hashes (8 bytes a frame)
EXACT_FRAMES = 1 << 15  # above, not all pairs of frames are compared
BLOCK = 256  # frames that are compared with all others at a time
NEIGHBOURS = 32  # frames with an equal half that are compared


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


def write_hashes(folder: Pathlike, clips: Sequence[str], hashes: Sequence[Hashes], earlier: Collection[str] = ()) -> None:
    """Writes the frame hashes of clips, (N, 8) of each clip_id, to FRAME_HASHES of a folder.

    earlier: ids of clips of an earlier revision, which no new clip can turn into a duplicate
    """
    import pyarrow
    from pyarrow import parquet

    columns = {"clip_id": list(clips), "hashes": [own.tobytes() for own in hashes], "earlier": [clip in earlier for clip in clips]}
    table = pyarrow.table(columns, schema=_schema())
    with atomic_write(Path(folder) / FRAME_HASHES) as stream:
        parquet.write_table(table, stream)


def similarity_over(folders: Sequence[Pathlike]) -> tuple[Any, NDArray[np.float64]]:
    """Returns the clip_ids of all FRAME_HASHES of folders, an Arrow array, and the similarity of each clip (see `with_similarity`).

    Clips of an earlier revision come first, and are not returned; within both, clips are sorted.

    Up to EXACT_FRAMES frames all pairs are compared. Above, frames are candidates if half of their 64 bits are equal, of which each is
    compared with NEIGHBOURS others: of a clip that was encoded again some frames have an equal half, of other clips almost none.
    """
    import pyarrow
    import pyarrow.compute

    tables = [read_parquet(Path(folder) / FRAME_HASHES).cast(_schema()) for folder in folders if (Path(folder) / FRAME_HASHES).is_file()]
    table = pyarrow.concat_tables([_schema().empty_table(), *tables]).sort_by([("earlier", "descending"), ("clip_id", "ascending")]).combine_chunks()
    names = pyarrow.concat_arrays(table.column("clip_id").chunks or [pyarrow.array([], pyarrow.string())])
    if not len(names):
        return names, np.zeros(0)
    column = table.column("hashes").combine_chunks()
    column = column.chunk(0) if isinstance(column, pyarrow.ChunkedArray) else column
    offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(names) + 1] // BANDS
    values = np.frombuffer(column.buffers()[2] or b"", ">u8").astype(np.uint64)[offsets[0] : offsets[-1]]
    known = pyarrow.compute.sum(table.column("earlier")).as_py() or 0
    return names.slice(known), similarities(values, np.diff(offsets))[known:]


def similarities(hashes: NDArray[np.uint64], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns for each clip the largest share of its frames that one earlier clip also shows, to four digits.

    hashes: (N,) of the frames of all clips, one clip after the other; lengths: number of frames of each clip
    """
    count = len(lengths)
    owner = np.repeat(np.arange(count, dtype=np.int64), lengths)
    pairs = _all_pairs(hashes, owner) if len(hashes) <= EXACT_FRAMES else _half_pairs(hashes, owner)
    seen = np.unique(pairs)  # frame * count + earlier clip
    both, frames = np.unique(owner[seen // count] * count + seen % count, return_counts=True)
    most = np.zeros(count, np.int64)
    np.maximum.at(most, both // count, frames)
    return np.round(most / np.maximum(lengths, 1), 4)


def _all_pairs(hashes: NDArray[np.uint64], owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns frame * number of clips + earlier clip, of each pair of frames that match."""
    count, found = int(owner[-1]) + 1 if len(owner) else 1, [np.zeros(0, np.int64)]
    for start in range(0, len(hashes), BLOCK):
        block, last = slice(start, start + BLOCK), int(np.searchsorted(owner, owner[min(start + BLOCK, len(owner)) - 1]))
        near = np.bitwise_count(hashes[block, None] ^ hashes[None, :last]) <= MAX_BITS
        frame, other = np.nonzero(near & (owner[None, :last] < owner[block, None]))
        found.append((frame + start) * count + owner[other])
    return np.concatenate(found)


def _half_pairs(hashes: NDArray[np.uint64], owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns as `_all_pairs` pairs that match and have an equal half."""
    count, found = int(owner[-1]) + 1, [np.zeros(0, np.int64)]
    for shift in (0, 32):
        half = ((hashes >> np.uint64(shift)) & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        order = np.argsort(half, kind="stable")
        half = half[order]
        at = np.flatnonzero(half[:-1] == half[1:])
        for distance in range(1, NEIGHBOURS + 1):
            at = at[at + distance < len(half)]
            at = at[half[at] == half[at + distance]]
            if not len(at):
                break
            one, other = order[at], order[at + distance]  # of equal halves the order is that of the frames
            good = (np.bitwise_count(hashes[one] ^ hashes[other]) <= MAX_BITS) & (owner[one] < owner[other])
            found.append(other[good] * count + owner[one[good]])
    return np.concatenate(found)


def _schema() -> Any:
    import pyarrow

    return pyarrow.schema([("clip_id", pyarrow.string()), ("hashes", pyarrow.large_binary()), ("earlier", pyarrow.bool_())])
