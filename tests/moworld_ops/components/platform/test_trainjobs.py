"""The launcher of TrainJobs against an API server that validates by the published schema, fails, and loses responses."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from moworld.errors import InputError
from moworld.files import write_json
from moworld_ops.components.platform.cluster import Stopped, with_retries
from moworld_ops.components.platform.context import CONTEXT, RUN, StepContext
from moworld_ops.components.platform.launch import run_step
from moworld_ops.components.platform.pools import Job, parse, text
from moworld_ops.components.platform.reaper import reap
from moworld_ops.components.platform.trainjobs import Launcher, job_name, run_trainjobs, trainjob
from tests.cluster import CRDS, Cluster, Script, check_custom, random_faults, running, wait_for

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


def test_a_trainjob_satisfies_the_published_schema():
    job = trainjob("train_curriculum", "m-run-1", POOL, "/mnt/moworld/run-1/arguments.json", "run-1")
    check_custom(job)
    job["spec"]["podSpecOverrides"] = []
    with pytest.raises(AssertionError, match="not known"):
        check_custom(job)


def test_names_are_short_labels_that_differ_between_steps():
    long = "1f0c2a5e-lifecycle-wan22-a14b-20261124-123949"
    names = {job_name(long, step, index) for step in ("train_curriculum-1", "train_curriculum-2", "distill") for index in (0, 1)}
    assert len(names) == 6 and all(len(name) <= 46 and name[0] == "m" for name in names)
    assert job_name("r1", "train_curriculum-1", 0) == "m-r1-train-curriculum-1-0"


@pytest.fixture
def cluster():
    with running(Cluster()) as server:
        yield server


LAUNCHER = "import json, sys; from moworld_ops.components.platform.launch import run_step; print(json.dumps(run_step(*json.loads(sys.argv[1]))))"


def step_call(tmp_path: Path, pools: list[Job]) -> tuple[str, dict, str]:
    """Returns the arguments of `run_step` for a training step on these pools."""
    (tmp_path / "features").mkdir(exist_ok=True)
    (tmp_path / "features" / "index").write_text("index")
    arguments = {"features": str(tmp_path / "features"), "previous": None, "out": str(tmp_path / "model"), "seed": 1}
    return "train_curriculum", arguments, text(pools)


@pytest.fixture
def variables(cluster, tmp_path) -> dict[str, str]:
    """Environment variables of a launcher."""
    kubeconfig = str(cluster.kubeconfig(tmp_path / "kubeconfig"))
    return {"KUBECONFIG": kubeconfig, RUN: "r1", CONTEXT: StepContext(step="train_curriculum-1").text(), "MOWORLD_POLL_SECONDS": "0.05"}


@pytest.fixture
def launch(variables, monkeypatch):
    """Runs a launcher in this process."""
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    return lambda tmp_path, pools: run_step(*step_call(tmp_path, pools))


@pytest.fixture
def launcher(variables, tmp_path):
    """Starts a launcher as a process of its own, for tests that send signals."""

    def start(pools: list[Job], **more: str) -> subprocess.Popen:
        command = [sys.executable, "-c", LAUNCHER, json.dumps(step_call(tmp_path, pools))]
        environment = {**os.environ, **variables, **more}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


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


def test_two_parallel_jobs_are_logged_and_their_experts_joined(cluster, tmp_path, launch, capsys):
    jobs = {}
    cluster.on_create = lambda job: (ranks_finish(job), jobs.update({job["metadata"]["name"]: job}))
    cluster.script = lambda job: Script("", "Running", "Running", "Running", "Complete", lines=("step 1", "step 2", "loss 0.5", "saved"))
    assert launch(tmp_path, pools(tmp_path)) == {"high": 1, "low": 1}
    out = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["high", "low"]
    assert {name: queue_of(job) for name, job in jobs.items()} == {
        "m-r1-train-curriculum-1-0": "high-noise",
        "m-r1-train-curriculum-1-1": "low-noise",
    }
    for name in jobs:
        assert [line for line in out.splitlines() if f"[{name}]" in line] == [
            f"[{name}] {text}" for text in ("step 1", "step 2", "loss 0.5", "saved")
        ]
    assert cluster.jobs() == {} and list((tmp_path / "volume").iterdir()) == []


def test_a_launcher_says_why_its_gang_waits(cluster, tmp_path, launch, capsys):
    """Neither job has a pod yet: one has a PodGroup, the other's pods are refused."""

    def create(job: dict) -> None:
        ranks_finish(job)
        name, queue = job["metadata"]["name"], queue_of(job)
        if queue == "high-noise":
            group = {"metadata": {"name": name}, "spec": {"queue": queue}, "status": {"phase": "Pending"}}
            cluster.put(f"/apis/scheduling.volcano.sh/v1beta1/namespaces/moworld/podgroups/{name}", group)
        else:
            about = {"kind": "Job", "name": f"{name}-node-0", "namespace": "moworld"}
            event = {"metadata": {"name": "e", "namespace": "moworld"}, "involvedObject": about, "type": "Warning", "reason": "FailedCreate"}
            cluster.put("/api/v1/namespaces/moworld/events/e", {**event, "message": "exceeded quota"})

    cluster.on_create, cluster.script = create, lambda job: Script("", "", "", "Running", "Complete")
    launch(tmp_path, pools(tmp_path))
    lines = [line.partition(" waits: ")[2] for line in capsys.readouterr().out.splitlines() if " waits: " in line]
    assert {"gang: queue high-noise has not admitted it yet (Pending)", "Job m-r1-train-curriculum-1-1-node-0: FailedCreate: exceeded quota"} <= set(lines)


def test_what_a_job_of_one_run_caches_is_there_for_the_next_run(cluster, variables, tmp_path, monkeypatch):
    found = []

    def ranks_encode(job: dict) -> None:
        path = Path(job["spec"]["trainer"]["command"][-1])
        arguments = json.loads(path.read_text())
        cache, out = Path(arguments["cache"]), Path(arguments["out"])
        found.append([file.name for file in cache.glob("*")])
        cache.mkdir(parents=True, exist_ok=True)
        (cache / "clip").write_text("encoded")
        out.mkdir()
        path.with_name("summary.json").write_text("{}")

    cluster.on_create, cluster.script = ranks_encode, lambda job: Script("Complete")
    volume = tmp_path / "volume"
    arguments = {"out": str(tmp_path / "features"), "cache": str(volume / "home/encoded")}  # MOWORLD_HOME of a cluster's pods
    for run in ("r1", "r2"):
        for key, value in {**variables, "MOWORLD_RUN": run}.items():
            monkeypatch.setenv(key, value)
        run_step("cache_features", arguments, text([POOL.model_copy(update={"mount": str(volume)})]))
    assert found == [[], ["clip"]]
    assert [path.name for path in volume.iterdir()] == ["home"]  # the folders of both jobs are deleted


def test_a_failed_job_fails_the_step_with_its_reason_and_frees_the_other_pool(cluster, tmp_path, launch):
    ended = {"name": "node", "image": "", "imageID": "", "ready": False, "restartCount": 0}
    killed = {**ended, "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    cluster.script = lambda job: (
        Script("Running", "Failed", pod={"containerStatuses": [killed]}) if queue_of(job) == "low-noise" else Script("Running")
    )
    with pytest.raises(RuntimeError, match="m-r1-train-curriculum-1-1 failed: out of memory: pod m-r1-train-curriculum-1-1-node-0-0-x"):
        launch(tmp_path, pools(tmp_path))
    assert cluster.jobs() == {} and len(cluster.deleted) == 2


WORKFLOWS = "/apis/argoproj.io/v1alpha1/namespaces/moworld/workflows"


def workflow(cluster: Cluster, run: str, **facts) -> dict:
    """Creates the Workflow of a run, as KFP does; returns it."""
    labels = {"pipeline/runid": run}
    return cluster.put(f"{WORKFLOWS}/{run}", {"metadata": {"name": run, "labels": labels}, "spec": {}, "status": {"phase": "Running"}, **facts})


def client_of(cluster: Cluster):
    from kubernetes import client

    return client.ApiClient(client.Configuration(host=cluster.url))


@pytest.mark.parametrize(
    "end",
    [{"spec": {"activeDeadlineSeconds": 0}}, {"spec": {"shutdown": "Terminate"}}, {"status": {"phase": "Failed"}}, {"status": {"phase": "Succeeded"}}],
    ids=["cancelled by KFP", "cancelled by Argo", "failed", "succeeded"],
)
@pytest.mark.parametrize("when", ["while the first job is created", "while both run"])
def test_the_jobs_of_a_cancelled_run_are_deleted_whatever_its_launcher_does(cluster, tmp_path, launcher, when, end):
    cluster.script = lambda job: Script("Running")
    workflow(cluster, "r1")
    process: list[subprocess.Popen] = []
    if when == "while the first job is created":
        cluster.on_create = lambda job: process[0].kill()
    process.append(launcher(pools(tmp_path)))
    if when == "while both run":
        wait_for(lambda: len(cluster.jobs()) == 2 and len(cluster.requests) > 8)
        assert reap(client_of(cluster), "moworld") == []
        process[0].kill()
    process[0].communicate(timeout=60)
    assert len(cluster.jobs()) == len(cluster.made) > 0
    workflow(cluster, "r1", **end)
    assert sorted(reap(client_of(cluster), "moworld")) == sorted(name for name, _ in cluster.made)
    assert cluster.jobs() == {} and reap(client_of(cluster), "moworld") == []


def test_the_jobs_of_a_deleted_run_are_deleted_and_those_of_others_stay(cluster):
    space = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/moworld/trainjobs"
    workflow(cluster, "runs")
    for run in ("runs", "gone", ""):
        cluster.put(f"{space}/m-{run}", {**trainjob("distill", f"m-{run}", POOL, "/mnt/a.json", run), "_reads": 0})
    assert reap(client_of(cluster), "moworld") == ["m-gone"]
    assert sorted(cluster.jobs()) == ["m-", "m-runs"]


def test_a_job_is_owned_by_the_workflow_of_its_launcher_s_pod(cluster, tmp_path, launch, monkeypatch):
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "pretrain-x", "uid": "uid-w"}
    meta = {"name": "launcher", "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}]}
    cluster.put("/api/v1/namespaces/moworld/pods/launcher", {"kind": "Pod", "apiVersion": "v1", "metadata": meta})
    monkeypatch.setenv("KFP_POD_NAME", "launcher")
    owners = []
    cluster.on_create = lambda job: (ranks_finish(job), owners.append(job["metadata"]["ownerReferences"]))
    launch(tmp_path, pools(tmp_path)[:1])
    assert owners == [[owner]]  # without blockOwnerDeletion, which would need a permission on the Workflow


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_successor_of_a_lost_launcher_adopts_its_job_and_stages_nothing_again(cluster, tmp_path, launcher, launch, capsys, end):
    cluster.script = lambda job: Script("Running")
    first = launcher(pools(tmp_path)[:1])
    wait_for(lambda: cluster.jobs() and len(cluster.requests) > 5)
    first.send_signal(end)
    first.communicate()
    assert cluster.deleted == []
    (job,) = cluster.jobs().values()
    read_by_ranks = tmp_path / "volume" / job["metadata"]["name"] / "in" / "features" / "index"
    before = read_by_ranks.stat()
    ranks_finish(job)
    cluster.script = lambda job: Script("Complete")
    assert launch(tmp_path, pools(tmp_path)[:1]) == {"high": 1}
    assert "adopted" in capsys.readouterr().out and len(cluster.made) == 1
    assert not read_by_ranks.exists() and before.st_mtime  # removed only after the results were copied


@pytest.mark.parametrize("reason", ["had failed", "was specified differently"])
def test_an_earlier_job_that_failed_or_differs_is_recreated(cluster, tmp_path, launch, capsys, reason):
    cluster.on_create = ranks_finish
    name, (pool, _) = job_name("r1", "train_curriculum-1", 0), pools(tmp_path)
    pool_before = pool if reason == "had failed" else pool.model_copy(update={"cpu": "1"})
    before = trainjob("train_curriculum", name, pool_before, str(tmp_path / "volume" / name / "arguments.json"), "r1")
    before["_reads"] = 0
    uid = cluster.put(f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/moworld/trainjobs/{name}", before)["metadata"]["uid"]
    cluster.script = lambda job: Script("Failed" if job["metadata"]["uid"] == uid and reason == "had failed" else "Complete")
    assert launch(tmp_path, [pool]) == {"high": 1}
    assert f"{reason}: deleting and recreating it" in capsys.readouterr().out


@pytest.mark.skipif(not CRDS.is_dir(), reason="the published schemas of custom resources are not beside this checkout")
def test_a_refused_job_raises_the_server_s_message(tmp_path, launch):
    bad = [pools(tmp_path)[0].model_copy(update={"node_selector": {"accelerator": 1}})]  # this module would refuse it, too
    with pytest.raises(RuntimeError, match=r"refused TrainJob moworld/m-r1-train-curriculum-1-0: 400 strict decoding error.*nodeSelector"):
        run_trainjobs(*step_call(tmp_path, [])[:2], bad)


def test_input_that_a_rank_rejects_is_the_step_s_error_and_no_automatic_retry_starts_a_job(cluster, tmp_path, launch, monkeypatch):
    def ranks_refuse(job: dict) -> None:
        write_json(Path(job["spec"]["trainer"]["command"][-1]).with_name("refused.json"), ["features", "world.json", "nothing", "a file", "make it"])

    cluster.on_create, cluster.script = ranks_refuse, lambda job: Script("Running", "Failed")
    monkeypatch.setenv("KFP_POD_NAME", "launcher")
    tried = []
    for attempt in ("executor(0)", "executor(1)", "executor(2)", "executor(0)"):  # the last one is a resumed run
        meta = {"name": "launcher", "annotations": {"workflows.argoproj.io/node-name": f"x.root.train.{attempt}"}}
        cluster.put("/api/v1/namespaces/moworld/pods/launcher", {"kind": "Pod", "apiVersion": "v1", "metadata": meta})
        with pytest.raises(InputError, match=r"features: world\.json: found nothing, expected a file; make it"):
            launch(tmp_path, pools(tmp_path)[:1])
        tried.append(len(cluster.made))
    assert tried == [1, 1, 1, 2] and cluster.jobs() == {}


def test_an_api_server_that_does_not_respond_ends_no_training(cluster, tmp_path):
    launcher = Launcher(client_of(cluster), "moworld", "pod", lambda line: None, poll_seconds=0.01)
    job = trainjob("distill", "m-x", POOL, "/mnt/a.json", "run")
    with pytest.raises(ConnectionError), launcher.cleanup(["m-x"]):
        launcher.ensure(job, lambda: None)
        raise ConnectionError("the cluster's API server did not respond within 600 s")
    assert list(cluster.jobs()) == ["m-x"]


def test_the_deadline_has_the_time_in_the_queue_and_its_message_says_what_took_it(cluster, tmp_path, launch):
    (pool,) = (one.model_copy(update={"queue_seconds": 60}) for one in pools(tmp_path)[:1])
    assert parse(text([pool]))[0].queue_seconds == 60
    deadlines = []
    cluster.on_create = lambda job: deadlines.append(job["spec"]["activeDeadlineSeconds"])
    late = {"condition": {"reason": "DeadlineExceeded"}}
    cluster.script = lambda job: Script("", "Pending", "Failed", pods_after=False, **late)
    with pytest.raises(RuntimeError, match=r"none of its pods had started 3660 s after its creation .*`queue_seconds`"):
        launch(tmp_path, [pool])
    cluster.script = lambda job: Script("", "Running", "Failed", pods_after=False, **late)
    with pytest.raises(RuntimeError, match=r"it was still running 3660 s after its creation .*raise `seconds`"):
        launch(tmp_path, [pool])
    assert deadlines == [3660, 3660]


def test_the_first_rank_s_lines_of_every_restart_are_logged_by_age_not_by_name(cluster, tmp_path, launch, capsys):
    cluster.on_create = ranks_finish
    cluster.script = lambda job: Script("Complete", lines=("restart",), earlier=("z", "first"))
    launch(tmp_path, pools(tmp_path)[:1])
    lines = [line.partition("] ")[2] for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert lines == ["first", "restart"]


class Killed(BaseException):
    """Simulates SIGKILL: nothing runs after it."""


class Mortal:
    """Makes an ApiClient die at its n-th request or once `dead` is set, before it is sent or before its response is read."""

    def __init__(self, api, at: int, answered: bool, dead: threading.Event) -> None:
        send, self.count = api.call_api, 0

        def call(*args, **kwargs):
            self.count += 1
            if dead.is_set() or self.count > at or (self.count == at and not answered):
                raise Killed
            answer = send(*args, **kwargs)
            if self.count == at:
                raise Killed
            return answer

        api.call_api = call


class Attempt(threading.Thread):
    """One launcher pod, in a thread: killed at a chosen request, or left alone until `dead` is set."""

    def __init__(self, server: Cluster, job: dict, owner: str, chance: random.Random) -> None:
        super().__init__(daemon=True)
        from kubernetes import client

        settings = client.Configuration(host=server.url)
        settings.retries = False
        api = client.ApiClient(settings)
        api.set_default_header("X-Launcher", owner)
        self.fate = chance.choice(["left", "left", "killed", "killed", "killed"])
        at, answered = chance.randint(1, 14), chance.random() < 0.5
        self.dead = threading.Event()
        Mortal(api, at if self.fate == "killed" else sys.maxsize, answered, self.dead)
        self.said: list[str] = []
        self.launcher = Launcher(api, "moworld", owner, self.said.append, poll_seconds=0.002)
        self.job, self.outcome = json.loads(json.dumps(job)), ""

    def run(self) -> None:
        name = self.job["metadata"]["name"]
        try:
            with self.launcher.cleanup([name]):
                self.launcher.ensure(self.job, lambda: None)
                self.launcher.follow([name])
                self.outcome = "Complete"
        except Killed:
            self.outcome = "killed"
        except RuntimeError as error:
            self.outcome = str(error)


def interleaving(seed: int) -> dict[str, int]:
    """Runs attempts of one step, some concurrent, some killed, against a failing server; checks the invariants and counts the outcomes."""
    chance = random.Random(seed)
    with running(Cluster()) as server:
        server.fault = random_faults(seed, chance.choice([0.0, 0.1, 0.3]))
        server.deletion_reads = chance.randint(0, 3)
        lines = tuple(f"line {index}" for index in range(chance.randint(0, 30)))
        end = chance.choice(["Complete", "Complete", "Failed", "Running"])
        server.script = lambda job: Script(*[""] * (seed % 3), *["Running"] * (5 + seed % 7), end, lines=lines)
        job = trainjob("distill", job_name("run", "distill", 0), POOL, "/mnt/moworld/x/arguments.json", "run")
        attempts: list[Attempt] = []
        for number in range(4):
            attempt = Attempt(server, job, f"pod-{number}", chance)
            if end == "Running" and number == 3:
                attempt.dead.set()  # nothing else ends it
            attempts.append(attempt)
            attempt.start()
            if chance.random() < 0.7 or number == 3:  # else the next one starts while this one is still running, as after a lost node
                attempt.join(0.05 if end == "Running" and attempt.fate == "left" else 60)
            if attempt.outcome == "Complete":
                break
        for attempt in attempts:
            if end == "Running":
                attempt.dead.set()
            attempt.join(60)
            assert not attempt.is_alive(), f"seed {seed}: an attempt hangs"
        names = {name for name, _ in server.made}
        assert len(names) <= 1, f"seed {seed}: two jobs for one step: {names}"
        left = server.jobs()
        alive = {attempt.launcher.owner for attempt in attempts if attempt.outcome != "killed"}
        for one in left.values():  # only a killed launcher leaves a job, for the next one or the reaper
            assert one["metadata"]["annotations"]["moworld.io/launcher"] not in alive, f"seed {seed}: orphan of a launcher that ended"
        server.fault = lambda method, path: ""
        workflow(server, "run")
        assert reap(client_of(server), "moworld") == []
        workflow(server, "run", status={"phase": "Failed"})
        assert reap(client_of(server), "moworld") == sorted(left)
        assert server.jobs() == {}, f"seed {seed}: orphan"
        for asker, owner, state in server.deletions[: len(server.deletions) - len(left)]:  # all except the reaper's
            assert asker == owner or state == "Failed", f"seed {seed}: {asker} deleted the job of {owner}"
        for attempt in attempts:
            if attempt.outcome == "Complete":
                assert "Complete" in server.ends.values(), f"seed {seed}: success of a job that was never complete"
                mine = [line.partition("] ")[2] for line in attempt.said if line.startswith("[")]
                assert mine == [line for line in lines if line in mine], f"seed {seed}: lines twice or out of order"
            elif " failed: " in attempt.outcome:
                assert "Failed" in server.ends.values(), f"seed {seed}: failure of a job that never failed"
            else:
                assert attempt.outcome == "killed" or "taken over" in attempt.outcome or "was deleted by someone else" in attempt.outcome
        if end == "Complete" and any(a.fate == "left" for a in attempts) and len(attempts) == 1:
            assert attempts[0].outcome == "Complete"
        kinds = [("taken over" if "taken over" in a.outcome else "failed" if " failed" in a.outcome else a.outcome) for a in attempts]
        return {kind: kinds.count(kind) for kind in kinds} | {"left to the reaper": len(left), "jobs made": len(server.made)}


def test_twelve_interleavings_leave_no_orphan_and_a_true_status():
    assert all(interleaving(seed)["jobs made"] <= 4 for seed in range(12))


@pytest.mark.slow
def test_two_hundred_interleavings_leave_no_orphan_and_a_true_status():
    total: dict[str, int] = {}
    for seed in range(1000, 1200):
        for key, count in interleaving(seed).items():
            total[key] = total.get(key, 0) + count
    print(json.dumps(total))
    assert {"Complete", "failed", "killed", "left to the reaper"} <= set(total)  # each of them occurred
    assert total["left to the reaper"] > 0 and total.get("taken over", 0) > 0


def test_retries_keep_to_retry_after_and_stop_when_asked(cluster):
    from kubernetes.client import ApiException

    stop, waits = threading.Event(), []
    stop.wait = lambda seconds: waits.append(seconds) or len(waits) == 4  # type: ignore[method-assign]
    errors = [ApiException(status=503), ApiException(status=429), ApiException(status=500), ApiException(status=0)]
    errors[1].headers = {"Retry-After": "7"}

    def request() -> None:
        raise errors[len(waits)]

    with pytest.raises(Stopped):
        with_retries(request, stop, first_wait=0.5)
    assert waits == [0.5, 7.0, 2.0, 4.0]
    final = ApiException(status=403)
    with pytest.raises(ApiException):
        with_retries(lambda: (_ for _ in ()).throw(final), threading.Event())


def test_an_outage_ends_in_one_error_with_the_last_status(cluster):
    from kubernetes import client

    cluster.fault = lambda method, path: "503"
    custom = client.CustomObjectsApi(client.ApiClient(client.Configuration(host=cluster.url)))
    with pytest.raises(ConnectionError, match=r"did not respond within 0 s \(503"):
        with_retries(lambda: custom.get_cluster_custom_object("a.b", "v1", "queues", "x"), threading.Event(), seconds=0.2, first_wait=0.05)
    assert len(cluster.requests) == 0


def test_a_trainjob_can_be_written_as_yaml():
    job = trainjob("distill", "m-x", POOL, "/mnt/a.json", "r")
    assert yaml.safe_load(yaml.safe_dump(job)) == job
