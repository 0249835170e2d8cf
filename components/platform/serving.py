"""What a promotion means for the cluster: a patch that a GitOps tool applies, and the fetch of what it names into the player's pod.

python -m components.platform.serving moworld-pocket@3 /model      the model, verified, in /model/current
"""

import shutil
import sys
from pathlib import Path

from components.platform.registry import ModelRegistry, Version, model_folder
from components.platform.verification import verify_version
from moworld.errors import InputError
from moworld.files import atomic_folder, atomic_write

DEPLOYMENT, CONTAINER = "player", "fetch"


def write_patch(path: Path, version: Version) -> None:
    """Write a strategic-merge patch for the Deployment `player`: the model by name and number, never by alias, and its hash.

    The annotation stands in the pod template, so a changed hash rolls the pods.
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
    """Copy a registered model to FOLDER/current, after its signatures and hashes have held; a path, or "", is copied as it is.

    Raises InputError for a model that is not there or not what was signed; nothing half-copied stays.
    """
    if reference and "/" not in reference:
        registry = ModelRegistry()
        source = verify_version(registry, registry.find(reference))  # the very bytes that were verified, not fetched a second time
    else:
        source = model_folder(reference)
    with atomic_folder(folder / "current") as target:
        shutil.copytree(source, target, dirs_exist_ok=True)
    return folder / "current"


if __name__ == "__main__":
    try:
        print(fetch(sys.argv[1], Path(sys.argv[2])))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
