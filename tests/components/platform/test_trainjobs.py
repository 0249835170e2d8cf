"""The launcher of TrainJobs against an API server that checks by the published schema, fails, and loses answers."""

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

from components.platform.trainjobs import Launcher, job_name, reap, trainjob
from tests.cluster import CRDS, Cluster, Script, check_custom, random_faults, running, wait_for

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
    "mount": "/mnt/moworld",
}


@pytest.mark.skipif(not CRDS.is_dir(), reason="the TrainJob schema lies beside the repository, not in it")
def test_a_trainjob_keeps_the_published_schema():
    job = trainjob("train_curriculum", "m-run-1", POOL, "/mnt/moworld/run-1/arguments.json", "run-1")
    check_custom(job, "trainer-trainjobs.yaml")
    job["spec"]["podSpecOverrides"] = []
    with pytest.raises(AssertionError, match="not known"):
        check_custom(job, "trainer-trainjobs.yaml")


def test_names_are_labels_that_leave_room_and_differ_where_steps_differ():
    long = "1f0c2a5e-lifecycle-wan22-a14b-20261124-123949"
    names = {job_name(long, step, index) for step in ("train_curriculum-1", "train_curriculum-2", "distill") for index in (0, 1)}
    assert len(names) == 6 and all(len(name) <= 46 and name[0] == "m" for name in names)
    assert job_name("r1", "train_curriculum-1", 0) == "m-r1-train-curriculum-1-0"


@pytest.fixture
def cluster():
    with running(Cluster()) as server:
        yield server


LAUNCHER = "import json, sys; from components.platform.launch import run_step; print(json.dumps(run_step(*json.loads(sys.argv[1]))))"


def launcher(cluster: Cluster, tmp_path: Path, pools: list[dict], **more: str) -> subprocess.Popen:
    (tmp_path / "features").mkdir(exist_ok=True)
    (tmp_path / "features" / "index").write_text("index")
    arguments = {"features": str(tmp_path / "features"), "previous": None, "out": str(tmp_path / "model"), "seed": 1}
    call = json.dumps(["train_curriculum", arguments, json.dumps({"jobs": pools})])
    environment = {
        **os.environ,
        "KUBECONFIG": str(cluster.kubeconfig(tmp_path / "kubeconfig")),
        "MOWORLD_RUN": "r1",
        "MOWORLD_STEP": "train_curriculum-1",
        "MOWORLD_POLL_SECONDS": "0.05",
        **more,
    }
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
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights").write_text(expert)
    path.with_name("summary.json").write_text(json.dumps({expert: 1}))


def queue_of(job: dict) -> str:
    (replicated,) = job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]["template"]["metadata"]["annotations"]["scheduling.volcano.sh/queue-name"]


def test_two_jobs_run_side_by_side_their_lines_are_passed_on_and_their_experts_come_together(cluster, tmp_path):
    jobs = {}
    cluster.on_create = lambda job: (ranks_finish(job), jobs.update({job["metadata"]["name"]: job}))
    cluster.script = lambda job: Script("", "Running", "Running", "Running", "Complete", lines=("step 1", "step 2", "loss 0.5", "saved"))
    out, err = launcher(cluster, tmp_path, pools(tmp_path)).communicate(timeout=60)
    assert json.loads(out.splitlines()[-1] if out else "null") == {"high": 1, "low": 1}, err
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


def test_a_failed_job_fails_the_step_with_its_reason_and_frees_the_other_pool(cluster, tmp_path):
    ended = {"name": "node", "image": "", "imageID": "", "ready": False, "restartCount": 0}
    killed = {**ended, "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    cluster.script = lambda job: (
        Script("Running", "Failed", pod={"containerStatuses": [killed]}) if queue_of(job) == "low-noise" else Script("Running")
    )
    process = launcher(cluster, tmp_path, pools(tmp_path))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "m-r1-train-curriculum-1-1 failed: out of memory: pod m-r1-train-curriculum-1-1-node-0-0-x" in err
    assert cluster.jobs() == {} and len(cluster.deleted) == 2


@pytest.mark.parametrize("when", ["while the first job is made", "while both run"])
def test_a_cancelled_pipeline_holds_no_accelerator(cluster, tmp_path, when):
    cluster.script = lambda job: Script("Running")
    process: list[subprocess.Popen] = []
    if when == "while the first job is made":  # the answer comes after the signal: the job exists, and must still be deleted
        cluster.on_create = lambda job: (process[0].send_signal(signal.SIGTERM), threading.Event().wait(0.3))
    process.append(launcher(cluster, tmp_path, pools(tmp_path)))
    if when == "while both run":
        wait_for(lambda: len(cluster.jobs()) == 2 and len(cluster.requests) > 8)
        process[0].send_signal(signal.SIGTERM)
    process[0].communicate(timeout=60)
    assert process[0].returncode == 128 + signal.SIGTERM
    assert cluster.jobs() == {} and len(cluster.made) == len(cluster.deleted)


def test_a_launcher_that_was_killed_is_followed_by_one_that_adopts_its_job_and_stages_nothing_again(cluster, tmp_path):
    cluster.script = lambda job: Script("Running")
    first = launcher(cluster, tmp_path, pools(tmp_path)[:1])
    wait_for(lambda: cluster.jobs() and len(cluster.requests) > 5)
    first.kill()
    first.communicate()
    (job,) = cluster.jobs().values()
    read_by_ranks = tmp_path / "volume" / job["metadata"]["name"] / "in" / "features" / "index"
    before = read_by_ranks.stat()
    ranks_finish(job)
    cluster.script = lambda job: Script("Complete")
    out, err = launcher(cluster, tmp_path, pools(tmp_path)[:1], KFP_POD_UID="second").communicate(timeout=60)
    assert json.loads(out.splitlines()[-1] if out else "null") == {"high": 1}, err
    assert "adopted" in out and len(cluster.made) == 1
    assert not read_by_ranks.exists() and before.st_mtime  # removed only after the results were out


def test_a_job_that_failed_before_or_was_specified_otherwise_is_made_anew(cluster, tmp_path):
    cluster.on_create = ranks_finish
    for change in ("failed", "specified otherwise"):
        (tmp_path / change).mkdir()
        name = job_name("r1", "train_curriculum-1", 0)
        left = trainjob("train_curriculum", name, {**POOL, "cpu": "1"}, "/elsewhere", "r1")
        left["_reads"] = 0
        if change == "failed":
            left = trainjob(
                "train_curriculum", name, pools(tmp_path / change)[0], str(tmp_path / change / "volume" / name / "arguments.json"), "r1"
            )
            left["_reads"] = 0
        uid = cluster.put(f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/moworld/trainjobs/{name}", left)["metadata"]["uid"]
        cluster.script = lambda job, uid=uid, change=change: Script(
            "Failed" if job["metadata"]["uid"] == uid and change == "failed" else "Complete"
        )
        out, err = launcher(cluster, tmp_path / change, pools(tmp_path / change)[:1]).communicate(timeout=60)
        assert json.loads(out.splitlines()[-1] if out else "null") == {"high": 1}, err
        assert "made anew" in out


def test_a_refused_job_says_what_the_server_said(cluster, tmp_path):
    if not cluster.validate:
        pytest.skip("the TrainJob schema lies beside the repository, not in it")
    bad = [{**pools(tmp_path)[0], "node_selector": {"accelerator": 1}}]
    _, err = launcher(cluster, tmp_path, bad).communicate(timeout=60)
    assert "refused TrainJob moworld/m-r1-train-curriculum-1-0: 400 strict decoding error" in err and "nodeSelector" in err


class Killed(BaseException):
    """What SIGKILL is to a process: nothing runs after it."""


class Mortal:
    """Makes an ApiClient die at its n-th request, before it is sent or before its answer is read."""

    def __init__(self, api, at: int, answered: bool) -> None:
        ask, self.count = api.call_api, 0

        def call(*args, **kwargs):
            self.count += 1
            if self.count > at or (self.count == at and not answered):
                raise Killed
            answer = ask(*args, **kwargs)
            if self.count == at:
                raise Killed
            return answer

        api.call_api = call


class Attempt(threading.Thread):
    """One launcher pod, in a thread: told to end or killed at a chosen request."""

    def __init__(self, server: Cluster, job: dict, owner: str, chance: random.Random) -> None:
        super().__init__(daemon=True)
        from kubernetes import client

        settings = client.Configuration(host=server.url)
        settings.retries = False
        api = client.ApiClient(settings)
        api.set_default_header("X-Launcher", owner)
        self.fate = chance.choice(["left", "left", "SIGTERM", "SIGKILL", "SIGKILL"])
        at, answered = chance.randint(1, 14), chance.random() < 0.5
        stop = threading.Event()
        if self.fate == "SIGKILL":
            Mortal(api, at, answered)
        elif self.fate == "SIGTERM":
            ask, asked = api.call_api, []

            def call(*args, **kwargs):
                asked.append(1)
                if len(asked) == at:
                    stop.set()
                return ask(*args, **kwargs)

            api.call_api = call
        self.said: list[str] = []
        self.launcher = Launcher(api, "moworld", owner, stop, self.said.append, poll_seconds=0.002, grace_seconds=5.0)
        self.job, self.outcome = json.loads(json.dumps(job)), ""

    def run(self) -> None:
        name = self.job["metadata"]["name"]
        try:
            with self.launcher.holding([name]):
                self.launcher.ensure(self.job, lambda: None)
                self.launcher.follow([name])
                self.outcome = "Complete"
        except Killed:
            self.outcome = "killed"
        except SystemExit as error:
            assert error.code == 128 + signal.SIGTERM
            self.outcome = "told to end"
        except RuntimeError as error:
            self.outcome = str(error)


def interleaving(seed: int) -> dict[str, int]:
    """Attempts of one step, some at once, some killed, against a server in trouble; checks what must hold, counts what happened."""
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
                attempt.launcher.stop.set()  # nothing else would end it
            attempts.append(attempt)
            attempt.start()
            if chance.random() < 0.7 or number == 3:  # else the next one starts while this one is still at work, as after a lost node
                attempt.join(0.05 if end == "Running" and attempt.fate == "left" else 60)
            if attempt.outcome in ("Complete", "told to end"):
                break
        for attempt in attempts:
            if end == "Running":
                attempt.launcher.stop.set()
            attempt.join(60)
            assert not attempt.is_alive(), f"seed {seed}: an attempt hangs"
        names = {name for name, _ in server.made}
        assert len(names) <= 1, f"seed {seed}: two jobs for one step: {names}"
        left = server.jobs()
        alive = {attempt.launcher.owner for attempt in attempts if attempt.outcome != "killed"}
        for one in left.values():  # only a launcher that was killed leaves a job, for the next one, or for the reaper
            assert one["metadata"]["annotations"]["moworld.io/launcher"] not in alive, f"seed {seed}: orphan of a launcher that ended"
        server.fault = lambda method, path: ""
        from kubernetes import client

        assert reap(client.ApiClient(client.Configuration(host=server.url)), "moworld", lambda run: run != "run") == []
        assert reap(client.ApiClient(client.Configuration(host=server.url)), "moworld", lambda run: run == "run") == sorted(left)
        assert server.jobs() == {}, f"seed {seed}: orphan"
        for asker, owner, state in server.deletions[: len(server.deletions) - len(left)]:  # all but the reaper's
            assert asker == owner or state == "Failed", f"seed {seed}: {asker} deleted the job of {owner}"
        for attempt in attempts:
            if attempt.outcome == "Complete":
                assert "Complete" in server.ends.values(), f"seed {seed}: success of a job that was never complete"
                mine = [line.partition("] ")[2] for line in attempt.said if line.startswith("[")]
                assert mine == [line for line in lines if line in mine], f"seed {seed}: lines twice or out of order"
            elif " failed: " in attempt.outcome:
                assert "Failed" in server.ends.values(), f"seed {seed}: failure of a job that never failed"
            else:
                assert attempt.outcome in ("killed", "told to end") or "taken over" in attempt.outcome or "is gone" in attempt.outcome
        if end == "Complete" and any(a.fate == "left" for a in attempts) and len(attempts) == 1:
            assert attempts[0].outcome == "Complete"
        kinds = [("taken over" if "taken over" in a.outcome else "failed" if " failed" in a.outcome else a.outcome) for a in attempts]
        return {kind: kinds.count(kind) for kind in kinds} | {"left to the reaper": len(left), "jobs made": len(server.made)}


def test_twenty_interleavings_leave_no_orphan_and_a_true_status():
    assert all(interleaving(seed)["jobs made"] <= 4 for seed in range(20))


@pytest.mark.slow
def test_two_hundred_interleavings_leave_no_orphan_and_a_true_status():
    total: dict[str, int] = {}
    for seed in range(1000, 1200):
        for key, count in interleaving(seed).items():
            total[key] = total.get(key, 0) + count
    print(json.dumps(total))
    assert {"Complete", "failed", "killed", "told to end", "left to the reaper"} <= set(total)  # each of them did happen
    assert total["left to the reaper"] > 0 and total.get("taken over", 0) > 0


def test_an_outage_ends_in_a_plain_word_and_the_job_stays_for_the_next_attempt(cluster):
    from kubernetes import client

    from components.platform.cluster import patiently

    cluster.fault = lambda method, path: "503"
    custom = client.CustomObjectsApi(client.ApiClient(client.Configuration(host=cluster.url)))
    with pytest.raises(ConnectionError, match=r"no answer for 0 s \(503"):
        patiently(lambda: custom.get_cluster_custom_object("a.b", "v1", "queues", "x"), threading.Event(), seconds=0.2, first_wait=0.05)
    assert len(cluster.requests) == 0


def test_yaml_of_a_trainjob_is_plain():
    job = trainjob("distill", "m-x", POOL, "/mnt/a.json", "r")
    assert yaml.safe_load(yaml.safe_dump(job)) == job
