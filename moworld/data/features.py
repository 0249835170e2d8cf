"""The feature cache (paper 3.4.1): latents, text embeddings and cameras of clips in safetensors shards, with an index.

A window of latent frames is one byte range per tensor of a shard, read from a local disk or any fsspec URI without the rest.
"""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from moworld.data.clips import REMOVED, Clip
from moworld.data.splits import empty_split
from moworld.errors import InputError
from moworld.files import (
    HASHES,
    Pathlike,
    atomic_write,
    link_or_copy,
    open_uri,
    read_json,
    read_json_object,
    read_parquet,
    sha256_file,
    write_json,
)
from moworld.model.latent_grid import CODEC_GRID
from moworld.tensors import FADVISE, Shard

LICENCES = "licences.json"  # beside the index: a sorted list of the licences of the clips
REWRITE = "write it again with cache_features"
DTYPES = {"latents": torch.float16, "text": torch.float16, "c2w": torch.float32, "intrinsics": torch.float32}  # of stored tensors
SHARD_BYTES = 256 * 2**20


@dataclass(frozen=True)
class FeatureRow:
    """One clip of the index. `num_frames` is 4 k + 1; `shard` is a file name beside the index."""

    clip_id: str
    split: str
    scene: str
    source: str
    caption: str
    num_frames: int
    video_sha256: str
    shard: str

    @property
    def num_latents(self) -> int:
        return CODEC_GRID.num_latents(self.num_frames, self.clip_id)


class FeatureWriter:
    """Collects clips and writes shards of about `shard_bytes`, then the index. The caller makes the folder (see atomic_folder)."""

    def __init__(self, folder: Pathlike, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.shard_bytes = str(folder), shard_bytes
        self.rows: list[FeatureRow] = []
        self.pending: dict[str, Tensor] = {}
        self.hashes: dict[str, str] = {}
        self.next = 0  # number of the next shard

    def extend(self, store: "FeatureStore", wanted: dict[str, tuple[str, str, str]]) -> None:
        """Takes over the wanted clips of a local feature folder with their shards; shards without another clip are hard links.

        wanted: clip_id to video_sha256, caption and split; a clip for which one of them differs is not taken over
        """
        unwanted = {row.clip_id for row in store.clips if wanted.get(row.clip_id) != (row.video_sha256, row.caption, row.split)}
        if len(unwanted) == len(store.clips):
            return
        write_without(store, self.folder, unwanted, shards_only=True)
        self.rows = [row for row in store.clips if row.clip_id not in unwanted]
        self.hashes = dict(read_json_object(f"{self.folder}/{HASHES}"))
        self.next = 1 + max(int(name.split("-")[1].split(".")[0]) for name in self.hashes)

    def add(self, row: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Adds a clip: index columns and latents (C, F, h, w), text (L, D), c2w (T, 4, 4), intrinsics (T, 4); T = 4 (F - 1) + 1.

        c2w is relative to the first frame and in model units. Raises ValueError if the lengths disagree.
        """
        latents, frames = tensors["latents"], len(tensors["c2w"])
        if frames != CODEC_GRID.num_frames(latents.shape[1]) or len(tensors["intrinsics"]) != frames:
            found = f"{frames} poses and {len(tensors['intrinsics'])} intrinsics"
            raise ValueError(f"{latents.shape[1]} latent frames do not match {found}")
        name = row["clip_id"]
        frames_first = {**tensors, "latents": latents.transpose(0, 1)}  # so that a window is one byte range
        self.pending |= {f"{name}/{part}": frames_first[part].to(dtype).contiguous() for part, dtype in DTYPES.items()}
        self.rows.append(FeatureRow(**row, shard=self._shard_name()))
        if sum(tensor.nbytes for tensor in self.pending.values()) >= self.shard_bytes:
            self._flush()

    def close(self) -> None:
        """Writes the last shard, the shards' hashes and index.parquet."""
        import pyarrow
        import pyarrow.parquet

        self._flush()
        write_json(f"{self.folder}/{HASHES}", self.hashes)
        table = pyarrow.Table.from_pylist([asdict(row) for row in self.rows])
        with atomic_write(f"{self.folder}/index.parquet") as stream:
            pyarrow.parquet.write_table(table, stream)

    def _flush(self) -> None:
        if self.pending:
            path = Path(self.folder, self._shard_name())
            save_file(self.pending, path)
            self.hashes[path.name], self.pending = sha256_file(path), {}
            self.next += 1

    def _shard_name(self) -> str:
        return f"shard-{self.next:05d}.safetensors"


class EncodedClips:
    """Cache of encoded clips: one file per clip, named by everything its content depends on, so no clip is encoded twice.

    encoding: JSON-able description of the encoders: codec hash, frame size, text encoder
    """

    def __init__(self, folder: Pathlike, encoding: dict[str, Any]) -> None:
        self.folder, self.encoding = Path(folder), encoding

    def path(self, clip: Clip) -> Path:
        """Returns the path of a clip's tensors, written or not."""
        own = [clip.video_sha256, clip.camera_sha256, clip.translation_scale, clip.num_frames, clip.caption]
        name = hashlib.sha256(json.dumps([own, self.encoding], sort_keys=True).encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def read(self, clip: Clip) -> dict[str, Tensor] | None:
        """Returns the tensors of a clip by `DTYPES`, or None if there is no file or it is damaged."""
        try:
            found = load_file(self.path(clip))
        except (OSError, SafetensorError):
            return None
        return found if found.keys() == DTYPES.keys() else None

    def write(self, clip: Clip, tensors: dict[str, Tensor]) -> None:
        """Writes a clip's tensors atomically."""
        with atomic_write(self.path(clip)) as stream:
            stream.write(save({name: tensors[name].to(dtype).contiguous() for name, dtype in DTYPES.items()}))


def write_without(store: "FeatureStore", target: Pathlike, clips: set[str], shards_only: bool = False) -> list[str]:
    """Writes a local feature folder again without some clips, by clip_id; returns the names of the shards that were rewritten or dropped.

    Other files are hard links; with `shards_only` they are left out. Raises InputError for a folder whose shards have no recorded hashes.
    """
    import pyarrow
    import pyarrow.parquet

    source, folder = Path(store.path), Path(target)
    touched = sorted({row.shard for row in store.clips if row.clip_id in clips})
    kept = [row for row in store.clips if row.clip_id not in clips]
    hashes = read_json_object(source / HASHES)
    for path in (path for path in source.rglob("*") if path.is_file()):
        if path.name not in (*touched, "index.parquet", HASHES) and not (shards_only and path.name not in hashes):
            link_or_copy(path, folder / path.relative_to(source))
    for name in touched:
        del hashes[name]
        own = {row.clip_id for row in kept if row.shard == name}
        tensors = load_file(source / name)
        if rest := {key: tensor for key, tensor in tensors.items() if key.rpartition("/")[0] in own}:
            save_file(rest, folder / name)
            hashes[name] = sha256_file(folder / name)
    write_json(folder / HASHES, hashes)
    with atomic_write(folder / "index.parquet") as stream:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([asdict(row) for row in kept]), stream)
    return touched


def merge_feature_folders(folders: Sequence[Pathlike], target: Pathlike) -> int:
    """Makes one feature folder of several with the same encoders; returns the number of clips. Shards get the folder's number in their names.

    Files are hard links; the licences are those of all folders, and codec/ is that of the first.
    """
    import pyarrow
    import pyarrow.parquet

    hashes: dict[str, str] = {}
    tables, licences = [], set[str]()
    for number, folder in enumerate(map(Path, folders)):
        names = {name: f"part-{number:02d}-{name}" for name in read_json_object(folder / HASHES)}
        for name, new in names.items():
            link_or_copy(folder / name, Path(target) / new)
            hashes[new] = read_json_object(folder / HASHES)[name]
        table = read_parquet(folder / "index.parquet")
        column = table.schema.get_field_index("shard")
        shards = pyarrow.array([names[name] for name in table.column("shard").to_pylist()], pyarrow.string())
        tables.append(table.set_column(column, table.schema.field(column), shards))
        licences |= set(read_json(folder / LICENCES))
    for path in sorted(Path(folders[0], "codec").glob("*")):
        link_or_copy(path, Path(target) / "codec" / path.name)
    write_json(Path(target) / HASHES, hashes)
    write_json(Path(target) / LICENCES, sorted(licences))
    merged = pyarrow.concat_tables(tables).sort_by("clip_id").combine_chunks()
    with atomic_write(Path(target) / "index.parquet") as stream:
        pyarrow.parquet.write_table(merged, stream)
    return len(merged)


class FeatureStore:
    """Reads a feature folder, local or an fsspec URI; raises InputError if there is no valid index or a shard is damaged."""

    def __init__(self, path: Pathlike) -> None:
        import pyarrow

        self.path = str(path).rstrip("/")
        index = f"{self.path}/index.parquet"
        with open_uri(index) as stream:
            try:
                rows = read_parquet(stream).to_pylist()
            except pyarrow.ArrowInvalid as error:
                raise InputError(index, "", error, "a Parquet file", REWRITE) from None
        names = {field.name for field in fields(FeatureRow)}
        if not rows or set(rows[0]) - REMOVED != names:
            found = "no rows" if not rows else f"columns {sorted(rows[0])}"
            raise InputError(index, "columns", found, f"{sorted(names)}", REWRITE)
        self.clips = [FeatureRow(**{name: row[name] for name in names}) for row in rows]
        self._by_id = {row.clip_id: row for row in self.clips}
        self._shards: dict[str, Shard] = {}
        self._lock = threading.Lock()

    def of_split(self, split: str, num_latents: int = 1) -> list[FeatureRow]:
        """Returns the clips of a split with at least `num_latents` latent frames; raises InputError if there is none."""
        rows = [row for row in self.clips if row.split == split]
        if not rows:
            raise empty_split(self.path, split, Counter(row.split for row in self.clips))
        if not (found := [row for row in rows if row.num_latents >= num_latents]):
            longest = max(row.num_frames for row in rows)
            expected, fix = f"{4 * (num_latents - 1) + 1} frames", "shorten the window, or use longer footage"
            raise InputError(self.path, f"split {split}", f"clips of at most {longest} frames", expected, fix)
        return found

    def read_window(self, clip_id: str, start_latent: int, num_latents: int) -> dict[str, Tensor]:
        """Returns a window of latent frames: latents (C, n, h, w), text (L, D), c2w (T, 4, 4), intrinsics (T, 4), all float32.

        T = 4 (n - 1) + 1 video frames, starting at frame 4 * start_latent. Poses are relative to the clip's first frame, in model units.
        Reads exactly four byte ranges. Thread-safe. Raises InputError for an unknown clip or a window outside it.
        """
        shard, ranges = self._ranges(clip_id, start_latent, num_latents)
        window = {name: tensor.float() for name, tensor in zip(DTYPES, shard.rows(ranges), strict=True)}
        return {**window, "latents": window["latents"].transpose(0, 1)}

    def expect_window(self, clip_id: str, start_latent: int, num_latents: int) -> None:
        """Prefetches a window through the operating system without waiting; does nothing if `reads_ahead` is false."""
        shard, ranges = self._ranges(clip_id, start_latent, num_latents)
        shard.prefetch(ranges)

    def lens(self, clip_id: str) -> list[float]:
        """Returns the median of fx, fy, cx, cy over the frames of a clip."""
        shard = self._shard(self._by_id[clip_id].shard)
        return shard.rows([(f"{clip_id}/intrinsics", 0, None)])[0].median(dim=0).values.tolist()  # type: ignore[no-any-return]

    @property
    def reads_ahead(self) -> bool:
        """Whether the operating system prefetches: true for a local folder on Linux."""
        return FADVISE and "://" not in self.path

    def _ranges(self, clip_id: str, start_latent: int, num_latents: int) -> tuple[Shard, list[tuple[str, int, int | None]]]:
        """Returns the shard of a window and the row range of each of `DTYPES`."""
        row = self._by_id.get(clip_id)
        if row is None or start_latent < 0 or start_latent + num_latents > row.num_latents:
            found = "no such clip" if row is None else f"window {start_latent}+{num_latents} of {row.num_latents} latent frames"
            raise InputError(self.path, clip_id, found, "a clip and window of the index", "see index.parquet for clips and lengths")
        frames = (CODEC_GRID.last_frame(start_latent), CODEC_GRID.num_frames(num_latents))
        places: list[tuple[int, int | None]] = [(start_latent, num_latents), (0, None), frames, frames]
        return self._shard(row.shard), [(f"{clip_id}/{name}", *place) for name, place in zip(DTYPES, places, strict=True)]

    def _shard(self, name: str) -> Shard:
        with self._lock:
            if name not in self._shards:
                self._shards[name] = Shard(f"{self.path}/{name}")
            return self._shards[name]
