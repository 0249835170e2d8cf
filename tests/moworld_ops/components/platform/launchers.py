"""A training step on two pools, its ranks and its run, for the tests of the launcher of TrainJobs."""

import json
from pathlib import Path

from moworld_ops.components.platform.pools import Job, text
from tests.cluster import Cluster

POOL = Job(
    image="example/python-train-npu@sha256:" + "0" * 64,
    runtime="moworld-train-npu",
    nodes=2,
    procs_per_node=8,
    resource="huawei.com/Ascend910",
    cpu="160",
    memory="1024Gi",
    queue="high-noise",
    node_selector={"accelerator": "huawei-Ascend910"},
    claim="moworld-work",
    seconds=3600,
    mount="/mnt/moworld",
)
WORKFLOWS = "/apis/argoproj.io/v1alpha1/namespaces/moworld/workflows"


def step_call(tmp_path: Path, pools: list[Job]) -> tuple[str, dict, str]:
    """Returns the arguments of `run_step` for a training step on these pools."""
    (tmp_path / "features").mkdir(exist_ok=True)
    (tmp_path / "features" / "index").write_text("index")
    arguments = {"features": str(tmp_path / "features"), "previous": None, "out": str(tmp_path / "model"), "seed": 1}
    return "train_curriculum", arguments, text(pools)


def pools(tmp_path: Path) -> list[Job]:
    shared = POOL.model_copy(update={"mount": str(tmp_path / "volume")})
    low = {"queue": "low-noise", "arguments": {"experts": ["low"]}}
    return [shared.model_copy(update={"arguments": {"experts": ["high"]}}), shared.model_copy(update=low)]


def ranks_finish(job: dict) -> None:
    """Writes the output of a job's ranks to the shared volume."""
    path = Path(job["spec"]["trainer"]["command"][-1])
    arguments = json.loads(path.read_text())
    assert (Path(arguments["features"]) / "index").read_text() == "index"
    (expert,) = arguments["experts"]
    folder = Path(arguments["out"]) / expert
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights").write_text(expert)
    path.with_name("summary.json").write_text(json.dumps({expert: 1}))


def queue_of(job: dict) -> str:
    """Returns the queue where Trainer reads it: pkg/runtime/framework/plugins/volcano of Trainer 2.2."""
    template = job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]
    return template["metadata"]["annotations"]["scheduling.volcano.sh/queue-name"]


def workflow(cluster: Cluster, run: str, **facts) -> dict:
    """Creates the Workflow of a run, as KFP does; returns it."""
    labels = {"pipeline/runid": run}
    return cluster.put(f"{WORKFLOWS}/{run}", {"metadata": {"name": run, "labels": labels}, "spec": {}, "status": {"phase": "Running"}, **facts})


def client_of(cluster: Cluster):
    from kubernetes import client

    return client.ApiClient(client.Configuration(host=cluster.url))
