"""Door `moworld doctor`: what this machine has, what is missing, and the mend."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import typer

from pipelines.cli.output import Json, bytes_text, print_json, print_table


def doctor(json: Json = False) -> None:
    """Say what this machine has and what is missing, with the mend; exit status 1 where something needed is missing.

    Example: moworld doctor
    """
    rows = [*_machine(), *_tools(), *_kernels(), *_state()]
    if json:
        print_json(rows)
    else:
        shown = [({True: "ok", False: "MISSING", None: "absent"}[row["ok"]], row["what"], row["found"], row["mend"]) for row in rows]
        print_table("this machine", ("", "what", "found", "mend"), shown)
    if any(row["ok"] is False for row in rows):
        raise typer.Exit(1)


def _row(what: str, ok: bool | None, found: object, mend: str = "") -> dict[str, Any]:
    """ok: True, False (needed and missing), or None (not there, and only wanted for more)."""
    return {"what": what, "ok": ok, "found": str(found), "mend": "" if ok else mend}


def _machine() -> list[dict[str, Any]]:
    import psutil

    memory, cores = psutil.virtual_memory().total, len(os.sched_getaffinity(0))
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return [
        _row("Python 3.11", python == "3.11", python, "make the environment with python3.11 (make .venv)"),
        _row("two CPU cores", cores >= 2, cores, "runs take about twice as long on one"),
        _row("6 GiB of memory", memory >= 6 * 2**30, bytes_text(memory), "use --profile test"),
    ]


def _tools() -> list[dict[str, Any]]:
    rows = [_row("git", shutil.which("git") is not None, shutil.which("git") or "none", "install git: DVC keeps its revisions in it")]
    for package, need, mend in (
        ("kfp", True, "make .venv"),
        ("torch", True, "make .venv"),
        ("vizdoom", True, "make .venv"),
        ("dvc", True, "make .venv"),
        ("mlflow", True, "make .venv"),
        ("triton", None, "only for the portable GPU kernels"),
        ("torch_npu", None, "only on Ascend machines, with CANN"),
    ):
        there = importlib.util.find_spec(package) is not None
        rows.append(_row(f"package {package}", True if there else (False if need else None), "installed" if there else "none", mend))
    endpoint = os.environ.get("KFP_ENDPOINT")
    rows.append(_row("Kubeflow Pipelines", True if endpoint else None, endpoint or "none", "set KFP_ENDPOINT for --engine kubeflow"))
    return rows


def _kernels() -> list[dict[str, Any]]:
    """What was taken for each operator on this machine's devices, and what was refused, with the reason."""
    import torch

    from kernels import NoKernel
    from kernels.dispatch import VARIABLE, operators, overrides

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else []), *(["npu"] if importlib.util.find_spec("torch_npu") else [])]
    rows = []
    try:
        named = overrides()
    except NoKernel as error:
        return [_row("kernels", False, error, f"mend {VARIABLE}, or unset it")]
    for device, operator in ((device, operator) for device in devices for operator in operators()):
        what = f"kernel {operator.name} on {device}"
        try:
            choice = operator.choose(device)
        except NoKernel as error:
            rows.append(_row(what, False, error, f"name another in {VARIABLE}, or unset it"))
            continue
        rows.append(_row(what, True, f"{choice.name} (named in {VARIABLE})" if operator.name in named else choice.name))
        rows += [_row(f"{what}: {name}", None, "refused", reason) for name, reason in choice.refused.items()]
    return rows


def _state() -> list[dict[str, Any]]:
    from components.platform.home import writable_home
    from components.platform.images import unpublished
    from moworld.errors import InputError

    try:
        folder: Path = writable_home()
        writable = _row("state folder", True, folder)
        free = shutil.disk_usage(folder).free
    except InputError as error:
        return [_row("state folder", False, error.file, error.mend)]
    missing = ", ".join(unpublished())
    return [
        writable,
        _row("4 GB of free disk", free >= 4e9, bytes_text(free), "free some space, or set MOWORLD_HOME"),
        _row(
            "images pushed",
            None if missing else True,
            f"not yet: {missing}" if missing else "all",
            "only for --engine kubeflow; see images/README.md",
        ),
    ]
