"""Files: opening by path or URI, SHA-256, and writing so that a reader never sees a half-written file or folder."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from moworld.errors import InputError

Pathlike = str | os.PathLike[str]


def sha256_file(path: Pathlike) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_tree(folder: Pathlike) -> str:
    """Hex SHA-256 over the sorted (relative name, file hash) pairs of a folder: equal folders have equal hashes."""
    digest = hashlib.sha256()
    for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


@contextmanager
def atomic_write(path: Pathlike, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on success it takes the name `path`, on failure it is removed."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode) as stream:
            yield stream
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Pathlike) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success it replaces `path`, on failure it is removed."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def link_or_copy(source: Pathlike, target: Pathlike) -> None:
    """Hard-link `source` to `target`, or copy it where the file system has no links between the two."""
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def read_json(path: Pathlike) -> Any:
    """Parse a JSON file. Raises InputError when it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise InputError(path, "", "no such file", "a JSON file", "check the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(path, "", f"text that is not JSON ({error})", "a JSON file", "write it again with the step that made it") from None


def write_json(path: Pathlike, value: Any) -> None:
    """Write JSON with sorted keys, atomically."""
    with atomic_write(path, "w") as stream:
        json.dump(value, stream, indent=1, sort_keys=True)
        stream.write("\n")


def open_uri(uri: str, mode: str = "rb") -> IO[Any]:
    """Open a local path or any fsspec URI. Raises InputError when it cannot be opened."""
    import fsspec

    try:
        return fsspec.open(uri, mode).open()  # type: ignore[no-any-return]
    except (OSError, ValueError, ImportError) as error:
        raise InputError(uri, "", f"{type(error).__name__}: {error}", "a readable file", "check the path or the URI's protocol") from None
