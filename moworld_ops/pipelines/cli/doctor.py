"""CLI command `doctor`: what this machine has, what is missing, and how to fix it. It also works if torch cannot be imported."""

import importlib.util
import os
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import typer

from moworld.cpus import available_cpus
from moworld_ops.pipelines.cli.layout import Json
from moworld_ops.pipelines.cli.output import bytes_text, print_rows, working

PYTHONS = ((3, 11), (3, 13))
PACKAGES = (  # import name, needed by, command that installs it
    ("kfp", "moworld run", "pip install 'moworld-operations[pipelines]'"),
    ("dvc", "moworld run", "pip install 'moworld-operations[registry]'"),
    ("mlflow", "moworld run, moworld release", "pip install 'moworld-operations[registry]'"),
    ("vizdoom", "recording game episodes", "pip install 'moworld-operations[game]'"),
    ("great_expectations", "moworld data", "pip install 'moworld-operations[data]'"),
    ("openvino", "moworld play, moworld rollout on x86-64 CPUs", "pip install openvino"),
    ("transformers", "prompts", "pip install 'moworld-operations[text]'"),
    ("triton", "the portable GPU kernels", "pip install triton"),
    ("torch_npu", "Ascend machines", "install it with CANN"),
)


def doctor(json: Json = False) -> None:
    """Check this machine and say how to fix what is missing.

    Example: moworld doctor

    Exit status 1 if something is missing that every installation needs.
    """
    with working("checking this machine"):
        torch_row = _torch()
        rows = [*_machine(), torch_row, *_packages(), *([_device(), *_kernels()] if torch_row["ok"] else []), *_state()]
    verdicts = {True: "ok", False: "MISSING", None: "absent"}
    shown = [(verdicts[row["ok"]], row["what"], row["found"], row["fix"]) for row in rows]
    found = [{**row, "mend": row["fix"]} for row in rows]  # "mend" is the key of version 0.1
    print_rows(json, found, "this machine", ("", "what", "found", "fix"), shown)
    if any(row["ok"] is False for row in rows):
        raise typer.Exit(1)


def _row(what: str, ok: bool | None, found: object, fix: str = "") -> dict[str, Any]:
    """ok: True; False for needed and missing; None for absent and optional."""
    return {"what": what, "ok": ok, "found": str(found), "fix": "" if ok else fix}


def _machine() -> list[dict[str, Any]]:
    import psutil

    memory, cores = psutil.virtual_memory().total, available_cpus()
    low, high = (".".join(map(str, version)) for version in PYTHONS)
    found = f"{sys.version_info.major}.{sys.version_info.minor}"
    return [
        _row(f"Python {low} to {high}", PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1], found, f"make PYTHON=python{low}"),
        _row("two CPU cores", cores >= 2, cores, "runs take about twice as long on one"),
        _row("6 GiB of memory", memory >= 6 * 2**30, bytes_text(memory), "use --profile test"),
    ]


def _torch() -> dict[str, Any]:
    """Returns which build of torch is installed, by its metadata, and if its import fails why, in one line."""
    try:
        found = metadata.distribution("torch")
    except metadata.PackageNotFoundError:
        return _row("package torch", False, "none", "pip install moworld-operations")
    required = [re.split(r"[\s\[(;<>=!~]", text, maxsplit=1)[0] for text in found.requires or [] if "extra ==" not in text]
    cuda = "+cpu" not in found.version and any(name.startswith(("nvidia-", "cuda-")) for name in required)
    build = f"{found.version}, {'CUDA' if cuda else 'CPU'} build"
    try:
        import torch  # noqa: F401
    except Exception as error:  # a broken installation raises ImportError, OSError, ValueError, RuntimeError
        absent = [name for name in required if name.startswith(("nvidia-", "cuda-")) and not _is_installed(name)]
        fix = "reinstall it: pip install --force-reinstall -r requirements.torch.lock"
        if absent:
            fix = f"pip install {' '.join(absent)}"
        elif importlib.util.find_spec("torch_npu"):
            fix = "install CANN for torch_npu, or set TORCH_DEVICE_BACKEND_AUTOLOAD=0"
        line = " ".join(str(error).split())[:200]
        return _row("package torch", False, f"{build}; its import fails: {type(error).__name__}: {line}", fix)
    return _row("package torch", True, build)


def _is_installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def _packages() -> list[dict[str, Any]]:
    rows = [_row("git", True if shutil.which("git") else None, shutil.which("git") or "none", "install git: DVC stores revisions in it")]
    for package, use, fix in PACKAGES:
        there = importlib.util.find_spec(package) is not None
        rows.append(_row(f"package {package}", True if there else None, "installed" if there else "none", f"for {use}: {fix}"))
    endpoint = os.environ.get("KFP_ENDPOINT")
    rows.append(_row("Kubeflow Pipelines", True if endpoint else None, endpoint or "none", "set KFP_ENDPOINT for --engine kubeflow"))
    return rows


def _device() -> dict[str, Any]:
    from moworld.devices import describe_device, pick_device

    return _row("device for models", True, describe_device(pick_device()))


def _kernels() -> list[dict[str, Any]]:
    """Returns the implementation of each operator on each device of this machine, and the refused ones with the reason."""
    from moworld.devices import pick_device
    from moworld.kernels import NoKernel
    from moworld.kernels.dispatch import VARIABLE, operators, overrides

    devices, rows = dict.fromkeys(("cpu", pick_device().type)), []
    try:
        named = overrides()
    except NoKernel as error:
        return [_row("kernels", False, error, f"correct {VARIABLE}, or unset it")]
    calls = [(device, operator, *variant) for device in devices for operator in operators() for variant in operator.variants.items()]
    for device, operator, suffix, requires in calls:
        what = f"kernel {operator.name}{suffix} on {device}"
        try:
            choice = operator.choose(device, requires=requires)
        except NoKernel as error:  # a named implementation may lack results that only some calls require
            rows.append(_row(what, None if requires else False, error, f"name another in {VARIABLE}, or unset it"))
            continue
        rows.append(_row(what, True, f"{choice.name} (named in {VARIABLE})" if operator.name in named else choice.name))
        rows += [_row(f"{what}: {name}", None, "refused", reason) for name, reason in choice.refused.items()]
    return rows


def _state() -> list[dict[str, Any]]:
    from moworld.errors import InputError
    from moworld_ops.components.platform.home import writable_home
    from moworld_ops.components.platform.images import outdated, unpublished

    try:
        folder = writable_home()
    except InputError as error:
        return [_row("state folder", False, error.file, error.fix)]
    rows = _denoisers(folder)
    free, missing, old = shutil.disk_usage(folder).free, ", ".join(unpublished()), ", ".join(outdated())
    found = f"not yet: {missing}" if missing else f"from other sources: {old}" if old else "all"
    images = _row("images pushed", None if missing or old else True, found, "for --engine kubeflow, see images/README.md")
    fix = "free some space, or set MOWORLD_HOME"
    return [_row("state folder", True, folder), _row("4 GB of free disk", free >= 4e9, bytes_text(free), fix), images, *rows]


def _denoisers(folder: Path) -> list[dict[str, Any]]:
    """Returns the measured choices between PyTorch and OpenVINO (see `moworld.inference.openvino.choose_denoiser`)."""
    from moworld.files import read_json_object

    rows = []
    for file in sorted(folder.glob("openvino/*/choice-*.json")):
        kept = read_json_object(file)
        times = ", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in kept["seconds"].items())
        rows.append(_row(f"denoiser of {file.parent.name}, {kept['chunk_latents']} latents", True, f"{kept['backend']} ({times} a chunk)"))
    return rows
