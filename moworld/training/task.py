"""Identity of a training: its settings and the content of its inputs. Checkpoints and results belong to one identity."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld.files import Pathlike, content_hash

Task = dict[str, Any]  # settings by name, and "inputs": {name: SHA-256 of the content}


def task_of(settings: dict[str, Any], **inputs: Pathlike | Callable[[], str] | None) -> Task:
    """Returns the identity of a training from JSON-able settings and its inputs: folders, functions that return a hash, None if absent."""
    given = {name: value for name, value in inputs.items() if value is not None}
    return {**settings, "inputs": {name: value() if callable(value) else content_hash(value) for name, value in given.items()}}


def is_same(found: Task, task: Task, path: Path) -> bool:
    """Returns whether what a training left at `path` belongs to `task`; other settings give False.

    Raises InputError if the settings are equal and an input's content differs: continuing would mix two models, and a fresh start would
    lose the steps done.
    """
    if {**found, "inputs": None} != {**task, "inputs": None}:
        return False
    before, now = found.get("inputs") or {}, task.get("inputs") or {}
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            had, has = (f"SHA-256 {value[:12]}" if value else "none" for value in (before.get(name), now.get(name)))
            fix = f"give the former {name} again, or delete {path.parent} to train this step again"
            raise InputError(path, f"inputs.{name}", f"{had}, which it was trained with", f"{has}, the {name} of now", fix)
    return True
