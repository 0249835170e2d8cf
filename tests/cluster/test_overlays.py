"""The overlays on a real API server: bare, in a namespace as Kubeflow's profile controller makes it, and beside standalone KFP."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster import build, controllers
from tests.cluster.control_plane import ControlPlane
from tests.manifests.rendering import OVERLAYS, ROOT

RUNBOOK = ROOT.parent / "docs" / "runbook.md"
SECRET_SCHEMA = ROOT.parent / "tests" / "manifests" / "schemas" / "externalsecret.yaml"
# what kubeflow/kubeflow's profile controller (field manager `manager`) writes into the namespace of a profile
PROFILE = {
    "app.kubernetes.io/part-of": "kubeflow-profile",
    "katib.kubeflow.org/metrics-collector-injection": "enabled",
    "serving.kubeflow.org/inferenceservice": "enabled",
    "pipelines.kubeflow.org/enabled": "true",
    "istio-injection": "enabled",
}


@pytest.fixture
def bare(assets: Path, tmp_path: Path) -> Iterator[ControlPlane]:
    """An API server of its own, with the definitions of Trainer, Volcano and External Secrets, and nothing else."""
    definitions = [*controllers.definitions(assets), external_secrets()]
    with ControlPlane(assets, tmp_path / "kubernetes") as plane:
        controllers.install(plane, definitions)
        yield plane


def external_secrets() -> dict:
    """Returns a definition with our own short schema, because the project's is not at hand: it finds misspelt fields."""
    schema = yaml.safe_load(SECRET_SCHEMA.read_text())
    schema["properties"] = {
        "spec": schema["properties"]["spec"],
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    }
    schema.pop("required")
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": "ExternalSecret", "listKind": "ExternalSecretList", "plural": "externalsecrets", "singular": "externalsecret"}
    spec = {"group": "external-secrets.io", "scope": "Namespaced", "names": names, "versions": [version]}
    meta = {"name": "externalsecrets.external-secrets.io"}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": meta, "spec": spec}


def overlay_path(overlay: str) -> str:
    return str(ROOT / "overlays" / overlay)


def ours(namespace: dict) -> set[str]:
    """Returns labels and annotations of a namespace that its appliers by server-side apply own."""
    owned = [entry["fieldsV1"]["f:metadata"] for entry in namespace["metadata"]["managedFields"] if entry["operation"] == "Apply"]
    return {key.removeprefix("f:") for one in owned for part in ("f:labels", "f:annotations") for key in one.get(part, {}) if key != "."}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_goes_unforced_into_a_profile_s_namespace(bare, overlay):
    meta = {"name": "moworld", "labels": PROFILE, "annotations": {"owner": "user@example.com"}}
    bare.kubectl("create", "--field-manager=manager", "-f", "-", objects=[{"apiVersion": "v1", "kind": "Namespace", "metadata": meta}])

    bare.kubectl("apply", "--server-side", "--dry-run=server", "-k", overlay_path(overlay))
    bare.kubectl("apply", "--server-side", "-k", overlay_path(overlay))

    namespace = bare.get("namespace", "moworld", "--show-managed-fields")
    labels = namespace["metadata"]["labels"]
    assert PROFILE.items() <= labels.items() and labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert namespace["metadata"]["annotations"]["owner"] == "user@example.com"
    security = {f"pod-security.kubernetes.io/{name}" for name in ("enforce", "enforce-version", "audit", "warn")}
    assert ours(namespace) == {*security, "argocd.argoproj.io/sync-options"}
    bare.kubectl("get", "-k", overlay_path(overlay))  # every object is there
    strays = bare.get("-n", "default", "externalsecrets,configmaps,roles,serviceaccounts,networkpolicies")["items"]
    assert [one["metadata"]["name"] for one in strays if one["metadata"]["name"] not in ("kube-root-ca.crt", "default")] == []


@pytest.mark.parametrize("overlay", ("ascend-910b", "single-user"))
def test_the_runbook_s_order_works_as_pasted_on_a_bare_cluster(bare, tmp_path, overlay):
    """Namespace, secrets, dry run, apply; with External Secrets the secrets are the store's."""
    bare.kubectl("create", "namespace", "ingress-nginx")
    bare.kubectl("create", "namespace", "kubeflow")  # standalone KFP is a prerequisite
    namespace, secrets = blocks("## 3. Namespace and secrets")
    (apply,) = blocks("## 4. Apply")
    pasted = [namespace, *([] if overlay == "ascend-910b" else [secrets]), apply.replace("OVERLAY=ascend-910b", f"OVERLAY={overlay}")]
    if overlay == "single-user":
        pasted.insert(2, "\n".join(secrets_again(secrets)))
    (tmp_path / "manifests").symlink_to(ROOT)
    tools = f"{Path(build.kubectl(bare.assets)).parent}{os.pathsep}{os.environ['PATH']}"
    settings = {**os.environ, "KUBECONFIG": str(bare.kubeconfig), "PATH": tools}
    for block in pasted:
        done = subprocess.run(["bash", "-euc", block], cwd=tmp_path, env=settings, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
    bare.kubectl("get", "-k", overlay_path(overlay))
    assert bare.get("namespace", "ingress-nginx")["metadata"]["labels"]["moworld.io/ingress"] == "true"


def blocks(heading: str) -> list[str]:
    """Returns the blocks of commands below a heading of the runbook, as a reader pastes them."""
    section = RUNBOOK.read_text().split(f"{heading}\n")[1].split("\n## ")[0]
    parts = [[line[4:] for line in part.splitlines() if line.startswith("    ")] for part in section.split("\n\n")]
    return ["\n".join(part) for part in parts if part]


def secrets_again(block: str) -> list[str]:
    """Returns the commands that overlay single-user needs in kubeflow, too."""
    lines = [
        line for line in block.splitlines() if any(f"secret generic moworld-{name}" in line for name in ("signing", "object-store", "mlflow"))
    ]
    return [line.replace("-n moworld", "-n kubeflow") for line in lines]


@pytest.fixture(scope="module")
def single_user(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ControlPlane, dict]]:
    """An API server with overlay single-user beside standalone KFP, and the namespace kubeflow as it was before."""
    kfp = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "kubeflow", "labels": {"application-crd-id": "kubeflow-pipelines"}},
    }
    definitions = controllers.definitions(assets)
    with ControlPlane(assets, tmp_path_factory.mktemp("single-user")) as plane:
        controllers.install(plane, definitions)
        plane.kubectl("create", "-f", "-", objects=[kfp])
        before = plane.get("namespace", "kubeflow")
        plane.kubectl("apply", "--server-side", "-k", str(ROOT / "namespace"))
        plane.kubectl("apply", "--server-side", "-k", overlay_path("single-user"))
        yield plane, before


def test_single_user_leaves_kfp_s_own_pods_alone(single_user):
    """A pod of KFP with neither resources nor a security context is accepted in `kubeflow` as before; in `moworld` it is not."""
    plane, before = single_user
    assert plane.get("namespace", "kubeflow") == before
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ml-pipeline"}, "spec": {"containers": [{"name": "main", "image": "x"}]}}
    for space in ("kubeflow", "moworld"):
        plane.kubectl("-n", space, "create", "serviceaccount", "default")
    plane.kubectl("-n", "kubeflow", "create", "-f", "-", objects=[pod])
    assert plane.get("-n", "kubeflow", "pod", "ml-pipeline")["spec"]["containers"][0]["resources"] == {}
    assert 'violates PodSecurity "restricted' in plane.kubectl("-n", "moworld", "create", "-f", "-", objects=[pod], check=False)
    assert plane.get("-n", "kubeflow", "networkpolicies,resourcequotas,limitranges")["items"] == []


def test_single_user_gives_rights_in_kubeflow_alone(single_user):
    """By the server's own answer to each account's own token."""
    plane, _ = single_user
    for account, verb in {"moworld-launcher": "create", "moworld-reaper": "delete"}.items():
        config = plane.account("kubeflow", account)
        request = ("auth", "can-i", verb, "trainjobs.trainer.kubeflow.org")
        answers = [plane.kubectl("-n", space, *request, kubeconfig=config, check=False).split()[0] for space in ("kubeflow", "moworld")]
        assert answers == ["yes", "no"], account
