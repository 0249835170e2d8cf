"""Deployment of a promoted model: a patch for a GitOps tool, and the download of the named model into the player's pod.

`python -m moworld_ops.components.platform.serving moworld-pocket@3 /model` verifies the model and copies it to /model/current.
"""

import shutil
import sys
from pathlib import Path

from moworld.errors import InputError
from moworld.files import atomic_folder, atomic_write
from moworld_ops.components.platform.artifacts import LocalArtifacts, download
from moworld_ops.components.platform.registry import ModelRegistry, Version, model_folder
from moworld_ops.components.platform.steps import explain
from moworld_ops.components.platform.verification import released, verify_version

DEPLOYMENT, CONTAINER = "player", "fetch"


def write_patch(path: Path, version: Version) -> None:
    """Writes a strategic-merge patch for Deployment `player` with the model's hash and its name and number, never an alias.

    The annotations are in the pod template, so a changed hash restarts the pods.
    """
    import yaml

    reference, digest = f"{version.name}@{version.version}", version.tags["model_sha256"]
    template = {
        "metadata": {"annotations": {"moworld/model": reference, "moworld/model-sha256": digest}},
        "spec": {"initContainers": [{"name": CONTAINER, "env": [{"name": "MOWORLD_MODEL", "value": reference}]}]},
    }
    patch = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": DEPLOYMENT}, "spec": {"template": template}}
    with atomic_write(path, "w") as stream:
        yaml.safe_dump(patch, stream, sort_keys=False)


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
