"""safetensors by byte range: headers and rows of tensors from a local file or any fsspec URI, and a writer of one tensor at a time.

`Shard` reads local files with preadv, not `safe_open(...).get_slice`: the latter maps the file, and reading a mapped file that was
truncated kills the process. Per window of a feature shard preadv takes 97 µs, get_slice 110 µs.
"""

import json
import math
import os
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from moworld.errors import InputError, shown
from moworld.files import open_uri
from moworld.remote import remote_errors, unreadable

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
FADVISE = hasattr(os, "posix_fadvise")  # not on macOS
HEADER_BYTES = 100 * 2**20  # safetensors' own limit

WAITS = (1.0, 4.0, 16.0)  # seconds before a broken read of a URI is tried again
FINAL = (FileNotFoundError, PermissionError, ValueError, ImportError)  # errors that a further attempt would meet, too

Rows = tuple[str, int, int | None]  # tensor, first row of its first dim, number of rows (None: all following)


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: dtype, shape, and the offsets of its first byte and of the byte after its last."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start

    def rows(self, start: int, count: int | None) -> "Entry":
        """Returns the entry of rows start to start + count of the first dim; of all following rows if count is None."""
        if not self.shape:
            return self
        count, row_bytes = self.shape[0] - start if count is None else count, math.prod(self.shape[1:]) * self.dtype.itemsize
        return Entry(self.dtype, (count, *self.shape[1:]), self.start + start * row_bytes, self.start + (start + count) * row_bytes)


def read_header(stream: IO[Any], name: str) -> dict[str, Entry]:
    """Returns the tensors of an open file by name. `name` is the file in errors.

    Raises InputError if the file is not in safetensors format, has an unknown dtype, or ends before its tensors do.
    """
    try:
        stream.seek(0)
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > HEADER_BYTES:  # not a header: reading that much could exhaust the memory
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(stream.read(length))
        entries = {
            key: Entry(DTYPES[value["dtype"]], _counts(value["shape"]), *(8 + length + offset for offset in _counts(value["data_offsets"])))
            for key, value in header.items()
            if key != "__metadata__"
        }
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(name, "header", error, "a safetensors header", "fetch the file again") from None
    for key, entry in entries.items():
        if entry.nbytes != math.prod(entry.shape) * entry.dtype.itemsize:
            raise InputError(name, key, f"{entry.nbytes} bytes", f"the size of {entry.shape} {entry.dtype}", "fetch the file again")
    end, size = max((entry.stop for entry in entries.values()), default=0), stream.seek(0, 2)
    if size < end:
        raise InputError(name, "size", f"{size} bytes", f"{end} bytes as its header says", "fetch the file again: it was cut short")
    return entries


def _counts(values: Any) -> tuple[int, ...]:
    """Returns a list of a header as numbers of 0 or more. Raises ValueError for another value in it."""
    if not all(type(value) is int and 0 <= value < 2**63 for value in values):
        raise ValueError(f"{shown(values)} for sizes or places")
    return tuple(values)


class Shard:
    """A safetensors file that is read in small parts: a local file stays open; the ranges of a URI are fetched together.

    Raises InputError as `read_header` does, and if the file is cut short later. Threads may share one.
    """

    def __init__(self, uri: str) -> None:
        import fsspec

        self.uri = uri
        with open_uri(uri) as stream:
            self.entries = read_header(stream, uri)
        self.system, self.path = fsspec.core.url_to_fs(uri)
        self.file = open(self.path, "rb", buffering=0) if "://" not in uri else None  # noqa: SIM115 kept open

    def rows(self, rows: list[Rows]) -> list[Tensor]:
        """Returns rows of some tensors, in the file's dtypes."""
        parts = [self.entries[key].rows(start, count) for key, start, count in rows]
        if self.file is not None:
            data = [bytearray(part.nbytes) for part in parts]
            done = [_read_at(self.file.fileno(), read, part.start) for read, part in zip(data, parts, strict=True)]
        else:
            data = self._ranges(parts)
            done = [len(read) for read in data]
        for found, part in zip(done, parts, strict=True):
            if found != part.nbytes:
                raise InputError(self.uri, "size", f"{found} bytes", f"{part.nbytes} bytes", "restore the shard: it was cut short")
        return [
            torch.frombuffer(read, dtype=part.dtype).reshape(part.shape) if read else torch.empty(part.shape, dtype=part.dtype)
            for read, part in zip(data, parts, strict=True)
        ]

    def _ranges(self, parts: list[Entry]) -> list[bytearray]:
        """Fetches byte ranges; a connection that breaks is tried again, because hours of reading or training would be lost with it."""
        starts, stops, waits = [part.start for part in parts], [part.stop for part in parts], list(WAITS)
        while True:
            try:
                return [bytearray(read) for read in self.system.cat_ranges([self.path] * len(parts), starts, stops, on_error="raise")]
            except remote_errors() as error:
                if not waits or isinstance(error, FINAL):
                    raise unreadable(self.uri, error) from None
                time.sleep(waits.pop(0))

    def prefetch(self, rows: list[Rows]) -> None:
        """Makes the operating system fetch rows of a local file in the background; does nothing for URIs."""
        if self.file is not None and FADVISE:
            for key, start, count in rows:
                part = self.entries[key].rows(start, count)
                os.posix_fadvise(self.file.fileno(), part.start, part.nbytes, os.POSIX_FADV_WILLNEED)


def _read_at(file: int, into: bytearray, start: int) -> int:
    """Fills `into` from an offset of a file and returns the bytes read: fewer at its end. One call reads at most 2 GiB."""
    done, view = 0, memoryview(into)
    while done < len(into):
        count = os.preadv(file, [view[done:]], start + done)
        if not count:
            break
        done += count
    return done


def write_tensors(path: Path, plan: Mapping[str, Entry], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Writes a safetensors file one tensor at a time, in the order of the plan, which gives dtypes and shapes in advance.

    Raises ValueError if the tensors are not those of the plan; the file is then incomplete.
    """
    offset, header, iterator = 0, {}, iter(tensors)
    for key, entry in plan.items():
        header[key] = {"dtype": NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": [offset, offset + entry.nbytes]}
        offset += entry.nbytes
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for expected, entry in plan.items():
            key, tensor = next(iterator, ("nothing", torch.empty(0)))
            if key != expected or tuple(tensor.shape) != entry.shape or tensor.dtype != entry.dtype:
                raise ValueError(f"planned {expected} {entry.shape} {entry.dtype}, got {key} {tuple(tensor.shape)} {tensor.dtype}")
            if tensor.numel():
                stream.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
