"""safetensors by byte range: headers and rows of tensors from a local file or any fsspec URI, without reading the rest."""

import json
import math
import struct
from dataclasses import dataclass
from typing import IO, Any

import torch
from torch import Tensor

from moworld.errors import InputError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
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
    if not entry.shape:
        shape, offset = [], 0
    else:
        shape = [entry.shape[0] - start if count is None else count, *entry.shape[1:]]
        offset = start * math.prod(entry.shape[1:]) * entry.dtype.itemsize
    wanted = math.prod(shape) * entry.dtype.itemsize
    stream.seek(entry.start + offset)
    data = bytearray(stream.read(wanted))
    if len(data) != wanted:
        raise InputError(getattr(stream, "name", "stream"), "size", f"{len(data)} bytes", f"{wanted} bytes", "fetch the file again")
    return torch.frombuffer(data, dtype=entry.dtype).reshape(shape) if wanted else torch.empty(shape, dtype=entry.dtype)
