"""Launching TrainJobs on an API server that validates by the published schema: what a job has, who owns it, who adopts and who deletes it."""

import json
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from moworld.files import write_json
from moworld_ops.components.platform.context import CONTEXT, NODE, StepContext
from moworld_ops.components.platform.launch import run_step
from moworld_ops.components.platform.pools import text
from moworld_ops.components.platform.reaper import reap
from moworld_ops.components.platform.steps import recorded
from moworld_ops.components.platform.trainjobs import job_name, run_trainjobs, trainjob
from tests.cluster import CRDS, Script, check_custom, wait_for
from tests.moworld_ops.components.platform.launchers import POOL, client_of, pools, ranks_finish, step_call, workflow


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


def test_a_trainjob_can_be_written_as_yaml():
    job = trainjob("distill", "m-x", POOL, "/mnt/a.json", "r")
    assert yaml.safe_load(yaml.safe_dump(job)) == job


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
    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path / "volume" / "home"))
    tried = []
    for attempt in ("executor(0)", "executor(1)", "executor(2)", "executor(0)"):  # the last one is a resumed run
        monkeypatch.setenv(NODE, f"x.root.train.{attempt}")
        model = SimpleNamespace(name="model", path=str(tmp_path / "model"), metadata={})
        with pytest.raises(SystemExit) as ended, recorded(model):
            launch(tmp_path, pools(tmp_path)[:1])
        assert ended.value.code == 2
        tried.append(len(cluster.made))
    assert tried == [1, 1, 1, 2] and cluster.jobs() == {}


def test_a_run_that_continues_another_one_has_its_checkpoints(cluster, tmp_path, launch, monkeypatch):
    """A job's folder keeps the name that it had in the first run; the job itself belongs to the new run."""
    seen = {}

    def ranks_resume(job: dict) -> None:
        seen[job["metadata"]["name"]] = json.loads(Path(job["spec"]["trainer"]["command"][-1]).read_text())["out"]
        ranks_finish(job)

    cluster.on_create = ranks_resume
    monkeypatch.setenv(CONTEXT, StepContext(step="train_curriculum-1", continues="r0").text())
    launch(tmp_path, pools(tmp_path)[:1])
    assert seen == {"m-r1-train-curriculum-1-0": str(tmp_path / "volume" / "m-r0-train-curriculum-1-0" / "out")}
