"""Exchange between a launcher and its ranks: one folder per job on the shared volume.

It has arguments.json, the results and summary.json, or refused.json if a rank rejected its input. Inputs that are on the volume already, as
all of the store are (store.py), stay where they are; others are copied into it.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld.files import read_json, write_json
from moworld_ops.components.platform.store import copy_tree

PERSISTENT = ("out", "checkpoints")  # ranks write these in the exchange folder, which outlives a pod
SUMMARY, REFUSED = "summary.json", "refused.json"
CACHE = "cache"  # on the shared volume too, but outside the exchange folder, so that it outlives a run


def stage_in(exchange: Path, arguments: dict[str, Any]) -> None:
    """Copies the folders among the arguments that are not on the shared volume to it, and writes arguments.json with all paths there.

    exchange: the job's folder, directly on the shared volume. A cache that is on the volume already, as in the state folder of a
              cluster, keeps its path; another one becomes VOLUME/encoded.
    arguments.json is written last. If it exists with equal content, the inputs are complete and are not copied again: ranks may be
    reading them.
    """
    fixed, volume = (*PERSISTENT, CACHE), exchange.parent
    folders = [key for key, value in arguments.items() if key not in fixed and isinstance(value, str) and Path(value).is_dir()]
    inputs = [key for key in folders if not Path(arguments[key]).is_relative_to(volume)]
    paths = {key: str(exchange / key) for key in PERSISTENT if key in arguments} | {key: str(exchange / "in" / key) for key in inputs}
    if (cache := arguments.get(CACHE)) and not Path(cache).is_relative_to(volume):
        paths[CACHE] = str(volume / "encoded")
    moved = arguments | paths
    listed = exchange / "arguments.json"
    for name in (SUMMARY, REFUSED):
        (exchange / name).unlink(missing_ok=True)
    if listed.is_file() and read_json(listed) == json.loads(json.dumps(moved)):
        return
    for key in inputs:
        shutil.copytree(arguments[key], moved[key], dirs_exist_ok=True)
    write_json(listed, moved)


def refusal(exchanges: list[Path]) -> InputError | None:
    """Returns the InputError of a rank of these jobs, or None."""
    found = [exchange / REFUSED for exchange in exchanges if (exchange / REFUSED).is_file()]
    return InputError(*read_json(found[0])) if found else None


def stage_out(exchanges: list[Path], out: Path) -> dict[str, Any]:
    """Puts the results of parallel jobs into `out` (each job writes its own expert) and returns their joined summaries.

    On one file system they are hard links. The exchanges stay unchanged, so a restarted launcher can repeat this. Raises RuntimeError for a job without a summary.
    """
    summary: dict[str, Any] = {}
    losses: dict[str, Any] = {}
    for exchange in exchanges:
        if not (exchange / SUMMARY).is_file():
            raise RuntimeError(f"{exchange}: the job is complete but left no summary.json; check that it used the same volume")
        copy_tree(exchange / "out", out)
        if (exchange / "out" / "losses.json").is_file():
            losses |= read_json(exchange / "out" / "losses.json")
        summary |= read_json(exchange / SUMMARY)
    if losses:
        write_json(out / "losses.json", losses)
    return summary
