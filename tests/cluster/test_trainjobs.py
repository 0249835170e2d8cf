"""TrainJobs on a real API server: which versions of Trainer it has, and which runs' jobs the reaper and Kubernetes delete.

Only Kubernetes' garbage collector runs beside the server: jobs stay as they were created.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client, config

from moworld_ops.components.platform.controllers import FIELDS, missing_fields
from moworld_ops.components.platform.pools import Job
from moworld_ops.components.platform.reaper import reap
from moworld_ops.components.platform.trainjobs import Launcher, trainjob
from tests.cluster import controllers
from tests.cluster.build import HOW
from tests.cluster.control_plane import ControlPlane, wait_until
from tests.manifests.rendering import of_kind

POOL = Job(image="example/train", runtime="moworld-train-cpu", claim="moworld-work", mount="/mnt/moworld")
OPENAPI = "/openapi/v3/apis/trainer.kubeflow.org/v1alpha1"


@pytest.fixture(scope="module")
def plane(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server of its own with Trainer's definitions, the garbage collector, and namespace `moworld` with its accounts."""
    definitions = controllers.definitions(assets)
    with ControlPlane(assets, tmp_path_factory.mktemp("kubernetes")) as found:
        controllers.install(found, [*definitions, workflows()])
        found.start(
            "kube-controller-manager", f"--kubeconfig={found.kubeconfig}", "--leader-elect=false", "--secure-port=0",
            "--controllers=garbage-collector-controller", ready=lambda: True,
        )  # fmt: skip
        found.kubectl("create", "namespace", "moworld")
        rights = [one for kind in ("ServiceAccount", "Role", "RoleBinding") for one in of_kind("cpu", kind)]
        found.kubectl("apply", "--server-side", "-f", "-", objects=rights)
        yield found


def workflows() -> dict:
    """Returns a definition that accepts any Workflow: Argo's own is not at hand."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1alpha1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": "Workflow", "listKind": "WorkflowList", "plural": "workflows", "singular": "workflow"}
    spec = {"group": "argoproj.io", "scope": "Namespaced", "names": names, "versions": [version]}
    meta = {"name": "workflows.argoproj.io"}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": meta, "spec": spec}


def api_of(plane: ControlPlane, account: str = "") -> client.ApiClient:
    """Returns a client of an administrator, or of a service account of namespace moworld by its own token."""
    kubeconfig = plane.account("moworld", account) if account else plane.kubeconfig
    return config.new_client_from_config(config_file=str(kubeconfig))


def start_run(plane: ControlPlane, run: str, spec: dict | None = None, phase: str = "Running") -> None:
    """Creates the Workflow of a run, as KFP does, and its TrainJob, as a launcher does with its own account."""
    kind = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow"}
    meta = {"name": run, "namespace": "moworld", "labels": {"pipeline/runid": run}}
    plane.kubectl("create", "-f", "-", objects=[{**kind, "metadata": meta, "spec": spec or {}, "status": {"phase": phase}}])
    uid = plane.get("-n", "moworld", "workflow", run)["metadata"]["uid"]
    job = trainjob("distill", f"m-{run}", POOL, "/mnt/moworld/x/arguments.json", run)
    job["metadata"]["ownerReferences"] = [{**kind, "name": run, "uid": uid}]
    Launcher(api_of(plane, "moworld-launcher"), "moworld", "pod", lambda line: None).ensure(job, lambda: None)


def jobs(plane: ControlPlane) -> set[str]:
    return {one["metadata"]["name"] for one in plane.get("-n", "moworld", "trainjobs")["items"]}


def test_the_reaper_deletes_the_jobs_of_runs_that_are_cancelled_or_over_and_kubernetes_those_of_deleted_runs(plane):
    start_run(plane, "running")
    start_run(plane, "deleted")
    start_run(plane, "cancelled", {"activeDeadlineSeconds": 0})
    start_run(plane, "failed", phase="Failed")
    assert jobs(plane) == {"m-running", "m-deleted", "m-cancelled", "m-failed"}
    plane.kubectl("-n", "moworld", "delete", "workflow", "deleted")
    wait_until("the garbage collector", lambda: "m-deleted" not in jobs(plane))
    reaper = api_of(plane, "moworld-reaper")
    assert sorted(reap(reaper, "moworld")) == ["m-cancelled", "m-failed"]
    assert reap(reaper, "moworld") == [] and jobs(plane) == {"m-running"}


def test_a_trainer_before_2_2_is_found_and_its_server_refuses_the_job(plane):
    """With the definition that Trainer 2.1.0 publishes."""

    def missing() -> list[str]:
        return missing_fields(api_of(plane).call_api(OPENAPI, "GET", response_type="object", auth_settings=["BearerToken"])[0])

    found = [one for one in controllers.published(plane.assets, "trainer-2.1") if one["metadata"]["name"] == "trainjobs.trainer.kubeflow.org"]
    if not found:
        pytest.skip(f"no definitions of Trainer 2.1: {HOW}")
    wait_until("the published OpenAPI", lambda: missing() == [])
    found[0]["metadata"]["resourceVersion"] = plane.get("crd", "trainjobs.trainer.kubeflow.org")["metadata"]["resourceVersion"]
    plane.kubectl("replace", "-f", "-", objects=found)
    wait_until("the changed OpenAPI", lambda: missing() == list(FIELDS))
    launcher = Launcher(api_of(plane, "moworld-launcher"), "moworld", "pod", lambda line: None)
    with pytest.raises(RuntimeError, match=r'refused TrainJob moworld/m-x: 400 .*unknown field "spec\.activeDeadlineSeconds"'):
        launcher.ensure(trainjob("distill", "m-x", POOL, "/mnt/moworld/x/arguments.json", "x"), lambda: None)
    assert "m-x" not in jobs(plane)
