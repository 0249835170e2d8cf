"""The feature cache (paper 3.4.1): latents, text embeddings and cameras of clips in safetensors shards, with an index beside them.

A window of latent frames is one byte range of a shard, read without the rest, from a local disk or any fsspec URI.
"""

import threading
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor

from moworld.errors import InputError
from moworld.files import Pathlike, atomic_write, open_uri
from moworld.tensors import FADVISE, Shard

LICENCES = "licences.json"  # beside the index: a sorted list of the licences of the clips
PARTS = ("latents", "text", "c2w", "intrinsics")
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
        return (self.num_frames - 1) // 4 + 1


class FeatureWriter:
    """Collects clips and writes shards of about `shard_bytes`, then the index. The folder belongs to the caller (see atomic_folder)."""

    def __init__(self, folder: Pathlike, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.shard_bytes = str(folder), shard_bytes
        self.rows: list[FeatureRow] = []
        self.pending: dict[str, Tensor] = {}
        self.shards = 0

    def add(self, row: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """tensors: latents (C, F, h, w), text (L, D), c2w (T, 4, 4) relative to the first frame in model units, intrinsics (T, 4); T = 4 (F - 1) + 1."""
        latents, frames = tensors["latents"], len(tensors["c2w"])
        if frames != 4 * (latents.shape[1] - 1) + 1 or len(tensors["intrinsics"]) != frames:
            found = f"{frames} poses and {len(tensors['intrinsics'])} intrinsics"
            raise ValueError(f"{latents.shape[1]} latent frames do not go with {found}")
        name = row["clip_id"]
        self.pending[f"{name}/latents"] = latents.transpose(0, 1).half().contiguous()  # frames outermost: a window is a byte range
        self.pending[f"{name}/text"] = tensors["text"].half().contiguous()
        self.pending |= {f"{name}/{part}": tensors[part].float().contiguous() for part in ("c2w", "intrinsics")}
        self.rows.append(FeatureRow(**row, shard=f"shard-{self.shards:05d}.safetensors"))
        if sum(tensor.nbytes for tensor in self.pending.values()) >= self.shard_bytes:
            self._flush()

    def close(self) -> None:
        """Write the last shard and index.parquet."""
        import pyarrow
        import pyarrow.parquet

        self._flush()
        table = pyarrow.Table.from_pylist([asdict(row) for row in self.rows])
        with atomic_write(f"{self.folder}/index.parquet") as stream:
            pyarrow.parquet.write_table(table, stream)

    def _flush(self) -> None:
        from safetensors.torch import save_file

        if self.pending:
            save_file(self.pending, f"{self.folder}/shard-{self.shards:05d}.safetensors")
            self.shards, self.pending = self.shards + 1, {}


class FeatureStore:
    """Reads a feature folder, local or an fsspec URI. Raises InputError when it has no index or a shard is damaged."""

    def __init__(self, path: Pathlike) -> None:
        import pyarrow
        import pyarrow.parquet

        self.path = str(path).rstrip("/")
        index = f"{self.path}/index.parquet"
        with open_uri(index) as stream:
            try:
                rows = pyarrow.parquet.read_table(stream).to_pylist()
            except pyarrow.ArrowInvalid as error:
                raise InputError(index, "", error, "a Parquet file", "write it again with cache_features") from None
        names = {field.name for field in fields(FeatureRow)}
        if not rows or set(rows[0]) != names:
            found = "no rows" if not rows else f"columns {sorted(rows[0])}"
            raise InputError(index, "columns", found, f"{sorted(names)}", "write it again with cache_features")
        self.clips = [FeatureRow(**row) for row in rows]
        self._by_id = {row.clip_id: row for row in self.clips}
        self._shards: dict[str, Shard] = {}
        self._lock = threading.Lock()

    def of_split(self, split: str) -> list[FeatureRow]:
        return [row for row in self.clips if row.split == split]

    def read_window(self, clip_id: str, start_latent: int, num_latents: int) -> dict[str, Tensor]:
        """A window of latent frames: latents (C, n, h, w), text (L, D), c2w (T, 4, 4) and intrinsics (T, 4), all float32.

        T = 4 (n - 1) + 1 video frames from frame 4 * start_latent on; poses are relative to the clip's first frame, in model units.
        Four byte ranges are read and nothing else. Safe to call from several threads.
        """
        shard, wanted = self._ranges(clip_id, start_latent, num_latents)
        window = {name: tensor.float() for name, tensor in zip(PARTS, shard.rows(wanted), strict=True)}
        return {**window, "latents": window["latents"].transpose(0, 1)}

    def expect_window(self, clip_id: str, start_latent: int, num_latents: int) -> None:
        """Have the operating system fetch a window that will be read soon, without waiting for it. Does nothing where `reads_ahead` is false."""
        shard, wanted = self._ranges(clip_id, start_latent, num_latents)
        shard.expect(wanted)

    @property
    def reads_ahead(self) -> bool:
        """Whether the operating system fetches what is expected: of a local folder, on Linux."""
        return FADVISE and "://" not in self.path

    def _ranges(self, clip_id: str, start_latent: int, num_latents: int) -> tuple[Shard, list[tuple[str, int, int | None]]]:
        """The shard of a window and its rows of each of PARTS."""
        row = self._by_id.get(clip_id)
        if row is None or start_latent < 0 or start_latent + num_latents > row.num_latents:
            found = "no such clip" if row is None else f"window {start_latent}+{num_latents} of {row.num_latents} latent frames"
            raise InputError(self.path, clip_id, found, "a clip and window of the index", "read the index for what is there")
        frames = (4 * start_latent, 4 * (num_latents - 1) + 1)
        places: list[tuple[int, int | None]] = [(start_latent, num_latents), (0, None), frames, frames]
        return self._shard(row.shard), [(f"{clip_id}/{name}", *place) for name, place in zip(PARTS, places, strict=True)]

    def _shard(self, name: str) -> Shard:
        with self._lock:
            if name not in self._shards:
                self._shards[name] = Shard(f"{self.path}/{name}")
            return self._shards[name]
