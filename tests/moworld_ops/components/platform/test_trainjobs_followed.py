"""Following TrainJobs to their end: the lines of their ranks, what they wait for, why they failed, their deadline."""

import pytest

from moworld_ops.components.platform.pools import parse, text
from moworld_ops.components.platform.trainjobs import Launcher, trainjob
from tests.cluster import Script
from tests.moworld_ops.components.platform.launchers import POOL, client_of, pools, queue_of, ranks_finish


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


def test_a_failed_job_fails_the_step_with_its_reason_and_frees_the_other_pool(cluster, tmp_path, launch):
    ended = {"name": "node", "image": "", "imageID": "", "ready": False, "restartCount": 0}
    killed = {**ended, "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    cluster.script = lambda job: (
        Script("Running", "Failed", pod={"containerStatuses": [killed]}) if queue_of(job) == "low-noise" else Script("Running")
    )
    with pytest.raises(RuntimeError, match="m-r1-train-curriculum-1-1 failed: out of memory: pod m-r1-train-curriculum-1-1-node-0-0-x"):
        launch(tmp_path, pools(tmp_path))
    assert cluster.jobs() == {} and len(cluster.deleted) == 2


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
