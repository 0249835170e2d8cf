"""Preflight with the launcher's own token on a real API server: with all controllers, and where those of Trainer and JobSet do not run."""

import json

import pytest

from moworld_ops.components.platform.preflight import Requirements, checks
from tests.cluster import controllers
from tests.cluster.control_plane import ControlPlane, wait_until
from tests.cluster.test_gangs import bound_claim
from tests.manifests.rendering import of_kind

RUNTIME = "moworld-train-cpu"


def furnish(plane: ControlPlane, space: str) -> Requirements:
    """Creates accounts, rights, runtime, claim, secret and quota in a namespace; returns what a run needs there."""
    kinds = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "ResourceQuota")
    objects = json.loads(
        json.dumps([one for kind in kinds for one in of_kind("cpu", kind)]).replace('"namespace": "moworld"', f'"namespace": "{space}"')
    )
    controllers.install(plane, [*of_kind("cpu", "ClusterTrainingRuntime"), *objects])
    bound_claim(plane, space, "moworld-work")
    plane.kubectl("-n", space, "create", "secret", "generic", "moworld-object-store", "--from-literal=AWS_ACCESS_KEY_ID=x")
    return Requirements(
        runtimes=[RUNTIME],
        claims=["moworld-work"],
        secrets={"moworld-object-store": ["AWS_ACCESS_KEY_ID"]},
        nodes=[{"selector": {"example.com/of": space}, "resource": "cpu", "amount": 1, "count": 1}],
        pods=[[{"count": 1, "requests": {"cpu": "2"}, "limits": {"cpu": "4", "memory": "8Gi"}}]],
    )


@pytest.fixture
def ask(monkeypatch):
    """Returns a function that gives the rows of the checks that failed, asked with the launcher's token."""
    monkeypatch.setenv("MOWORLD_POLL_SECONDS", "1")

    def failed(plane: ControlPlane, space: str, required: Requirements) -> dict[str, str]:
        monkeypatch.setenv("KUBECONFIG", str(plane.account(space, "moworld-launcher")))
        monkeypatch.setenv("MOWORLD_NAMESPACE", space)
        return {row["name"]: str(row["found"]) for row in checks(required) if not row["passed"]}

    return failed


def test_a_complete_cluster_passes_and_a_cordoned_node_and_a_small_quota_are_found(trainer, ask):
    space = trainer.namespace("preflight")
    required = furnish(trainer, space)
    controllers.add_node(trainer, "preflight-1", {"example.com/of": space})
    wait_until("the quota's status", lambda: "hard" in trainer.get("-n", space, "resourcequota", "runs").get("status", {}))
    assert ask(trainer, space, required) == {}
    assert trainer.get("-n", space, "trainjobs")["items"] == []

    trainer.kubectl("cordon", "preflight-1")
    trainer.kubectl("-n", space, "patch", "resourcequota", "runs", "--type=merge", "-p", '{"spec": {"hard": {"limits.cpu": "3"}}}')
    wait_until("the quota's status", lambda: trainer.get("-n", space, "resourcequota", "runs")["status"]["hard"]["limits.cpu"] == "3")
    failed = ask(trainer, space, required)
    assert set(failed) == {f"nodes example.com/of={space}", "quota runs"}
    assert "1 are cordoned or not ready" in failed[f"nodes example.com/of={space}"] and "a step needs 4" in failed["quota runs"]


def test_without_the_controllers_of_trainer_their_definitions_are_not_enough(assets, tmp_path, ask):
    with ControlPlane(assets, tmp_path / "kubernetes") as plane:
        controllers.install(plane, controllers.definitions(assets))
        space = plane.namespace("preflight")
        required = furnish(plane, space)
        failed = ask(plane, space, required)
        assert failed[f"controllers of runtime {RUNTIME}"] == "Trainer's controller did not respond within 6 s"
        assert "Kubeflow Trainer" not in failed
        assert plane.get("-n", space, "trainjobs")["items"] == []
