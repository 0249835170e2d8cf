"""The exchange between a launcher and its ranks: a folder a job on the shared volume, with inputs, arguments.json, results and summary.json."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

from components.platform.cluster import Stopped
from moworld.files import read_json, write_json

LASTING = ("out", "checkpoints", "cache")  # written by ranks on the shared volume, where they outlive a pod


def stage_in(exchange: Path, arguments: dict[str, Any], stop: threading.Event | None = None) -> None:
    """Copy the folders among the arguments to the shared volume and write the rank's arguments.json with their places there.

    arguments.json comes last: where it stands with the same content, the inputs stand too, and ranks may be reading them.
    Raises Stopped between two files once `stop` is set: copies take minutes, a pod that is told to end has seconds.
    """

    def copy(source: str, target: str) -> None:
        if stop is not None and stop.is_set():
            raise Stopped
        shutil.copy2(source, target)

    moved = {}
    for key, value in arguments.items():
        if key not in LASTING and isinstance(value, str) and Path(value).is_dir():
            moved[key] = str(exchange / "in" / key)
        else:
            moved[key] = str(exchange / key) if key in LASTING else value
    listed = exchange / "arguments.json"
    (exchange / "summary.json").unlink(missing_ok=True)
    if listed.is_file() and read_json(listed) == json.loads(json.dumps(moved)):
        return
    for key, value in arguments.items():
        if moved[key] != value and key not in LASTING:
            shutil.copytree(value, moved[key], copy_function=copy, dirs_exist_ok=True)
    write_json(listed, moved)


def stage_out(exchanges: list[Path], out: Path) -> dict[str, Any]:
    """Bring the results of jobs side by side together in `out` (each writes its own expert's files); join their losses and summaries.

    The exchanges stay as they are: a launcher that dies here is followed by one that does it again.
    """
    summary: dict[str, Any] = {}
    losses: dict[str, Any] = {}
    for exchange in exchanges:
        if not (exchange / "summary.json").is_file():
            raise RuntimeError(f"{exchange}: the job is complete and left no summary.json; was its volume another one?")
        shutil.copytree(exchange / "out", out, dirs_exist_ok=True)
        if (exchange / "out" / "losses.json").is_file():
            losses |= read_json(exchange / "out" / "losses.json")
        summary.update(read_json(exchange / "summary.json"))
    if losses:
        write_json(out / "losses.json", losses)
    return summary
