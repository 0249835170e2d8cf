"""Who may read the signing key, what quotas admit, and pods in user namespaces, on a real API server."""

import copy
import json

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.manifests.rendering import of_kind, rendered
from tests.manifests.test_manifests import pod_templates

SIGNING = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
RANK = {"jobset.sigs.k8s.io/jobset-name": "m-r-distill-0"}
TASK = {"pipeline/runid": "r"}
SECRET = {"secretName": "moworld-signing"}
BY_VARIABLE = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "moworld-signing", "key": "signing.pem"}}}
# each way in which a pod gets a secret: what is added to its spec
WAYS = {
    "volume": {"volumes": [{"name": "k", "secret": SECRET}]},
    "projected": {"volumes": [{"name": "k", "projected": {"sources": [{"secret": {"name": "moworld-signing"}}]}}]},
    "variable": {"containers": [{"name": "c", "image": "x", "env": [BY_VARIABLE]}]},
    "all variables": {"containers": [{"name": "c", "image": "x", "envFrom": [{"secretRef": {"name": "moworld-signing"}}]}]},
    "init container": {"initContainers": [{"name": "i", "image": "x", "env": [BY_VARIABLE]}]},
}


def pod(name: str, labels: dict, **spec) -> dict:
    own = {"containers": [{"name": "c", "image": "x"}], "automountServiceAccountToken": False, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": own}


def admitted(cluster: ControlPlane, space: str, one: dict, dry: bool = True) -> str:
    """Returns "" if the API server admits a pod, else its message."""
    done = cluster.kubectl_result("-n", space, "create", *(["--dry-run=server"] if dry else []), "-f", "-", objects=[one])
    return "" if done.returncode == 0 else done.stderr


def make(cluster: ControlPlane, space: str, *names: str) -> None:
    for name in names:
        made = cluster.kubectl("-n", space, "create", "serviceaccount", name, check=False)
        assert "created" in made or (name == "default" and "already exists" in made), made  # where the controller manager runs, it makes that one


@pytest.fixture(scope="module")
def signed(cluster: ControlPlane) -> str:
    """A namespace of a cluster with our admission policy."""
    space = cluster.namespace("signing")
    make(cluster, space, "default")
    objects = [one for kind in SIGNING for one in of_kind("cpu", kind)]
    cluster.kubectl("apply", "--server-side", "-f", "-", objects=objects)
    for _ in range(100):  # the server reads policies from a cache
        if admitted(cluster, space, pod("probe", RANK, **WAYS["volume"])):
            break
    return space


@pytest.mark.parametrize("way", WAYS)
def test_a_rank_never_gets_the_signing_key_or_the_database_s_password_and_a_task_that_mounts_them_does(cluster, signed, way):
    refusal = admitted(cluster, signed, pod("rank", RANK | TASK, **WAYS[way]))
    assert "ValidatingAdmissionPolicy 'moworld-signing'" in refusal and "a rank may not" in refusal
    assert admitted(cluster, signed, pod("task", TASK, **WAYS[way])) == ""
    database = json.loads(json.dumps(WAYS[way]).replace("moworld-signing", "moworld-mlflow"))
    assert "a rank may not" in admitted(cluster, signed, pod("rank", RANK | TASK, **database))


def test_a_rank_with_other_secrets_is_admitted(cluster, signed):
    other = {"volumes": [{"name": "s", "secret": {"secretName": "moworld-object-store"}}, {"name": "t", "emptyDir": {}}]}
    store = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "moworld-object-store", "key": "A"}}}
    containers = [{"name": "c", "image": "x", "env": [store, {"name": "B", "value": "b"}]}, {"name": "d", "image": "x"}]
    assert admitted(cluster, signed, pod("rank", RANK, containers=containers, **other)) == ""
    assert admitted(cluster, signed, pod("bare", RANK)) == ""


def test_no_account_of_ours_may_read_the_signing_key(cluster):
    """Asked of the server with each account's own token."""
    space = cluster.namespace("rights")
    kinds = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
    objects = json.loads(
        json.dumps([one for one in rendered("cpu") if one["kind"] in kinds]).replace('"namespace": "moworld"', f'"namespace": "{space}"')
    )
    cluster.kubectl("apply", "--server-side", "-f", "-", objects=objects)
    accounts = [one["metadata"]["name"] for one in objects if one["kind"] == "ServiceAccount"]
    assert len(accounts) == 5

    def may(account: str, *what: str) -> bool:
        own = cluster.account(space, account)
        return cluster.kubectl("-n", space, "auth", "can-i", *what, kubeconfig=own, check=False).split()[-1] == "yes"

    for account in accounts:
        for verb in ("get", "list", "watch"):
            assert not may(account, verb, "secrets/moworld-signing") and not may(account, verb, "secrets/moworld-mlflow"), account
        assert not may(account, "create", "pods") and not may(account, "create", "pods/exec"), account
    assert may("moworld-launcher", "get", "secrets/moworld-object-store") and may("moworld-launcher", "list", "events")
    for account, resource, verbs in (
        ("moworld-leftovers", "workflows.argoproj.io", "[list]"),
        ("moworld-launcher", "podgroups.scheduling.volcano.sh", "[get]"),  # why a gang waits
    ):
        listed = cluster.kubectl("-n", space, "auth", "can-i", "--list", kubeconfig=cluster.account(space, account))
        (line,) = [line for line in listed.splitlines() if line.startswith(resource)]
        assert line.endswith(verbs), account


def test_a_busy_player_leaves_a_run_its_quota_and_the_other_way_round(cluster):
    """Filled with dry runs of one pod each: the server itself says what its quotas admit."""
    space = cluster.namespace("quotas")
    make(cluster, space, "default", "moworld-player")
    kept = ("ResourceQuota", "LimitRange", "PriorityClass")
    objects = copy.deepcopy([one for one in rendered("cpu") if one["kind"] in kept])
    for one in objects:
        if one["kind"] != "PriorityClass":
            one["metadata"]["namespace"] = space
    quotas = [one for one in objects if one["kind"] == "ResourceQuota"]
    for one in quotas:  # no controller of quotas runs here: the admission plugin reads what is used from the status
        one["status"] = {"hard": one["spec"]["hard"], "used": dict.fromkeys(one["spec"]["hard"], "0")}
    cluster.kubectl("apply", "--server-side", "-f", "-", objects=objects)
    cluster.kubectl("apply", "--server-side", "--subresource=status", "-f", "-", objects=quotas)
    template = dict(pod_templates(rendered("cpu")))["Deployment/player"]
    task = [{"name": "c", "image": "x", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "8", "memory": "8Gi"}}}]
    refusals = {}
    for kind, most in (("player", 5), ("task", 5)):
        for number in range(most):
            one = pod(f"{kind}-{number}", TASK, containers=task)
            if kind == "player":
                one = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"player-{number}"}, "spec": template["spec"]}
            if refusal := admitted(cluster, space, one, dry=False):
                refusals[kind] = number, refusal
                break
    assert refusals["player"][0] == 3 and "exceeded quota: player" in refusals["player"][1]
    assert refusals["task"][0] == 3 and "exceeded quota: runs" in refusals["task"][1], "24 CPUs, none of them taken by the player"


@pytest.mark.parametrize("overlay", ("cpu", "ascend-910b"))
def test_our_pods_are_valid_in_a_user_namespace(cluster, overlay):
    """KFP 2.17 may set `hostUsers: false` on tasks; here every pod of ours gets it, under the restricted level."""
    space = cluster.namespace(f"users-{overlay}")
    cluster.kubectl("label", "namespace", space, "pod-security.kubernetes.io/enforce=restricted")
    accounts = {template["spec"].get("serviceAccountName", "default") for _, template in pod_templates(rendered(overlay))}
    make(cluster, space, *sorted(accounts))
    cluster.kubectl("apply", "--server-side", "-f", "-", objects=of_kind(overlay, "PriorityClass"))
    for name, template in pod_templates(rendered(overlay)):
        spec = {**template["spec"], "hostUsers": False}
        one = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": template["metadata"]["labels"]}, "spec": spec}
        assert admitted(cluster, space, one) == "", name
    assert "hostUsers" in admitted(cluster, space, pod("p", {}, hostUsers=False, hostNetwork=True)), "the field is checked"
