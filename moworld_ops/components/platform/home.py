"""The state folder (MOWORLD_HOME, default `.moworld/` in the working directory), and temporary environment variables."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moworld.errors import InputError


def home() -> Path:
    """Returns the absolute path of the state folder, which may not exist yet."""
    return Path(os.environ.get("MOWORLD_HOME") or ".moworld").absolute()


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Sets environment variables, which child processes inherit, and restores the previous ones at the end."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


def writable_home() -> Path:
    """Returns the state folder, created if missing. Raises InputError if it is not writable."""
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test.{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise InputError(folder, "", error.strerror or str(error), "a writable folder", "set MOWORLD_HOME to one") from None
    return folder
