"""TrainJobs against the published schema and a loopback API server; ranks under torchrun."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml

from components.platform.launch import stage_in, stage_out, trainjob
from moworld.model.world import WorldModel
from tests.moworld.worlds import tiny_world

CRD = Path(__file__).parents[4] / "shared" / "crds" / "trainer-trainjobs.yaml"
POOL = {
    "kind": "trainjob",
    "image": "example/python-train-npu@sha256:" + "0" * 64,
    "runtime": "moworld-train-npu",
    "nodes": 2,
    "procs_per_node": 8,
    "per_node": 8,
    "resource": "huawei.com/Ascend910",
    "cpu": "160",
    "memory": "1024Gi",
    "queue": "high-noise",
    "node_selector": {"accelerator": "huawei-Ascend910"},
    "claim": "moworld-work",
    "seconds": 3600,
}


def strict(schema: dict, value, where: str) -> None:
    """A JSON-schema check that refuses what the schema does not name, as the API server does under strict validation."""
    kind = schema.get("type")
    if schema.get("x-kubernetes-int-or-string"):
        assert isinstance(value, int | str), where
    elif kind == "object":
        assert isinstance(value, dict), where
        assert set(schema.get("required", [])) <= set(value), where
        for key, inner in value.items():
            known = schema.get("properties", {})
            if key in known:
                strict(known[key], inner, f"{where}.{key}")
            elif "additionalProperties" in schema:
                strict(schema["additionalProperties"], inner, f"{where}.{key}")
            else:
                assert schema.get("x-kubernetes-preserve-unknown-fields"), f"{where}.{key} is not known"
    elif kind == "array":
        assert isinstance(value, list), where
        for index, inner in enumerate(value):
            strict(schema["items"], inner, f"{where}[{index}]")
    elif kind in ("integer", "string", "boolean"):
        assert type(value) is {"integer": int, "string": str, "boolean": bool}[kind], where


@pytest.mark.skipif(not CRD.is_file(), reason="the TrainJob schema lies beside the repository, not in it")
def test_a_trainjob_keeps_the_published_schema():
    version = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    job = trainjob("train_curriculum", "run-1", {**POOL, "mount": "/mnt/moworld"}, "/mnt/moworld/run-1/arguments.json")
    assert job["apiVersion"].endswith(version["name"])
    strict(schema["properties"]["spec"], job["spec"], "spec")
    with pytest.raises(AssertionError, match="not known"):
        strict(schema["properties"]["spec"], {**job["spec"], "podSpecOverrides": []}, "spec")


class Cluster(ThreadingHTTPServer):
    """An API server of TrainJobs on loopback: keeps what is created, and says of each job what `state` says."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict] = {}
        self.deleted: list[str] = []
        self.state = "Complete"
        self.on_create = lambda job: None
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Cluster

    def reply(self, code: int, body: dict) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if job["metadata"]["name"] in self.server.jobs:
            self.reply(409, {"reason": "AlreadyExists"})
            return
        self.server.jobs[job["metadata"]["name"]] = job
        self.server.on_create(job)
        self.reply(201, job)

    def do_GET(self) -> None:
        job = self.server.jobs.get(self.path.rsplit("/", 1)[1])
        condition = {"type": self.server.state, "status": "True", "message": "rank 3 ended with 1"}
        self.reply(200 if job else 404, {**job, "status": {"conditions": [condition]}} if job else {})

    def do_DELETE(self) -> None:
        name = self.path.rsplit("/", 1)[1]
        self.server.deleted.append(name)
        self.reply(200 if self.server.jobs.pop(name, None) else 404, {})

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def cluster(tmp_path):
    server = Cluster()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
        "current-context": "x",
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    yield server
    server.shutdown()
    server.server_close()


LAUNCHER = "import json, sys; from components.platform.launch import run_step; print(json.dumps(run_step(*json.loads(sys.argv[1]))))"


def launcher(tmp_path: Path, pools: list[dict]) -> subprocess.Popen:
    (tmp_path / "features").mkdir(exist_ok=True)
    (tmp_path / "features" / "index").write_text("index")
    arguments = {"features": str(tmp_path / "features"), "previous": None, "out": str(tmp_path / "model"), "seed": 1}
    call = json.dumps(["train_curriculum", arguments, json.dumps({"jobs": pools})])
    environment = {**os.environ, "KUBECONFIG": str(tmp_path / "kubeconfig"), "MOWORLD_RUN": "r1", "MOWORLD_STEP": "train_curriculum-1"}
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, call], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def pools(tmp_path: Path) -> list[dict]:
    shared = {**POOL, "mount": str(tmp_path / "volume")}
    return [{**shared, "arguments": {"experts": ["high"]}}, {**shared, "queue": "low-noise", "arguments": {"experts": ["low"]}}]


def ranks_finish(job: dict) -> None:
    """What the ranks of a job leave on the shared volume."""
    path = Path(job["spec"]["trainer"]["command"][-1])
    arguments = json.loads(path.read_text())
    assert (Path(arguments["features"]) / "index").read_text() == "index"
    (expert,) = arguments["experts"]
    folder = Path(arguments["out"]) / expert
    folder.mkdir(parents=True)
    (folder / "weights").write_text(expert)
    path.with_name("summary.json").write_text(json.dumps({expert: 1}))


def test_two_jobs_run_side_by_side_and_their_experts_come_together(cluster, tmp_path):
    cluster.on_create = ranks_finish
    out, err = launcher(tmp_path, pools(tmp_path)).communicate(timeout=60)
    assert json.loads(out or "null") == {"high": 1, "low": 1}, err
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["high", "low"]
    assert sorted(cluster.jobs) == ["r1-train-curriculum-1-0", "r1-train-curriculum-1-1"]
    queues = [
        job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"][
            "metadata"
        ]
        for job in cluster.jobs.values()
    ]
    assert [queue["annotations"]["scheduling.volcano.sh/queue-name"] for queue in queues] == ["high-noise", "low-noise"]


def test_a_failed_job_fails_the_step_with_its_message_and_frees_the_other_pool(cluster, tmp_path):
    cluster.state = "Failed"
    process = launcher(tmp_path, pools(tmp_path))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "rank 3 ended with 1" in err
    assert cluster.jobs == {} and len(cluster.deleted) == 2


def test_a_cancelled_pipeline_holds_no_accelerator(cluster, tmp_path):
    cluster.state = "Running"
    process = launcher(tmp_path, pools(tmp_path))
    end = time.time() + 60
    while len(cluster.jobs) < 2:
        assert time.time() < end
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert cluster.jobs == {}


def test_a_retried_pod_adopts_the_job_of_its_predecessor(cluster, tmp_path):
    cluster.jobs["r1-train-curriculum-1-0"] = {"metadata": {"name": "r1-train-curriculum-1-0"}}
    exchange = tmp_path / "volume" / "r1-train-curriculum-1-0"
    (exchange / "out").mkdir(parents=True)
    (exchange / "out" / "weights").write_text("high")
    (exchange / "summary.json").write_text('{"high": 1}')
    out, err = launcher(tmp_path, pools(tmp_path)[:1]).communicate(timeout=60)
    assert json.loads(out or "null") == {"high": 1}, err
    assert cluster.deleted == []


def test_what_is_staged_in_is_what_the_ranks_read_and_what_they_write_comes_out(tmp_path):
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "a").write_text("a")
    stage_in(tmp_path / "x", {"features": str(tmp_path / "features"), "previous": None, "out": "/elsewhere", "stage": {"steps": 2},
        "checkpoints": str(tmp_path / "features")})  # fmt: skip
    arguments = json.loads((tmp_path / "x" / "arguments.json").read_text())
    assert Path(arguments["features"], "a").read_text() == "a"
    assert arguments["previous"] is None and arguments["stage"] == {"steps": 2} and arguments["out"] == str(tmp_path / "x" / "out")
    assert arguments["checkpoints"] == str(tmp_path / "x" / "checkpoints")  # on the volume that outlives the pod
    Path(arguments["out"]).mkdir()
    Path(arguments["out"], "b").write_text("b")
    (tmp_path / "x" / "summary.json").write_text('{"n": 1}')
    assert stage_out([tmp_path / "x"], tmp_path / "out") == {"n": 1}
    assert (tmp_path / "out" / "b").read_text() == "b"
    assert not (tmp_path / "x").exists()


def test_two_experts_trained_side_by_side_come_together_as_one_model(tmp_path):
    """Each job writes its own expert; neither may overwrite what the other has trained."""
    made = {}
    for index, name in enumerate(("high", "low")):
        world = tiny_world(seed=index)
        exchange = tmp_path / name
        world.save(exchange / "out", names=[name], losses={name: [[0, float(index)]]})
        (exchange / "summary.json").write_text(json.dumps({f"loss_{name}": index}))
        made[name] = dict(world.experts.named_experts())[name].proj_out.weight
    assert stage_out([tmp_path / "high", tmp_path / "low"], tmp_path / "out") == {"loss_high": 0, "loss_low": 1}
    together = WorldModel.load(tmp_path / "out").experts
    assert torch.equal(together.high.proj_out.weight, made["high"]) and torch.equal(together.low.proj_out.weight, made["low"])
    assert json.loads((tmp_path / "out" / "losses.json").read_text()) == {"high": [[0, 0.0]], "low": [[0, 1.0]]}
