"""Which namespace each object of an overlay is in, and what is left alone in namespaces that are not ours; by rendering."""

import pytest
import yaml

from tests.manifests.rendering import ALL_OVERLAYS, OVERLAYS, ROOT, of_kind, rendered

CLUSTER_SCOPED = {"Namespace", "ClusterRole", "ClusterRoleBinding", "PriorityClass", "Queue", "ClusterTrainingRuntime",
                  "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}  # fmt: skip
KEPT = {"argocd.argoproj.io/sync-options": "Prune=false,Delete=false"}


@pytest.mark.parametrize("overlay", ALL_OVERLAYS)
def test_every_namespaced_object_names_its_namespace(overlay):
    """Without one, an object lands in the namespace of whoever applies it."""
    allowed = {"moworld", "kubeflow"} if overlay == "single-user" else {"moworld"}
    for one in rendered(overlay):
        name = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] in CLUSTER_SCOPED:
            assert "namespace" not in one["metadata"], name
        else:
            assert one["metadata"].get("namespace") in allowed, name


@pytest.mark.parametrize("overlay", ALL_OVERLAYS)
def test_of_the_namespace_only_pod_security_labels_are_ours(overlay):
    """The profile controller owns the others, and KFP's network policies admit namespaces by them."""
    (namespace,) = of_kind(overlay, "Namespace")
    assert namespace["metadata"]["name"] == "moworld" and set(namespace) == {"apiVersion", "kind", "metadata"}
    assert all(label.startswith("pod-security.kubernetes.io/") for label in namespace["metadata"]["labels"])
    assert namespace["metadata"]["annotations"] == KEPT


@pytest.mark.parametrize("overlay", ALL_OVERLAYS)
def test_argo_cd_deletes_neither_the_namespace_nor_the_claim(overlay):
    """`Prune=false` holds when they leave the repository, `Delete=false` when the Application is deleted with its finalizer."""
    (application,) = yaml.safe_load_all((ROOT / "argocd" / "application.yaml").read_text())
    assert application["spec"]["syncPolicy"]["automated"]["prune"] and application["metadata"]["finalizers"]
    kept = {one["kind"] for one in rendered(overlay) if KEPT.items() <= one["metadata"].get("annotations", {}).items()}
    assert kept == {"Namespace", "PersistentVolumeClaim"}
    assert len(of_kind(overlay, "PersistentVolumeClaim")) == 1


def test_single_user_puts_only_what_runs_use_into_kubeflow():
    """Nothing there selects pods or limits them: quotas, limit ranges and network policies would hit KFP's own."""
    inside = {(one["kind"], one["metadata"]["name"]) for one in rendered("single-user") if one["metadata"].get("namespace") == "kubeflow"}
    assert {kind for kind, _ in inside} == {"ServiceAccount", "Role", "RoleBinding", "PersistentVolumeClaim", "Deployment", "CronJob"}
    assert all(name.startswith("moworld-") or (kind, name) in (("Deployment", "reaper"), ("CronJob", "leftovers")) for kind, name in inside)
    assert "kubeflow" not in {one["metadata"]["name"] for one in of_kind("single-user", "Namespace")}


def test_single_user_has_every_object_of_overlay_cpu():
    def names(overlay: str) -> set[tuple[str, str]]:
        return {(one["kind"], one["metadata"]["name"]) for one in rendered(overlay)}

    assert names("single-user") == names("cpu") | {("NetworkPolicy", "mlflow-from-runs")}


@pytest.mark.parametrize("overlay", [*OVERLAYS, "single-user"])
def test_accounts_are_in_the_namespace_where_pods_and_bindings_look_for_them(overlay):
    accounts = {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in of_kind(overlay, "ServiceAccount")}
    roles = {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in of_kind(overlay, "Role")}
    for one in rendered(overlay):
        name, space = f"{one['kind']}/{one['metadata']['name']}", one["metadata"].get("namespace")
        for subject in one.get("subjects", []):
            assert (subject["namespace"], subject["name"]) in accounts, name
        if one["kind"] == "RoleBinding" and one["roleRef"]["kind"] == "Role":
            assert (space, one["roleRef"]["name"]) in roles, name
        spec = one.get("spec", {})
        pods = [spec["template"]] if one["kind"] == "Deployment" else []
        for pod in pods:
            assert (space, pod["spec"]["serviceAccountName"]) in accounts, name
