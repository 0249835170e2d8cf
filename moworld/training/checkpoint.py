"""Training checkpoints: torch.distributed.checkpoint writes them while training continues; any number of ranks can load them.

A checkpoint is written under a temporary name and renamed when all ranks have finished, so an incomplete one is never loaded.
"""

import logging
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

from moworld.files import Pathlike, read_json, write_json
from moworld.training.task import Task, is_same

log = logging.getLogger("moworld.training")
KEEP = 2  # complete checkpoints of a task in a folder


class Checkpoints:
    """The checkpoints of one training in a folder; the newest KEEP are kept.

    every: steps between two checkpoints; 0 writes none
    task:  identity of the training (see `task_of`); checkpoints of other settings are ignored
    first: whether this rank creates, renames and deletes folders; exactly one rank must
    """

    def __init__(self, folder: Pathlike, every: int, task: Task, first: bool = True) -> None:
        self.folder, self.every, self.task, self.first = Path(folder), every, task, first
        self._writing: Any = None
        self._group: Any = None
        if first and every:
            self.folder.mkdir(parents=True, exist_ok=True)
            for incomplete in self.folder.glob("*.tmp"):
                shutil.rmtree(incomplete)

    def is_due(self, step: int, steps: int) -> bool:
        """Returns whether to save after `step` of `steps` steps; the last step is not saved, because the finished model is."""
        return bool(self.every) and step % self.every == 0 and step < steps

    def latest(self) -> tuple[int, Path] | None:
        """Returns step and folder of the newest checkpoint of this task, or None.

        Raises InputError if it was trained from other inputs (see `is_same`).
        """
        for path in reversed(self._complete()):
            if is_same(read_json(path / "task.json"), self.task, path):
                return int(path.name.removeprefix("step-")), path
            log.warning("%s is a checkpoint of a different task: ignored", path)
        return None

    @staticmethod
    def size_of(path: Path, key: str) -> int:
        """Returns the number of elements of the tensor `key` in a checkpoint."""
        from torch.distributed.checkpoint import FileSystemReader

        entry: Any = FileSystemReader(str(path)).read_metadata().state_dict_metadata[key]
        return int(entry.size.numel())

    def load(self, path: Path, state: dict[str, Any]) -> None:
        """Reads a checkpoint into the tensors of `state`; their sharding may differ from the one that was saved."""
        from torch.distributed.checkpoint import load

        load(state, checkpoint_id=str(path), no_dist=not dist.is_initialized())

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Copies `state` and writes it in the background, in a process group of its own."""
        from torch.distributed.checkpoint import async_save

        self.wait()
        alone = not dist.is_initialized()
        if self._group is None and not alone:
            self._group = dist.new_group(backend="gloo")
        temporary, final = (self.folder / f"step-{step:08d}{suffix}" for suffix in (".tmp", ""))
        self._writing = (async_save(state, checkpoint_id=str(temporary), process_group=self._group, no_dist=alone), temporary, final)

    def wait(self) -> None:
        """Waits for the checkpoint that is being written, renames it and deletes those that are too old or of a different task."""
        if self._writing is None:
            return
        future, temporary, final = self._writing
        self._writing = None
        future.result()
        if self.first:
            write_json(temporary / "task.json", self.task)
            complete = self._complete()
            same = [path for path in complete if path != final and read_json(path / "task.json") == self.task]
            for old in complete:
                if old not in same[1 - KEEP :]:
                    shutil.rmtree(old)
            temporary.rename(final)

    def clear(self) -> None:
        """Deletes all checkpoints, after the training has finished."""
        self.wait()
        if self.first:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _complete(self) -> list[Path]:
        return sorted(self.folder.glob(f"step-{'[0-9]' * 8}"))
