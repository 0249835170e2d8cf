"""The feature cache (paper 3.4.1): latents, text embeddings and cameras of clips in safetensors shards, with an index beside them.

A window of latent frames is one byte range of a shard, read without the rest, from a local disk or any fsspec URI.
"""

import json
import struct
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moworld.errors import InputError
from moworld.files import Pathlike, atomic_write, open_uri

DTYPES = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
SHARD_BYTES = 256 * 2**20
HEADER_BYTES = 100 * 2**20  # safetensors' own limit


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

    def add(self, row: dict[str, Any], latents: Tensor, text: Tensor, c2w: np.ndarray, intrinsics: np.ndarray) -> None:
        """latents (C, F, h, w), text (L, D), c2w (T, 4, 4) relative to the first frame in model units, intrinsics (T, 4); T = 4 (F - 1) + 1."""
        if len(c2w) != 4 * (latents.shape[1] - 1) + 1 or len(intrinsics) != len(c2w):
            raise ValueError(f"{latents.shape[1]} latent frames do not go with {len(c2w)} poses and {len(intrinsics)} intrinsics")
        name = row["clip_id"]
        self.pending[f"{name}/latents"] = latents.transpose(0, 1).half().contiguous()  # frames outermost: a window is a byte range
        self.pending[f"{name}/text"] = text.half().contiguous()
        # copies: arrays of Cameras are read-only
        self.pending[f"{name}/c2w"] = torch.tensor(c2w, dtype=torch.float32)
        self.pending[f"{name}/intrinsics"] = torch.tensor(intrinsics, dtype=torch.float32)
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
        self._headers: dict[str, tuple[int, dict[str, Any]]] = {}

    def of_split(self, split: str) -> list[FeatureRow]:
        return [row for row in self.clips if row.split == split]

    def read_window(self, clip_id: str, start_latent: int, num_latents: int) -> dict[str, Tensor]:
        """A window of latent frames: latents (C, n, h, w), text (L, D), c2w (T, 4, 4) and intrinsics (T, 4), all float32.

        T = 4 (n - 1) + 1 video frames from frame 4 * start_latent on; poses are relative to the clip's first frame, in model units.
        """
        row = self._by_id.get(clip_id)
        if row is None or start_latent < 0 or start_latent + num_latents > row.num_latents:
            found = "no such clip" if row is None else f"window {start_latent}+{num_latents} of {row.num_latents} latent frames"
            raise InputError(self.path, clip_id, found, "a clip and window of the index", "read the index for what is there")
        frames = (4 * start_latent, 4 * (num_latents - 1) + 1)
        with open_uri(f"{self.path}/{row.shard}") as stream:
            return {
                "latents": self._rows(stream, row, "latents", start_latent, num_latents).transpose(0, 1),
                "text": self._rows(stream, row, "text"),
                "c2w": self._rows(stream, row, "c2w", *frames),
                "intrinsics": self._rows(stream, row, "intrinsics", *frames),
            }

    def _rows(self, stream: Any, row: FeatureRow, name: str, start: int = 0, count: int | None = None) -> Tensor:
        """Rows start to start + count of a tensor's first dim, by byte range."""
        base, header = self._header(stream, row.shard)
        entry = header[f"{row.clip_id}/{name}"]
        dtype, shape = DTYPES[entry["dtype"]], list(entry["shape"])
        shape[0] = shape[0] - start if count is None else count
        row_bytes = dtype.itemsize * int(np.prod(shape[1:]))
        stream.seek(base + entry["data_offsets"][0] + start * row_bytes)
        data = stream.read(shape[0] * row_bytes)
        if len(data) != shape[0] * row_bytes:
            raise InputError(
                f"{self.path}/{row.shard}", name, f"{len(data)} bytes", f"{shape[0] * row_bytes} bytes", "fetch the shard again"
            )
        return torch.from_numpy(np.frombuffer(data, dtype).reshape(shape).astype(np.float32))

    def _header(self, stream: Any, shard: str) -> tuple[int, dict[str, Any]]:
        if shard not in self._headers:
            try:
                (length,) = struct.unpack("<Q", stream.read(8))
                if length > HEADER_BYTES:  # rubbish: reading that much would take the memory
                    raise ValueError(f"a header of {length} bytes")
                self._headers[shard] = (8 + length, json.loads(stream.read(length)))
            except (struct.error, ValueError) as error:
                raise InputError(f"{self.path}/{shard}", "header", error, "a safetensors header", "fetch the shard again") from None
        return self._headers[shard]
