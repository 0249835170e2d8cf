"""safetensors by byte range: headers and rows of tensors from a local file or any fsspec URI, without reading the rest."""

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from moworld.errors import InputError
from moworld.files import open_uri

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
FADVISE = hasattr(os, "posix_fadvise")  # not on macOS
HEADER_BYTES = 100 * 2**20  # safetensors' own limit


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: its dtype, shape and the bytes it takes, counted from the file's start."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start

    def rows(self, start: int = 0, count: int | None = None) -> tuple[list[int], torch.dtype, int]:
        """Shape, dtype and first byte of rows start to start + count of the first dim; of the whole where there is none, or no count."""
        if not self.shape:
            return [], self.dtype, self.start
        shape = [self.shape[0] - start if count is None else count, *self.shape[1:]]
        return shape, self.dtype, self.start + start * math.prod(self.shape[1:]) * self.dtype.itemsize


def read_header(stream: IO[Any], name: str) -> dict[str, Entry]:
    """The tensors of an open file by their names. `name` stands in errors.

    Raises InputError for what is no safetensors file, a dtype that is not known, and a file that ends before its tensors do.
    """
    try:
        stream.seek(0)
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > HEADER_BYTES:  # rubbish: reading that much would take the memory
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(stream.read(length))
        entries = {
            key: Entry(DTYPES[value["dtype"]], tuple(value["shape"]), *(8 + length + offset for offset in value["data_offsets"]))
            for key, value in header.items()
            if key != "__metadata__"
        }
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(name, "header", error, "a safetensors header", "fetch the file again") from None
    for key, entry in entries.items():
        if entry.nbytes != math.prod(entry.shape) * entry.dtype.itemsize:
            raise InputError(name, key, f"{entry.nbytes} bytes", f"those of {entry.shape} {entry.dtype}", "fetch the file again")
    end, size = max((entry.stop for entry in entries.values()), default=0), stream.seek(0, 2)
    if size < end:
        raise InputError(name, "size", f"{size} bytes", f"{end} bytes as its header says", "fetch the file again: it was cut short")
    return entries


def read_rows(stream: IO[Any], entry: Entry, start: int = 0, count: int | None = None) -> Tensor:
    """Rows start to start + count of a tensor's first dim (all of them, or a scalar, when nothing is said), in the file's dtype."""
    shape, dtype, first = entry.rows(start, count)
    wanted = math.prod(shape) * dtype.itemsize
    stream.seek(first)
    tensor = torch.empty(shape, dtype=dtype)
    view, done = _bytes(tensor), 0
    while done < wanted and (read := stream.readinto(view[done:])):  # type: ignore[attr-defined]
        done += read
    if done != wanted:
        raise InputError(getattr(stream, "name", "stream"), "size", f"{done} bytes", f"{wanted} bytes", "fetch the file again")
    return tensor


class Shard:
    """A safetensors file that is read often and in small parts: kept open on a local disk, ranges fetched together behind a URI.

    Raises InputError as `read_header` and `read_rows` do. Threads may share one.
    """

    def __init__(self, uri: str) -> None:
        import fsspec

        self.uri = uri
        with open_uri(uri) as stream:
            self.entries = read_header(stream, uri)
        self.system, self.path = fsspec.core.url_to_fs(uri)
        self.file = open(self.path, "rb", buffering=0) if "://" not in uri else None  # noqa: SIM115 kept open

    def rows(self, wanted: list[tuple[str, int, int | None]]) -> list[Tensor]:
        """Rows start to start + count of some tensors' first dims (all from start on for None), in the file's dtypes."""
        ranges = [self.entries[key].rows(start, count) for key, start, count in wanted]
        if self.file is not None:
            return [self._local(shape, dtype, start) for shape, dtype, start in ranges]
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype, _ in ranges]
        starts = [start for _, _, start in ranges]
        stops = [start + size for start, size in zip(starts, sizes, strict=True)]
        try:
            read = self.system.cat_ranges([self.path] * len(ranges), starts, stops, on_error="raise")
        except OSError as error:
            raise InputError(self.uri, "", f"{type(error).__name__}: {error}", "a readable shard", "restore the shard") from None
        return [self._made(bytearray(data), shape, dtype) for data, (shape, dtype, _) in zip(read, ranges, strict=True)]

    def expect(self, wanted: list[tuple[str, int, int | None]]) -> None:
        """Have the operating system fetch rows that `rows` will be asked for soon, without waiting for them; of a file kept open only."""
        if self.file is not None and FADVISE:
            for key, start, count in wanted:
                shape, dtype, first = self.entries[key].rows(start, count)
                os.posix_fadvise(self.file.fileno(), first, math.prod(shape) * dtype.itemsize, os.POSIX_FADV_WILLNEED)

    def _local(self, shape: list[int], dtype: torch.dtype, start: int) -> Tensor:
        assert self.file is not None
        tensor = torch.empty(shape, dtype=dtype)
        view = _bytes(tensor)
        if len(view) and (done := os.preadv(self.file.fileno(), [view], start)) != len(view):
            raise InputError(self.uri, "size", f"{done} bytes", f"{len(view)} bytes", "restore the shard: it was cut short")
        return tensor

    def _made(self, data: bytearray, shape: list[int], dtype: torch.dtype) -> Tensor:
        if len(data) != math.prod(shape) * dtype.itemsize:
            found, wanted = f"{len(data)} bytes", f"{math.prod(shape) * dtype.itemsize} bytes"
            raise InputError(self.uri, "size", found, wanted, "restore the shard: it was cut short")
        return torch.frombuffer(data, dtype=dtype).reshape(shape) if data else torch.empty(shape, dtype=dtype)


def write_tensors(path: Path, plan: Mapping[str, Entry], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write a safetensors file one tensor at a time, in the order of the plan, which says dtypes and shapes beforehand.

    Raises ValueError where the tensors are not those of the plan; the file is then not whole.
    """
    offset, header, coming = 0, {}, iter(tensors)
    for key, entry in plan.items():
        header[key] = {"dtype": NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": [offset, offset + entry.nbytes]}
        offset += entry.nbytes
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for wanted, entry in plan.items():
            key, tensor = next(coming, ("nothing", torch.empty(0)))
            if key != wanted or tuple(tensor.shape) != entry.shape or tensor.dtype != entry.dtype:
                raise ValueError(f"{wanted} {entry.shape} {entry.dtype} was planned, {key} {tuple(tensor.shape)} {tensor.dtype} came")
            stream.write(_bytes(tensor))


def _bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, sharing its memory where it is contiguous."""
    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data) if tensor.numel() else memoryview(bytearray())
