"""Files and folders: opening by path or URI, SHA-256, JSON, and atomic writing."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO, Any

from moworld.disk import naming_full_disk
from moworld.documents import parse_json, parse_json_object
from moworld.errors import InputError
from moworld.remote import remote_errors, unreadable

Pathlike = str | os.PathLike[str]
HASHES = "sha256.json"  # in a folder: the SHA-256 of its large files, by name


def sha256_file(path: Pathlike) -> str:
    """Returns the hex SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_tree(folder: Pathlike, known: Mapping[str, str] | None = None) -> str:
    """Returns the hex SHA-256 of the sorted (relative name, file hash) pairs of a folder: equal folders have equal hashes.

    known: hashes of files by relative name, which are then not read
    """
    names = [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()]
    return sha256_of_hashes({name: (known or {}).get(name) or sha256_file(Path(folder, name)) for name in names})


def sha256_of_hashes(hashes: Mapping[str, str]) -> str:
    """Returns `sha256_tree` of a folder from the SHA-256 of each of its files, by relative name."""
    digest = hashlib.sha256()
    for name in sorted(hashes, key=PurePosixPath):
        digest.update(f"{name}\0{hashes[name]}\n".encode())
    return digest.hexdigest()


def content_hash(folder: Pathlike) -> str:
    """Returns `sha256_tree` of a folder, without reading the files whose hashes its writer left in HASHES (shards of features).

    It identifies inputs; it does not detect a file that was changed afterwards, which `sha256_tree` does.
    """
    known = read_json_object(Path(folder) / HASHES) if (Path(folder) / HASHES).is_file() else {}
    return sha256_tree(folder, known)


def _temporary(path: Pathlike) -> tuple[Path, Path]:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target, target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")  # a pid is not unique on a volume that pods share


@contextmanager
def atomic_write(path: Pathlike, mode: str = "wb") -> Iterator[IO[Any]]:
    """Opens a temporary file next to `path`; renames it to `path` on success and removes it on failure."""
    target, temporary = _temporary(path)
    try:
        with naming_full_disk(target), open(temporary, mode) as stream:
            yield stream
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Pathlike) -> Iterator[Path]:
    """Makes a temporary folder next to `path`; it replaces `path` on success and is removed on failure."""
    target, temporary = _temporary(path)
    temporary.mkdir()
    try:
        with naming_full_disk(target):
            yield temporary
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def output_directory(path: Pathlike, mark: str = "", written: tuple[str, ...] = ()) -> Path:
    """Returns the absolute path of a directory that a command may replace: missing, empty, or a former output of the same command.

    mark:    a file that the command always writes; "" if a former output cannot be recognised
    written: the other names that the command writes, as patterns
    Raises InputError for a file, for a directory without the mark or with a name that the command does not write, and for a path
    that cannot be written.
    """
    folder = _writable(path)
    fix = "choose another directory"
    if folder.exists() and not folder.is_dir():
        raise InputError("--out", path, "a file", "a new or empty directory", fix)
    names = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    others = [name for name in names if not any(fnmatch(name, pattern) for pattern in (mark, *written))]
    if others or (names and mark not in names):
        raise InputError("--out", path, "a directory with other files", "a new or empty directory", fix)
    return folder


def output_file(path: Pathlike, option: str = "--out") -> Path:
    """Returns the absolute path of a file that a command may write or replace.

    Raises InputError for a directory or a device, and for a path that cannot be written.
    """
    file = _writable(path, option)
    if file.exists() and not file.is_file():
        found = "a directory" if file.is_dir() else "no regular file"
        raise InputError(option, path, found, "a new or a regular file", "name a file")
    return file


def _writable(path: Pathlike, option: str = "--out") -> Path:
    """Returns the absolute path. Raises InputError unless it, or its nearest existing parent, is in a directory that can be written."""
    target = Path(path).resolve()
    parent = next(parent for parent in target.parents if parent.exists())
    if not parent.is_dir():
        raise InputError(option, path, f"the file {parent}", "a path whose parents are directories", "choose another path")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(option, path, f"no permission to write in {parent}", "a path that can be written", "choose another path")
    return target


VIDEO_SUFFIXES = (".mp4", ".webm", ".gif")  # that `moworld.video.writing` writes; here, because commands ask for them without a video
SHIPPED_MODEL = Path(__file__).parent.parent / "models" / "pocket-long"  # in a clone; the wheel has no model


def shipped_path(path: str) -> str:
    """Returns a relative path that does not exist here as the one beside the package, if a clone or an image has it there."""
    beside = Path(__file__).parent.parent / path
    return str(beside) if path and "://" not in path and not Path(path).exists() and beside.exists() else path


def link_or_copy(source: Pathlike, target: Pathlike) -> None:
    """Hard-links `source` to `target`, or copies it if the file system cannot link the two."""
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def read_json(path: Pathlike) -> Any:
    """Reads a JSON file. Raises InputError if it is missing or not JSON."""
    return parse_json(_bytes(path), path)


def read_json_object(path: Pathlike) -> dict[str, Any]:
    """Reads a JSON file that holds an object. Raises InputError if it is missing, not JSON or holds another type."""
    return parse_json_object(_bytes(path), path)


def _bytes(path: Pathlike) -> bytes:
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise InputError(path, "", "no such file", "a JSON file", "check the path") from None


def write_json(path: Pathlike, value: Any) -> None:
    """Writes JSON with sorted keys, atomically."""
    with atomic_write(path, "w") as stream:
        json.dump(value, stream, indent=1, sort_keys=True)
        stream.write("\n")


def read_parquet(source: Pathlike | IO[Any], columns: list[str] | None = None) -> Any:
    """Returns a Parquet file, or some of its columns, as a pyarrow Table. Raises what pyarrow raises.

    It uses none of Arrow's threads (`parquet.read_table` starts some, whatever its arguments say): such a thread that still holds a
    Python file when the process ends aborts it (apache/arrow#34314, #50482).
    """
    import pyarrow
    from pyarrow import parquet

    native = source if isinstance(source, str | os.PathLike) else pyarrow.BufferReader(source.read())
    with parquet.ParquetFile(native, pre_buffer=False) as file:
        return file.read(columns, use_threads=False)


def open_uri(uri: str, mode: str = "rb") -> IO[Any]:
    """Opens a local path or any fsspec URI. Raises InputError if it cannot be opened."""
    import fsspec

    try:
        return fsspec.open(uri, mode).open()  # type: ignore[no-any-return]
    except remote_errors() as error:
        raise unreadable(uri, error) from None
