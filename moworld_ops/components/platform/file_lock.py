"""A lock of a file between processes and threads, for a registry in SQLite, whose own lock would keep MLflow from writing."""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moworld.errors import InputError


def busy(where: str, seconds: float) -> InputError:
    """Returns the error for a lock that another command holds for longer than `seconds`."""
    return InputError(where, "lock", f"held by another command for {seconds} s", "a free lock", "wait for it, or end it")


@contextmanager
def file_locked(path: Path, where: str, seconds: float) -> Iterator[None]:
    """Holds a lock on a file, which is made if missing. Raises InputError if one holder keeps it for `seconds`; while holders change, the wait goes on.

    A file that was removed or replaced while this process waited is opened again: others would lock the new one.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    holder, since = "", time.monotonic()
    while True:
        with open(path, "a+", encoding="utf-8", errors="replace") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.seek(0)
                if (now := stream.read()) != holder:
                    holder, since = now, time.monotonic()
                if time.monotonic() - since > seconds:
                    raise busy(where, seconds) from None
                time.sleep(0.01)
                continue
            except OSError as error:
                fix = "keep the registry on a local disk, or in PostgreSQL"
                raise InputError(where, "lock", error.strerror or str(error), "a file system with locks", fix) from None
            if not _is_at(path, stream.fileno()):
                continue
            stream.truncate(0)
            stream.write(uuid.uuid4().hex)
            stream.flush()
            yield
            return


def _is_at(path: Path, descriptor: int) -> bool:
    """Returns True if an open file is still the one at its path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
