"""Ranks on gloo for tests: processes forked from a server that has imported the library once."""

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from moworld.training.parallel import ParallelSettings, Ranks, join_ranks

PRELOAD = ["torch", "torch.distributed.fsdp", "torch.distributed.checkpoint", "moworld.model.transformer", "tests.moworld.worlds"]


def context() -> Any:
    """Returns the start method of ranks: forks of a clean server, which start fast and do not inherit this process's threads."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(PRELOAD)
    return made


def run_ranks(world: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Runs `work(rank, *arguments)` on `world` ranks of one process group; returns their results in order. Fails on any rank's error."""
    with tempfile.TemporaryDirectory() as folder:
        processes = [context().Process(target=_rank, args=(rank, world, folder, work, arguments), daemon=True) for rank in range(world)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(240)
        results = [torch.load(path, weights_only=True) if (path := Path(folder, str(rank))).is_file() else None for rank in range(world)]
        errors = [path.read_text() for rank in range(world) if (path := Path(folder, f"{rank}.error")).is_file()]
    assert not errors, errors[0]
    assert all(process.exitcode == 0 for process in processes), [process.exitcode for process in processes]
    return results


def _rank(rank: int, world: int, folder: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
        part = Path(folder, f"{rank}.part")
        torch.save(work(rank, *arguments), part)
        part.rename(Path(folder, str(rank)))  # whole as soon as it is seen
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        Path(folder, f"{rank}.error").write_text(traceback.format_exc())
        raise


def joined(ulysses: int = 1, ring: int = 1, **settings: Any) -> Ranks:
    return join_ranks(ParallelSettings(ulysses=ulysses, ring=ring, **settings))
