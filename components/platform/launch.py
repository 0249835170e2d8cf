"""Running a step's ranks: in this process, under torchrun on this machine, or as TrainJobs on an Ascend pool (trainjobs.py).

A rank runs `python -m components.platform.launch STEP ARGUMENTS.json`.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld.files import read_json, write_json


def run_step(step: str, arguments: dict[str, Any], pool: str = "") -> dict[str, Any]:
    """Run `components.STEP.step.STEP(**arguments)` where the pool says; returns its summary.

    step:      name of a component
    arguments: paths under their own names, and plain values
    pool:      JSON: "" for this process; {"kind": "local", "ranks": n} for torchrun; {"kind": "trainjob", ...} (see `trainjobs.trainjob`),
               or {"jobs": [pool, ...]} for TrainJobs side by side, each with its own "arguments"
    Raises RuntimeError where ranks fail.
    """
    where = json.loads(pool) if pool else {"kind": "here"}
    if "jobs" in where or where["kind"] == "trainjob":
        from components.platform.trainjobs import run_trainjobs

        return run_trainjobs(step, arguments, where.get("jobs", [where]))
    if where["kind"] == "local" and int(where["ranks"]) > 1:
        return _run_torchrun(step, arguments, int(where["ranks"]))
    return dict(call(step, arguments))


def call(step: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Call the step's function in this process."""
    return getattr(importlib.import_module(f"components.{step}.step"), step)(**arguments)  # type: ignore[no-any-return]


def _run_torchrun(step: str, arguments: dict[str, Any], ranks: int) -> dict[str, Any]:
    exchange = Path(str(arguments["out"]) + ".ranks")
    write_json(exchange / "arguments.json", arguments)
    try:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        command += ["-m", "components.platform.launch", step, str(exchange / "arguments.json")]
        if subprocess.run(command, check=False).returncode:
            raise RuntimeError(f"a rank of {step} failed; its lines stand above")
        return dict(read_json(exchange / "summary.json"))
    finally:
        shutil.rmtree(exchange, ignore_errors=True)


def main(argv: list[str]) -> int:
    """One rank: call the step; rank 0 writes its summary beside the arguments."""
    step, path = argv
    try:
        summary = call(step, dict(read_json(path)))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if os.environ.get("RANK", "0") == "0":
        write_json(Path(path).with_name("summary.json"), summary)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
