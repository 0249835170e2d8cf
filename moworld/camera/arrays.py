"""Reads .npy and .npz files of cameras and depth from elsewhere: without pickles, and never more than they need, whatever a header says."""

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from moworld.errors import InputError
from moworld.files import Pathlike

Array = NDArray[np.float64]
MAX_CAMERAS = 1_000_000  # of a file: nine hours at 30 frames per second
MAX_ARRAY_BYTES = MAX_CAMERAS * 16 * 8 + 65_536  # a pose is 16 float64
LIMIT = f"at most {MAX_CAMERAS} cameras"


def load_array(path: Pathlike) -> Array:
    """Returns the array of a .npy file. Raises InputError for anything else."""
    with _naming_damage(path), open(path, "rb") as file:
        return _read_array(path, "", file, Path(path).stat().st_size)


def load_archive(
    path: Pathlike, names: tuple[str, ...], most_bytes: int = MAX_ARRAY_BYTES, limit: str = LIMIT
) -> tuple[list[Array], list[str]]:
    """Returns the arrays of these names of a .npz file, and the names of its other members, which are not unpacked.

    most_bytes: of each array, those of what `limit` says; a larger one is not unpacked
    Raises InputError for anything else.
    """
    with _naming_damage(path), zipfile.ZipFile(path) as archive:
        held = [name.removesuffix(".npy") for name in archive.namelist()]
        if missing := sorted(set(names) - set(held)):
            found = f"no such array, only {', '.join(sorted(held)) or 'none'}"
            raise _error(path, missing[0], found, f"arrays {' and '.join(names)}")
        arrays = []
        for name in names:
            member = archive.getinfo(f"{name}.npy")
            with archive.open(member) as file:
                arrays.append(_read_array(path, name, file, member.file_size, most_bytes, limit))
        return arrays, sorted(set(held) - set(names))


def _read_array(path: Pathlike, name: str, file: IO[bytes], size: int, most_bytes: int = MAX_ARRAY_BYTES, limit: str = LIMIT) -> Array:
    """Returns the array of a .npy stream of `size` bytes. Raises InputError if it is, or says that it is, larger than it can be."""
    if size > most_bytes:
        raise _error(path, name, f"{size} bytes", f"at most {most_bytes} bytes: those of {limit}")
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise _error(path, name, f"format {version[0]}.{version[1]}", "a numpy file of format 1.0 or 2.0")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.kind not in "iuf":
        raise _error(path, name, f"dtype {dtype}"[:80], "numbers, without pickles")
    if math.prod(shape) * dtype.itemsize > size:
        raise _error(path, name, f"shape {shape} in {size} bytes", "as many numbers as its header says")
    file.seek(0)
    return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


@contextmanager
def _naming_damage(path: Pathlike) -> Iterator[None]:
    """Converts what numpy and zipfile raise for a damaged file to an InputError."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, EOFError, SyntaxError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise _error(path, "", f"{type(error).__name__}: {error}"[:200], "a numpy file without pickles") from None


def _error(path: Pathlike, field: str, found: object, expected: str) -> InputError:
    return InputError(path, field, found, expected, "restore or correct the file")
