"""Ranks of a step on this machine, started and watched by torchrun's agent. They end with the step, also if it is killed."""

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from moworld.cpus import available_cpus
from moworld.errors import InputError
from moworld.files import read_json, write_json
from moworld_ops.components.platform.context import CONTEXT, context
from moworld_ops.components.platform.home import environment
from moworld_ops.components.platform.steps import explain, process_token

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # where torchrun expects a rank's error


def run_ranks(step: str, arguments: dict[str, Any], ranks: int) -> dict[str, Any]:
    """Runs `components.STEP.step.STEP(**arguments)` on each of several ranks and returns the summary of rank 0 with their number, `ranks`.

    Raises the InputError of the first rank that failed, or RuntimeError with its error in one line.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    place = context().model_copy(update={"engine": process_token(os.getpid())})  # ranks end with this process
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, available_cpus() // ranks))
    with (
        tempfile.TemporaryDirectory(prefix="moworld-ranks-") as folder,
        environment(**{CONTEXT: place.text(), "OMP_NUM_THREADS": threads}),
    ):
        listed = Path(folder, "arguments.json")
        write_json(listed, arguments)
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=ranks, run_id=Path(folder).name, max_restarts=0, monitor_interval=0.1,
            rdzv_backend="c10d", rdzv_endpoint="localhost:0", local_addr="localhost", logs_specs=DefaultLogsSpecs(log_dir=folder),
        )  # fmt: skip
        try:
            elastic_launch(config, sys.executable)("-m", "moworld_ops.components.platform.launch", step, str(listed))
        except ChildFailedError as error:
            raise _first_error(step, error) from None
        return {**read_json(listed.with_name("summary.json")), "ranks": ranks}


def report(error: Exception) -> None:
    """Writes a rank's error to torchrun's file, in its format; does nothing if torchrun did not start this process."""
    if path := os.environ.get(ERROR_FILE):
        facts = {"timestamp": str(int(time.time())), "nanoseconds": time.time_ns(), "input_error": input_error_parts(error)}
        Path(path).write_text(json.dumps({"message": {"message": explain(error)[1], "extraInfo": facts}}), encoding="utf-8")


def input_error_parts(error: Exception) -> list[str]:
    """Returns the arguments of an InputError as JSON has them; [] for another error."""
    return [str(part) for part in (error.file, error.field, error.found, error.expected, error.fix)] if isinstance(error, InputError) else []


def _first_error(step: str, error: Any) -> Exception:
    """Returns the error of the rank that failed first; ranks that were killed, as by the lack of memory, are named before it."""
    lines, reports = [], dict[int, Any]()
    for rank, failure in sorted(error.failures.items()):
        report = failure.error_file_data.get("message")
        if isinstance(report, dict):  # torchrun's own are text
            reports[rank] = report
        elif failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:  # torchrun ends the other ranks by SIGTERM
            lines.append(f"rank {rank} was killed by {failure.signal_name()}")
    if reports:
        first = min(reports, key=lambda rank: int(reports[rank]["extraInfo"]["nanoseconds"]))
        if parts := reports[first]["extraInfo"]["input_error"]:
            return InputError(*parts)
        lines.append(f"rank {first}: {reports[first]['message']}")
    codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
    return RuntimeError(f"{step}: {'; '.join(lines) or f'ranks ended with {codes}, their output is above'}")
