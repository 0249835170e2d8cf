"""The preflight checks against an API server."""

import json
import socket

import pytest

from moworld_ops.components.platform.preflight import Requirements, checks
from moworld_ops.components.platform.steps import Refused
from moworld_ops.components.preflight.step import preflight
from moworld_ops.data_contracts.load import contract_names, load_contract
from tests.cluster import Cluster, openapi_of, running


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    with running(Cluster()) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
        monkeypatch.setenv("MOWORLD_POLL_SECONDS", "0.01")
        yield server


def furnished(cluster, store):
    """Creates everything that a run requires on the cluster; returns the requirements."""
    space = "/api/v1/namespaces/moworld"
    claim = {"spec": {"accessModes": ["ReadWriteMany"]}, "status": {"phase": "Bound"}}
    cluster.put(f"{space}/persistentvolumeclaims/moworld-work", {"metadata": {"name": "moworld-work"}, **claim})
    cluster.put(f"{space}/secrets/store", {"metadata": {"name": "store"}, "data": {"AWS_ACCESS_KEY_ID": "eA=="}})
    cluster.put("/apis/scheduling.volcano.sh/v1beta1/queues/high-noise", {"metadata": {"name": "high-noise"}, "status": {"state": "Open"}})
    runtime = "/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes/moworld-train-npu"
    cluster.put(runtime, {"metadata": {"name": "moworld-train-npu"}})
    for number in range(3):
        labels = {"accelerator": "huawei-Ascend910"}
        ready = {"allocatable": {"huawei.com/Ascend910": "8"}, "conditions": [{"type": "Ready", "status": "True"}]}
        node = {"metadata": {"name": f"n{number}", "labels": labels}, "spec": {}, "status": ready}
        cluster.put(f"/api/v1/nodes/n{number}", node)
    quota = {"hard": {"pods": "10", "requests.cpu": "3", "limits.memory": "32Gi"}, "used": {"pods": "3", "requests.cpu": "500m"}}
    cluster.put(f"{space}/resourcequotas/all", {"metadata": {"name": "all"}, "status": quota})
    store.mkdir()
    return {
        "queues": ["high-noise"],
        "runtimes": ["moworld-train-npu"],
        "claims": ["moworld-work"],
        "secrets": {"store": ["AWS_ACCESS_KEY_ID"]},
        "nodes": [{"selector": {"accelerator": "huawei-Ascend910"}, "resource": "huawei.com/Ascend910", "amount": 8, "count": 3}],
        "pods": [
            [{"count": 1, "requests": {"cpu": "2"}, "limits": {"memory": "16Gi"}}],
            [{"count": 2, "requests": {"cpu": "500m"}, "limits": {"memory": "8Gi"}}, {"count": 1, "requests": {"cpu": "1"}, "limits": {"memory": "16Gi"}}],
        ],
        "uris": [store.as_uri()],
        "services": [],
        "contracts": {name: load_contract(name).version for name in contract_names()},
    }


def test_a_complete_cluster_passes_and_the_step_writes_its_rows(cluster, tmp_path):
    required = furnished(cluster, tmp_path / "bucket")
    rows = checks(Requirements(**required))
    assert all(row["passed"] for row in rows), rows
    assert preflight(str(tmp_path / "out"), required) == {"checks": len(rows)}
    assert json.loads((tmp_path / "out" / "checks.json").read_text()) == rows
    changed = {(method, path.rsplit("/", 1)[0]) for method, path in cluster.requests if method != "GET"}
    jobs = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/moworld"
    assert changed == {("POST", jobs), ("DELETE", f"{jobs}/trainjobs")}  # suspended jobs only
    assert cluster.jobs() == {} and {name.split("-")[0] for name, _ in cluster.made} == {"preflight"}


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        (lambda cluster: setattr(cluster, "openapi", openapi_of()), "Kubeflow Trainer", "without activeDeadlineSeconds, runtimePatches"),
        (lambda cluster: setattr(cluster, "openapi", {}), "Kubeflow Trainer", "without activeDeadlineSeconds, runtimePatches"),
        (lambda cluster: cluster.suspended.clear(), "controllers of runtime moworld-train-npu", "Trainer's controller did not respond"),
        (lambda cluster: cluster.suspended.pop("jobsStatus"), "controllers of runtime moworld-train-npu", "JobSet's controller did not respond"),
    ],
)
def test_an_old_trainer_and_absent_controllers_are_reported(cluster, tmp_path, change, name, words):
    required = furnished(cluster, tmp_path / "bucket")
    change(cluster)
    failed = [row for row in checks(Requirements(**required)) if not row["passed"]]
    assert [row["name"] for row in failed] == [name] and words in failed[0]["found"]
    assert cluster.jobs() == {}


SPACE = "/api/v1/namespaces/moworld"


def test_a_secret_that_no_account_may_read_is_checked_by_the_pod_s_own_variable(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("MOWORLD_SIGNING_PUBLIC", "-----BEGIN PUBLIC KEY-----")
    required = furnished(cluster, tmp_path / "bucket")
    required |= {"secrets": {**required["secrets"], "signing": ["signing.pem"]}, "variables": {"signing": "MOWORLD_SIGNING_PUBLIC"}}
    rows = {row["name"]: row for row in checks(Requirements(**required))}
    assert rows["secret signing"]["passed"] and "-----" not in str(rows)
    assert not [path for _, path in cluster.requests if path.endswith("/secrets/signing")]


def test_the_registry_s_database_is_tried_and_its_password_is_not_shown(cluster, tmp_path, monkeypatch):
    required = furnished(cluster, tmp_path / "bucket") | {"variables": {"mlflow": "DATABASE_URL"}, "database": "DATABASE_URL"}
    required["secrets"] = {**required["secrets"], "mlflow": ["backend-store-uri"]}
    rows = {row["name"]: row for row in checks(Requirements(**required))}
    assert not rows["secret mlflow"]["passed"] and not [name for name in rows if name.startswith("database")]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("DATABASE_URL", f"postgresql+psycopg2://me:s3cret@127.0.0.1:{port}/mlflow")
        rows = {row["name"]: row for row in checks(Requirements(**required))}
        assert all(row["passed"] for row in rows.values()) and f"database 127.0.0.1:{port}" in rows
    closed = {row["name"]: row for row in checks(Requirements(**required))}[f"database 127.0.0.1:{port}"]
    assert not closed["passed"] and "network policy" in closed["mend"] and "s3cret" not in str(rows | closed)


def test_a_full_quota_of_pods_that_runs_do_not_have_is_ignored(cluster, tmp_path):
    required = furnished(cluster, tmp_path / "bucket") | {"pods": [[{"count": 1, "requests": {"cpu": "100m"}, "limits": {"cpu": "2"}}]]}
    full = {"hard": {"limits.cpu": "12"}, "used": {"limits.cpu": "12"}}
    for name, operator in (("player", "In"), ("runs", "NotIn")):
        scope = {"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": ["moworld-player"]}]}
        body = {"metadata": {"name": name}, "spec": {"scopeSelector": scope}, "status": full}
        cluster.put(f"{SPACE}/resourcequotas/{name}", body)
    failed = [row["name"] for row in checks(Requirements(**required)) if not row["passed"]]
    assert failed == ["quota runs"]


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        (lambda objects, required: required["queues"].append("low-noise"), "queue low-noise", "nothing"),
        (lambda objects, required: objects["/apis/scheduling.volcano.sh/v1beta1/queues/high-noise"]["status"].update(state="Closed"), "queue high-noise", "Closed"),
        (lambda objects, required: objects["/apis/scheduling.volcano.sh/v1beta1/queues/high-noise"].pop("status"), "queue high-noise", "no state"),
        (lambda objects, required: required["runtimes"].append("x"), "runtime x", "nothing"),
        (lambda objects, required: objects[f"{SPACE}/persistentvolumeclaims/moworld-work"]["status"].update(phase="Pending"), "claim moworld-work", "Pending"),
        (lambda objects, required: objects[f"{SPACE}/persistentvolumeclaims/moworld-work"]["spec"].update(accessModes=["ReadWriteOnce"]), "claim moworld-work", "ReadWriteOnce"),
        (lambda objects, required: required["secrets"]["store"].append("AWS_ENDPOINT_URL"), "secret store", "no key AWS_ENDPOINT_URL"),
        (lambda objects, required: required.update(variables={"signing": "MOWORLD_SIGNING_PUBLIC"}), "secret signing", "nothing"),
        (lambda objects, required: required["nodes"][0].update(count=4), "nodes accelerator=huawei-Ascend910", "3 of 3 nodes"),
        (lambda objects, required: required["nodes"][0].update(amount=16), "nodes accelerator=huawei-Ascend910", "0 of 3 nodes"),
        (lambda objects, required: objects["/api/v1/nodes/n1"]["spec"].update(unschedulable=True), "nodes accelerator=huawei-Ascend910", "2 of 3 nodes with these labels are ready with 8 huawei.com/Ascend910, 1 are cordoned or not ready"),
        (lambda objects, required: objects["/api/v1/nodes/n1"]["status"]["conditions"][0].update(status="Unknown"), "nodes accelerator=huawei-Ascend910", "1 are cordoned or not ready"),
        (lambda objects, required: objects[f"{SPACE}/resourcequotas/all"]["status"]["used"].update({"requests.cpu": "1500m"}), "quota all", "requests.cpu: 1.5 of 3 free, a step needs 2"),
        (lambda objects, required: objects[f"{SPACE}/resourcequotas/all"]["status"]["hard"].update({"limits.memory": "31Gi"}), "quota all", "limits.memory: 31Gi of 31Gi free, a step needs 32Gi"),
        (lambda objects, required: objects[f"{SPACE}/resourcequotas/all"]["status"]["hard"].update({"pods": "5"}), "quota all", "pods: 2 of 5 free, a step needs 3"),
        (lambda objects, required: required["uris"].append("file:///no/such/bucket"), "bucket file:///no/such/bucket", "nothing there"),
        (lambda objects, required: required["services"].append("http://127.0.0.1:1"), "service http://127.0.0.1:1", "127.0.0.1"),
        (lambda objects, required: required.update(unpublished_images=["train-npu"]), "image train-npu", "never pushed"),
        (lambda objects, required: required.update(unpinned_bases=["python:3.11"]), "base image python:3.11", "only a tag"),
        (lambda objects, required: required["contracts"].update(clips="99.0.0"), "contract clips", load_contract("clips").version),
    ],
)  # fmt: skip
def test_each_missing_thing_is_reported_alone_with_the_finding_and_the_fix(cluster, tmp_path, change, name, words):
    required = furnished(cluster, tmp_path / "bucket")
    change(cluster.objects, required)
    failed = [row for row in checks(Requirements(**required)) if not row["passed"]]
    assert [row["name"] for row in failed] == [name]
    assert words in str(failed[0]["found"]) and failed[0]["mend"] and failed[0]["wanted"]
    with pytest.raises(Refused, match="1 of"):
        preflight(str(tmp_path / "out"), required)
    assert not (tmp_path / "out").exists()
