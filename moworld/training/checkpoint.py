"""Checkpoints while training: written beside training by torch.distributed.checkpoint, read back on any number of ranks.

A checkpoint appears whole or not at all: it is written under a temporary name, which is changed once all ranks are through.
"""

import logging
import re
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

from moworld.files import Pathlike, read_json, write_json

log = logging.getLogger("moworld.training")
_NAME = re.compile(r"step-(\d{8})")


class Checkpoints:
    """Checkpoints of one training in a folder; the newest `keep` (2 or more) stay.

    every: steps between two checkpoints; 0 writes none
    task:  what is trained (settings, seed, data), JSON-able: a checkpoint of another task is passed over
    first: whether this rank tidies the folder, which one of them has to
    """

    def __init__(self, folder: Pathlike, every: int, task: dict[str, Any], first: bool = True, keep: int = 2) -> None:
        self.folder, self.every, self.task, self.first, self.keep = Path(folder), every, task, first, keep
        self._writing: Any = None
        self._group: Any = None
        if first and every:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left_over in self.folder.glob("*.tmp"):
                shutil.rmtree(left_over)

    def is_due(self, step: int, steps: int) -> bool:
        """Whether to save after `step` of `steps` steps. None is kept of the last: what comes of it is written by the step itself."""
        return bool(self.every) and step % self.every == 0 and step < steps

    def latest(self) -> tuple[int, Path] | None:
        """Step and folder of the newest checkpoint of this task."""
        found = sorted((int(match[1]), path) for path in self.folder.glob("step-*") if (match := _NAME.fullmatch(path.name)))
        for step, path in reversed(found):
            if read_json(path / "task.json") == self.task:
                return step, path
            log.warning("%s is a checkpoint of other settings: passed over", path)
        return None

    @staticmethod
    def size_of(path: Path, key: str) -> int:
        """Elements of a tensor in a checkpoint."""
        from torch.distributed.checkpoint import FileSystemReader

        entry: Any = FileSystemReader(str(path)).read_metadata().state_dict_metadata[key]
        return int(entry.size.numel())

    def load(self, path: Path, state: dict[str, Any]) -> None:
        """Read a checkpoint into the tensors of `state`, which may be sharded otherwise than they were."""
        from torch.distributed.checkpoint import load

        _join_alone()
        load(state, checkpoint_id=str(path))

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Copy `state` and write it while training goes on, in a process group of its own."""
        from torch.distributed.checkpoint import async_save

        self.wait()
        _join_alone()
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        temporary, final = (self.folder / f"step-{step:08d}{suffix}" for suffix in (".tmp", ""))
        self._writing = (async_save(state, checkpoint_id=str(temporary), process_group=self._group), temporary, final)

    def wait(self) -> None:
        """Wait for the checkpoint that is being written, and let it appear."""
        if self._writing is None:
            return
        future, temporary, final = self._writing
        self._writing = None
        future.result()
        if self.first:
            write_json(temporary / "task.json", self.task)
            whole = sorted(path for path in self.folder.glob("step-*") if _NAME.fullmatch(path.name))
            same = [path for path in whole if path != final and read_json(path / "task.json") == self.task]
            for old in [path for path in whole if path not in same[-self.keep + 1 :]]:  # those of another task make room as well
                shutil.rmtree(old)
            temporary.rename(final)

    def clear(self) -> None:
        """Remove all checkpoints: the training is over."""
        self.wait()
        if self.first:
            shutil.rmtree(self.folder, ignore_errors=True)


def _join_alone() -> None:
    """torch.distributed.checkpoint wants a process group; one process makes one of its own."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
