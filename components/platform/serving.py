"""What a promotion means for the cluster: a patch that a GitOps tool applies, so that the player serves the promoted version by its hash."""

from pathlib import Path

from components.platform.registry import Version
from moworld.files import atomic_write

DEPLOYMENT = CONTAINER = "player"


def write_patch(path: Path, version: Version) -> None:
    """Write a strategic-merge patch for the Deployment `player`: the model by name and number, never by alias, and its hash.

    The annotation stands in the pod template, so a changed hash rolls the pods.
    """
    import yaml

    reference, digest = f"{version.name}@{version.version}", version.tags["model_sha256"]
    template = {
        "metadata": {"annotations": {"moworld/model": reference, "moworld/model-sha256": digest}},
        "spec": {"containers": [{"name": CONTAINER, "env": [{"name": "MOWORLD_MODEL", "value": reference}]}]},
    }
    patch = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": DEPLOYMENT}, "spec": {"template": template}}
    with atomic_write(path, "w") as stream:
        yaml.safe_dump(patch, stream, sort_keys=False)
