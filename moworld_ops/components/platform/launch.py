"""Runs a step on its pool: in this process, on ranks of this machine (ranks.py), or as TrainJobs (trainjobs.py).

A rank runs `python -m moworld_ops.components.platform.launch STEP ARGUMENTS.json`.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld.files import read_json, write_json
from moworld_ops.components.platform.context import context
from moworld_ops.components.platform.exchange import REFUSED, SUMMARY
from moworld_ops.components.platform.pools import Here, Torchrun, parse
from moworld_ops.components.platform.steps import ProcessMonitor


def run_step(step: str, arguments: dict[str, Any], pool: str = "") -> dict[str, Any]:
    """Runs `components.STEP.step.STEP(**arguments)` on a pool and returns its summary.

    step:      name of a component
    arguments: the function's arguments: paths and plain values
    pool:      parameter `pool` of the step (`pools.text`); "" for this process
    Raises RuntimeError if ranks fail.
    """
    match parse(pool):
        case Here():
            return call(step, arguments)
        case Torchrun(ranks=ranks):
            from moworld_ops.components.platform.ranks import run_ranks

            return run_ranks(step, arguments, ranks)
        case jobs:
            from moworld_ops.components.platform.trainjobs import run_trainjobs

            return run_trainjobs(step, arguments, jobs)


def call(step: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Calls the step's function in this process and returns its summary."""
    return dict(getattr(importlib.import_module(f"moworld_ops.components.{step}.step"), step)(**arguments))


def main(argv: list[str]) -> int:
    """Runs one rank: calls the step; rank 0 writes its summary next to the arguments, and any rank its InputError.

    An error is also reported to torchrun.
    """
    from moworld_ops.components.platform.ranks import input_error_parts, report

    step, path = argv
    ProcessMonitor(context().engine).start()  # ends this rank with the step that started it on this machine
    try:
        summary = call(step, dict(read_json(path)))
    except Exception as error:
        report(error)
        if isinstance(error, InputError):
            print(error, file=sys.stderr)
            write_json(Path(path).with_name(REFUSED), input_error_parts(error))
            return 2
        raise
    if os.environ.get("RANK", "0") == "0":
        write_json(Path(path).with_name(SUMMARY), summary)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
