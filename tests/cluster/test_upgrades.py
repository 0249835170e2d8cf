"""Upgrading an installation, and deleting its namespace without the data: the runbook's blocks, pasted, on a real API server."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import build, controllers
from tests.cluster.control_plane import ControlPlane, free_port, wait_until
from tests.cluster.test_overlays import blocks, external_secrets
from tests.manifests.rendering import ROOT

EARLIER = "3e1d7ab"  # the first commit whose manifests were applied to a cluster
# of Kubernetes' controllers those that delete namespaces, bind claims, and keep volumes
CONTROLLERS = (
    "namespace-controller,serviceaccount-controller,garbage-collector-controller,persistentvolume-binder-controller,"
    "persistentvolume-protection-controller,persistentvolumeclaim-protection-controller"
)


@pytest.fixture
def plane(assets: Path, tmp_path: Path) -> Iterator[ControlPlane]:
    """An API server with what an overlay needs, and the controllers above."""
    if not (assets / "kube-controller-manager").exists():
        pytest.skip(f"{assets} has no kube-controller-manager: {build.HOW}")
    with ControlPlane(assets, tmp_path / "kubernetes") as found:
        controllers.install(found, [*controllers.definitions(assets), external_secrets()])
        found.start(
            "kube-controller-manager", f"--kubeconfig={found.kubeconfig}", "--leader-elect=false", f"--secure-port={free_port()}",
            f"--controllers={CONTROLLERS}", f"--service-account-private-key-file={found.accounts_key}",
            ready=lambda: found.kubectl_result("-n", "default", "get", "serviceaccount", "default").returncode == 0,
        )  # fmt: skip
        yield found


def paste(plane: ControlPlane, folder: Path, block: str, **settings: str) -> str:
    """Runs a block of the runbook in a directory with `manifests`; returns its output. Raises AssertionError if it fails."""
    tools = f"{build.kubectl(plane.assets).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig), "PATH": tools, **settings}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A directory with this commit's manifests."""
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / "manifests").symlink_to(ROOT)
    return folder


@pytest.mark.parametrize("overlay", ("cpu", "ascend-910b"))
def test_an_installation_of_an_earlier_commit_is_upgraded_unforced(plane, clone, tmp_path, overlay):
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", "--format=tar", EARLIER, "."], capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"the clone has no commit {EARLIER}: it is shallow")
    before = tmp_path / "before" / "manifests"
    before.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", str(before)], input=archive.stdout, check=True)
    plane.kubectl("create", "namespace", "moworld")
    plane.kubectl("apply", "--server-side", "-k", str(before / "overlays" / overlay))
    claim = plane.get("-n", "moworld", "pvc", "moworld-work")["metadata"]["uid"]
    upgrade, stale, remove = blocks("## 9. Upgrade")
    paste(plane, clone, upgrade, OVERLAY=overlay)
    left = paste(plane, clone, stale, OVERLAY=overlay).split()
    assert "moworld/CronJob/reaper" in left and "default/ConfigMap/moworld-dashboard" in left, "that commit forgot a namespace"
    paste(plane, clone, remove, OVERLAY=overlay)
    for name in left:
        space, kind, own = name.split("/")
        assert "NotFound" in plane.kubectl("-n", space, "get", f"{kind}/{own}", check=False), name
    plane.kubectl("get", "-k", str(ROOT / "overlays" / overlay))
    assert plane.get("-n", "moworld", "pvc", "moworld-work")["metadata"]["uid"] == claim


def test_the_runbook_s_way_to_delete_the_namespace_keeps_the_data(plane, clone):
    """The volume is Kubernetes' own to bind and release; the directory behind it is not looked at."""
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "pv-of-a-provisioner"},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "capacity": {"storage": "20Ti"},
            "hostPath": {"path": "/nowhere"},
            "persistentVolumeReclaimPolicy": "Delete",  # of most storage classes
        },
    }
    plane.kubectl("create", "-f", "-", objects=[volume])
    paste(
        plane, clone, "kubectl apply --server-side -k manifests/namespace && kubectl apply --server-side -k manifests/overlays/ascend-910b"
    )

    def phase(kind: str, name: str) -> str:
        return plane.get("-n", "moworld", kind, name).get("status", {}).get("phase", "")

    wait_until("the bound claim", lambda: phase("pvc", "moworld-work") == "Bound")
    first = plane.get("-n", "moworld", "pvc", "moworld-work")["metadata"]["uid"]
    delete, again = blocks("## 10. Delete the namespace, keep the data")
    assert "pv-of-a-provisioner" in paste(plane, clone, delete)
    assert plane.kubectl_result("get", "namespace", "moworld").returncode != 0
    wait_until("the released volume", lambda: phase("pv", "pv-of-a-provisioner") == "Released")
    paste(plane, clone, again, VOLUME="pv-of-a-provisioner", OVERLAY="ascend-910b")
    wait_until("the claim of the same volume", lambda: phase("pvc", "moworld-work") == "Bound")
    claim = plane.get("-n", "moworld", "pvc", "moworld-work")
    assert claim["spec"]["volumeName"] == "pv-of-a-provisioner" and claim["metadata"]["uid"] != first
    assert plane.get("pv", "pv-of-a-provisioner")["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
