"""Deployment of a promoted model: a patch for a GitOps tool, and the download of the named model into the player's pod.

`python -m moworld_ops.components.platform.serving moworld-pocket@3 /model` verifies the model and copies it to /model/current.
"""

import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from moworld.errors import InputError
from moworld.files import atomic_folder, output_file
from moworld_ops.components.platform.artifacts import LocalArtifacts, download
from moworld_ops.components.platform.registry import ModelRegistry, Version, model_folder
from moworld_ops.components.platform.steps import explain
from moworld_ops.components.platform.verification import released, verify_version

DEPLOYMENT, CONTAINER = "player", "fetch"
RESERVED = 4096  # bytes that a patch fits in


@contextmanager
def planned_patch(path: Path | None) -> Iterator[Callable[[Version], None]]:
    """Reserves the file of a patch, and yields the function that writes it; with None that function does nothing.

    Raises InputError before anything is moved if the file cannot be written; if its disk fails afterwards, the error says what was moved.
    """
    if path is None:
        yield lambda version: None
        return
    target = output_file(path, "--patch")
    reserved = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")

    def write(version: Version) -> None:
        done = f"{version.name} version {version.version} is champion all the same; do not move it again"
        with _reporting(path, f"{done}: moworld release promote {version.name}@{version.version} --patch FILE writes the patch"):
            _store(reserved, patch_text(version))
            os.replace(reserved, target)

    try:
        with _reporting(path, "nothing was moved; choose another path"):
            target.parent.mkdir(parents=True, exist_ok=True)
            _store(reserved, " " * RESERVED)
        yield write
    finally:
        with suppress(OSError):
            reserved.unlink(missing_ok=True)


def _store(path: Path, text: str) -> None:
    with open(path, "r+" if path.exists() else "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.truncate()
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def _reporting(path: Path, fix: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError("--patch", path, error.strerror or error, "a file that can be written", fix) from None


def write_patch(path: Path, version: Version) -> None:
    """Writes the patch of a version. Raises InputError if the file cannot be written."""
    with planned_patch(path) as write:
        write(version)


def patch_text(version: Version) -> str:
    """Returns a strategic-merge patch for Deployment `player` with the model's hash and its name and number, never an alias.

    The annotations are in the pod template, so a changed hash restarts the pods.
    """
    import yaml

    reference, digest = f"{version.name}@{version.version}", version.tags["model_sha256"]
    template = {
        "metadata": {"annotations": {"moworld/model": reference, "moworld/model-sha256": digest}},
        "spec": {"initContainers": [{"name": CONTAINER, "env": [{"name": "MOWORLD_MODEL", "value": reference}]}]},
    }
    patch = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": DEPLOYMENT}, "spec": {"template": template}}
    return yaml.safe_dump(patch, sort_keys=False)


def fetch(reference: str, folder: Path) -> Path:
    """Copies a model to FOLDER/current atomically and returns that path.

    reference: a registered model, whose signatures and hashes are verified; or a path, or "" for the default model, copied unverified
    Raises InputError for a missing model, IntegrityError for one that differs from what was signed.
    """
    with atomic_folder(folder / "current") as target:
        if reference and "/" not in reference:
            registry = ModelRegistry(create=False)
            version = released(registry, reference)
            download(registry.artifacts(version).at("model"), target)
            verify_version(registry, version, LocalArtifacts(target))  # the copy that is served; nothing is downloaded twice
        else:
            shutil.copytree(model_folder(reference), target, dirs_exist_ok=True)
    return folder / "current"


if __name__ == "__main__":
    try:
        print(fetch(sys.argv[1], Path(sys.argv[2])))
    except InputError as error:
        status, line = explain(error)
        print(line, file=sys.stderr)
        sys.exit(status)
