"""Where state lives: `.moworld/` in the working directory, or the folder that MOWORLD_HOME names."""

import os
from pathlib import Path

from moworld.errors import InputError


def home() -> Path:
    """The state folder, absolute; it need not exist yet."""
    return Path(os.environ.get("MOWORLD_HOME") or ".moworld").absolute()


def checkpoint_folder() -> str | None:
    """Where the step that runs keeps its checkpoints: with its run, so that a resumed run finds them. None outside a run."""
    run, step = os.environ.get("MOWORLD_RUN_FOLDER"), os.environ.get("MOWORLD_STEP")
    return str(Path(run, "checkpoints", step)) if run and step else None


def writable_home() -> Path:
    """The state folder, made if missing. Raises InputError when it cannot be written."""
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test.{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise InputError(folder, "", error.strerror or str(error), "a folder that can be written", "set MOWORLD_HOME to one") from None
    return folder
