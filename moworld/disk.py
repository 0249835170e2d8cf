"""Full disks: whether an error means one, however a library words it, and which directory is full."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
# PyTorch's writer says only that fewer bytes are in a file than were written: "unexpected pos 704 vs 598"
WORDS = re.compile(r"no space left on device|os error (28|122)\b|disk quota exceeded|database or disk is full|unexpected pos \d+ vs \d+", re.I)


def is_disk_full(error: BaseException | None) -> bool:
    """Returns True if the error or one of its causes is 'no space left' or 'quota exceeded'; safetensors, SQLite and PyTorch have no errno for it."""
    return any(_means_full(one) for one in _chain(error))


@contextmanager
def naming_full_disk(target: str | os.PathLike[str]) -> Iterator[None]:
    """Turns an error that means a full disk into an OSError that names `target`, if it names no file itself."""
    try:
        yield
    except Exception as error:
        if _means_full(error) and not _named(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(target)) from error
        raise


def full_directory(error: BaseException, places: Iterable[str | os.PathLike[str]] = ()) -> tuple[Path, int]:
    """Returns the directory that a full-disk error is about, and its free bytes.

    Of the files that the error and its causes name, the one whose disk has least free space decides: a failed copy names its source, too.
    If none is named, the fullest of `places`, the temporary directory and the working directory does.
    """
    named = [name for one in _chain(error) if _means_full(one) for name in _named(one)]
    found = [_existing(Path(name)) for name in named or [*(os.fspath(place) for place in places), tempfile.gettempdir(), os.getcwd()]]
    free = {folder: shutil.disk_usage(folder).free for folder in found}
    fullest = min(found, key=lambda folder: free[folder])  # the first of several on one disk
    return fullest, free[fullest]


def _named(error: BaseException) -> list[str]:
    if not isinstance(error, OSError):
        return []
    return [os.fsdecode(name) for name in (error.filename2, error.filename) if isinstance(name, str | bytes)]


def _means_full(error: BaseException) -> bool:
    return (isinstance(error, OSError) and error.errno in FULL) or bool(WORDS.search(str(error)))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _existing(path: Path) -> Path:
    """Returns the directory of a path, or its nearest parent that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
