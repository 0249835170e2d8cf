"""Removes what runs that are gone left on the shared volume: exchange folders with checkpoints, entries of the store, counts of attempts.

`python -m moworld_ops.components.platform.leftovers VOLUME DAYS STORE_DAYS` removes the exchange folders whose run has no Workflow that
still works, and that nobody has written to for DAYS: until then the run may be resumed from its checkpoints. An entry of the store
(store.py) goes when all runs that wrote or read it are over and none did so for STORE_DAYS. What was put under DVC or registered as a
model is a copy elsewhere. Counts are removed as soon as their run is over, because a resumed run counts from the start.
"""

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from moworld_ops.components.platform import store
from moworld_ops.components.platform.attempts import FOLDER
from moworld_ops.components.platform.cluster import connect, namespace
from moworld_ops.components.platform.workflows import run_is_over

MARK = "run"  # file of an exchange folder with the id of its run


def mark(exchange: Path, run: str) -> None:
    """Creates a job's exchange folder and notes the run in it."""
    exchange.mkdir(parents=True, exist_ok=True)
    (exchange / MARK).write_text(run, encoding="utf-8")


def remove_leftovers(volume: Path, is_over: Callable[[str], bool], keep_seconds: float) -> list[str]:
    """Removes the exchange folders of runs that are over, unchanged for `keep_seconds`; returns their names.

    is_over: returns True if the run with this id has ended or does not exist
    """
    now, removed = time.time(), []
    for path in sorted(volume.glob(f"*/{MARK}")):
        folder = path.parent
        if now - _changed(folder) >= keep_seconds and is_over(path.read_text(encoding="utf-8").strip()):
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder.name)
    return removed


def remove_counts(volume: Path, is_over: Callable[[str], bool]) -> list[str]:
    """Removes the counts of attempts of runs that are over, in the state folders on a volume; returns the ids of the runs."""
    removed = []
    for folder in sorted(path for path in volume.glob(f"*/{FOLDER}/*") if path.is_dir()):
        if is_over(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder.name)
    return removed


def remove_stored(volume: Path, is_over: Callable[[str], bool], keep_seconds: float) -> list[str]:
    """Removes the entries of the stores in the state folders on a volume that no run has used for `keep_seconds`; returns their hashes.

    Outputs of steps that were killed are removed as late: those of a working step are younger.
    """
    now, removed = time.time(), []
    for root in volume.glob(f"*/{store.FOLDER}"):
        for users in sorted((root / store.RUNS).glob("*")):
            if now - _changed(users) >= keep_seconds and all(is_over(path.name) for path in users.iterdir()):
                store.remove(root, users.name)
                removed.append(users.name)
        for folder in (root / store.INCOMING).glob("*"):
            if now - _changed(folder) >= keep_seconds:
                shutil.rmtree(folder, ignore_errors=True)
    return removed


def _changed(folder: Path) -> float:
    """Returns when a folder or anything in it was last written."""
    return max((path.lstat().st_mtime for path in (folder, *folder.rglob("*"))), default=0.0)


def main(argv: list[str]) -> int:
    """Removes what is left on a volume; prints the names."""
    volume, days, store_days = argv
    api, space = connect(), namespace()

    def is_over(run: str) -> bool:
        return run_is_over(api, space, run)

    for name in remove_leftovers(Path(volume), is_over, float(days) * 86400):
        print(f"removed {volume}/{name}: its run is over", flush=True)
    for digest in remove_stored(Path(volume), is_over, float(store_days) * 86400):
        print(f"removed {digest} of the store: no run has used it for {store_days} days", flush=True)
    for run in remove_counts(Path(volume), is_over):
        print(f"removed the counts of attempts of run {run}: it is over", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
