"""Runs on a cluster, through the command line, against a stateful API server that loses answers."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from moworld.errors import InputError
from moworld_ops.pipelines.cli.app import main
from moworld_ops.pipelines.kubeflow_api import Kubeflow
from moworld_ops.pipelines.placement import STORE_KEYS
from moworld_ops.pipelines.runs import Run
from tests.cluster import Cluster, random_faults, running, wait_for
from tests.kubeflow_api import KubeflowApi

SMALL = ("--profile", "wan22-a14b", "--set", "inputs.features=s3://moworld/features")


@pytest.fixture
def api():
    with running(KubeflowApi()) as server:
        yield server


@pytest.fixture
def moworld(tmp_path, api, monkeypatch, capsys):
    """The command line, in this process: (exit status, stdout, stderr); with wait=False in one of its own."""
    settings = {"MOWORLD_HOME": str(tmp_path), "KFP_ENDPOINT": api.url, "MOWORLD_POLL_SECONDS": "0.02"}

    def call(*arguments, wait=True, **more):
        with monkeypatch.context() as patch:
            for key, value in {**settings, **more}.items():
                patch.setenv(key, value)
            if not wait:
                # a shell that starts tests in its background has them ignore SIGINT, which children inherit
                code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from moworld_ops.pipelines.cli.app import main; main()"
                command = [sys.executable, "-c", code, *arguments]
                return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            patch.setattr(sys, "argv", ["moworld", *arguments])
            status = 0
            try:
                main()
            except SystemExit as error:
                status = int(error.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path))
    return call


def test_a_run_is_uploaded_started_followed_and_listed_like_a_local_one(moworld, api):
    status, out, err = moworld("run", "pretrain", "--engine", "kubeflow", *SMALL, "--json")
    assert status == 0, err
    found = json.loads(out)
    assert found["status"] == "done"
    assert set(found["steps"]) == {"preflight", "importer", "train-curriculum", *(f"train-curriculum-{n}" for n in range(2, 6))}
    assert "#/runs/details/runs-" in err and err.index("preflight") < err.index("train-curriculum-5")
    (run,), (pipeline,) = api.runs, api.pipelines
    assert run["display_name"] == found["run"] and run["service_account"] == "moworld-launcher"
    assert run["runtime_config"]["parameters"] == {"features": "s3://moworld/features", "run": found["run"], "seed": "1"}
    assert pipeline["display_name"] == "moworld-pretrain-wan22-a14b"
    status, out, _ = moworld("runs", "list", "--json")
    (row,) = json.loads(out)
    assert (row["engine"], row["status"], row["run"]) == ("kubeflow", "done", found["run"])
    status, out, _ = moworld("runs", "show", found["run"], "--json")
    assert json.loads(out)["steps"]["preflight"]["status"] == "done"
    moworld("run", "pretrain", "--engine", "kubeflow", *SMALL, "--detach")
    assert len(api.pipelines) == 1 and len(api.versions) == 2 and len(api.runs) == 2  # the same IR is no second version


def test_a_failed_run_names_the_task_and_resumes_from_there(moworld, api):
    api.fails = {"train-curriculum-3"}
    status, out, err = moworld("run", "pretrain", "--engine", "kubeflow", *SMALL)
    assert status == 1 and "failed" in out
    assert "train-curriculum-3: main: Error (exit code 1); continue with: moworld run pretrain --resume" in err
    api.fails = set()
    status, out, err = moworld("run", "pretrain", "--resume", "latest", "--json")
    assert status == 0, err
    assert json.loads(out)["status"] == "done" and len(api.runs) == 1
    status, _, err = moworld("run", "pretrain", "--resume", "latest")
    assert status == 2 and "nothing to resume" in err


def test_a_run_is_listed_by_steps_not_by_the_nodes_of_kfp(moworld, api):
    api.attempts = {"train-curriculum": 3}
    moworld("run", "pretrain", "--engine", "kubeflow", *SMALL, "--detach")
    for _ in range(3):
        status, out, err = moworld("runs", "show", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert {name: (step["status"], step["attempts"]) for name, step in found["steps"].items()} == {
        "importer": ("done", 1), "preflight": ("done", 1), "train-curriculum": ("running", 3),
    }  # fmt: skip
    assert found["seconds"] > 0 or found["status"] == "running"
    assert found["page"] == f"{api.url}/#/runs/details/{api.runs[0]['run_id']}"
    _, out, _ = moworld("runs", "show", COLUMNS="80")
    assert f"page: {found['page']}" in out and not re.search(r"executor|driver|\(0\)", out)
    _, out, _ = moworld("runs", "list", COLUMNS="80")
    assert found["run"] in out  # in one line


def test_the_lineage_of_a_run_is_sent_once_by_the_command_that_sees_its_end(moworld, api):
    """The endpoint refuses it here, which is one line and not the run's failure."""
    status, _, err = moworld("run", "pretrain", "--engine", "kubeflow", *SMALL, OPENLINEAGE_URL=api.url)
    assert status == 0 and err.count("this run's lineage is incomplete there") == 1, err
    _, _, err = moworld("runs", "show", OPENLINEAGE_URL=api.url)
    assert "lineage" not in err


def test_a_running_run_has_taken_the_time_since_its_start(moworld, api):
    moworld("run", "pretrain", "--engine", "kubeflow", *SMALL, "--detach")
    run = Run.existing("latest")
    run.update(started=run.record["started"] - 100)
    moworld("runs", "list")
    assert 100 <= Run.existing("latest").record["seconds"] < 1000


def test_the_fake_answers_with_fields_of_kfps_own_models(moworld, api):
    import kfp_server_api as kfp

    moworld("run", "pretrain", "--engine", "kubeflow", *SMALL, "--detach")
    run = api.answer("GET", f"/apis/v2beta1/runs/{api.runs[0]['run_id']}", {}, None)[1]
    for model, answer in (
        (kfp.V2beta1Run, run),
        (kfp.V2beta1PipelineTaskDetail, run["run_details"]["task_details"][0]),
        (kfp.V2beta1RuntimeStatus, run["state_history"][0]),
        (kfp.PipelineTaskDetailChildTask, {"pod_name": ""}),
    ):
        assert set(answer) <= set(model.attribute_map.values()), model
    assert all(task["error"] is None for task in run["run_details"]["task_details"])


@pytest.mark.parametrize("source", ["KFP", "the cluster", "nowhere"])
def test_a_failed_run_says_the_first_error_of_its_workflow(moworld, api, tmp_path, source):
    api.fails, api.keeps_workflows = {"preflight"}, source == "KFP"
    message = 'pods "w-1" is forbidden: error looking up service account moworld/moworld-launcher: serviceaccount "moworld-launcher" not found'
    nodes = {
        "w-1-2": {"name": "w-1(0).root(0).preflight(0)", "type": "DAG", "phase": "Error", "message": "child failed", "finishedAt": "2026-01-01"},
        "w-1-1": {"name": "w-1(0).root(0).preflight-driver(0)", "type": "Pod", "phase": "Error", "message": message, "finishedAt": "2026-01-02"},
    }
    with running(Cluster()) as cluster:
        settings = {"KUBECONFIG": str(cluster.kubeconfig(tmp_path / "kubeconfig"))} if source == "the cluster" else {"KUBECONFIG": ""}
        moworld("run", "pretrain", "--engine", "kubeflow", *SMALL, "--detach")
        run_id = api.runs[0]["run_id"]
        workflow = {"metadata": {"name": "w-1", "labels": {"pipeline/runid": run_id}}, "status": {"nodes": nodes}}
        cluster.put("/apis/argoproj.io/v1alpha1/namespaces/moworld/workflows/w-1", workflow)
        for _ in range(4):
            _, out, err = moworld("runs", "show", "--json", **settings)
    expected = {
        "KFP": "preflight: main: Error (exit code 1)",
        "the cluster": f"preflight: {message}",
        "nowhere": f"kubectl -n moworld get workflows -l pipeline/runid={run_id}",
    }
    assert expected[source] in json.loads(out)["error"], err


def test_a_run_is_refused_before_anything_is_sent_if_its_pods_could_not_be_created(moworld, api, tmp_path):
    with running(Cluster()) as cluster:
        settings = {"KUBECONFIG": str(cluster.kubeconfig(tmp_path / "kubeconfig"))}
        space = "/api/v1/namespaces/moworld"
        objects = {
            space: {"metadata": {"name": "moworld"}},
            f"{space}/serviceaccounts/moworld-launcher": {"metadata": {"name": "moworld-launcher"}},
            f"{space}/persistentvolumeclaims/moworld-work": {"metadata": {"name": "moworld-work"}},
            f"{space}/secrets/moworld-object-store": {"data": dict.fromkeys(STORE_KEYS, "")},
            f"{space}/secrets/moworld-signing": {"data": {"signing.pem": "", "signing.pub": ""}},
            f"{space}/secrets/moworld-mlflow": {"data": {"backend-store-uri": ""}},
        }
        cluster.put(space, objects[space])
        for path in list(objects)[1:]:
            status, _, err = moworld("run", "pretrain", "--engine", "kubeflow", *SMALL, "--detach", **settings)
            assert status == 2 and path.rpartition("/")[2] in err and "found nothing" in err, err
            cluster.put(path, objects[path])
        assert not api.runs and not api.versions
        status, _, err = moworld("run", "pretrain", "--engine", "kubeflow", *SMALL, "--detach", **settings)
        assert status == 0 and "not checked" not in err, err
    _, _, err = moworld("run", "pretrain", "--engine", "kubeflow", *SMALL, "--detach", KUBECONFIG="")
    assert "were not checked: KUBECONFIG is not set" in err


def test_a_resumed_run_refuses_what_it_would_ignore(moworld, api):
    api.fails = {"preflight"}
    moworld("run", "pretrain", "--engine", "kubeflow", *SMALL)
    for arguments, words in (
        (("distill",), "pipeline: found distill, expected 'pretrain'"),
        (("pretrain", "--profile", "pocket"), "--profile: found pocket"),
        (("pretrain", "--set", "seed=3"), "--set: found ['seed=3']"),
        (("pretrain", "--schedule", "0 0 3 * * *"), "--schedule"),
    ):
        status, _, err = moworld("run", *arguments, "--resume", "latest")
        assert status == 2 and words in err, err
    assert api.runs[0]["state"] == "FAILED"
    assert moworld("run", "pretrain", "--profile", "wan22-a14b", "--resume", "latest", "--detach")[0] == 0


def test_a_schedule_that_is_refused_leaves_the_old_one(moworld, api):
    moworld("run", "pretrain", "--engine", "kubeflow", *SMALL, "--schedule", "0 0 3 * * *")
    api.fault = lambda method, path: "400" if (method, path) == ("POST", "/apis/v2beta1/recurringruns") else ""
    for cron in ("0 0 25 * * *", "0 0 4 * * *"):
        assert moworld("run", "pretrain", "--engine", "kubeflow", *SMALL, "--schedule", cron)[0] == 2
        assert [one["trigger"]["cron_schedule"]["cron"] for one in api.schedules] == ["0 0 3 * * *"]


def test_a_watch_may_end_and_the_run_is_cancelled_by_name(moworld, api):
    process = moworld("run", "pretrain", "--engine", "kubeflow", *SMALL, wait=False, MOWORLD_POLL_SECONDS="1000")
    wait_for(lambda: api.runs and api.runs[0]["state"] == "RUNNING", seconds=120)
    wait_for(lambda: (seen := len(api.requests)) and not time.sleep(1.5) and len(api.requests) == seen)  # it has requested the state, and waits
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "moworld runs cancel pretrain-wan22" in err, err
    status, out, err = moworld("runs", "cancel")
    assert status == 0 and "cancelling pretrain-wan22" in out, err
    _, out, _ = moworld("runs", "list", "--json")
    assert api.runs[0]["state"] == "FAILED" and json.loads(out)[0]["status"] == "cancelled"  # KFP says FAILED of a terminated run
    _, out, _ = moworld("runs", "show", "--json")
    assert {step["status"] for step in json.loads(out)["steps"].values()} <= {"done", "cancelled"}
    status, _, err = moworld("runs", "cancel")
    assert status == 2 and "nothing to cancel" in err


def test_runs_of_others_and_of_schedules_are_listed_too(moworld, api, tmp_path):
    status, out, err = moworld("run", "pretrain", "--engine", "kubeflow", *SMALL, "--schedule", "0 0 3 * * *", "--json")
    assert status == 0, err
    (schedule,) = api.schedules
    assert int(schedule["max_concurrency"]) == 1 and schedule["no_catchup"] is True and schedule["mode"] == "ENABLE"
    assert schedule["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert schedule["runtime_config"]["parameters"]["run"] == ""  # each run takes the id that the cluster assigns
    moworld("run", "pretrain", "--engine", "kubeflow", *SMALL, "--schedule", "0 0 4 * * *")
    assert [one["trigger"]["cron_schedule"]["cron"] for one in api.schedules] == ["0 0 4 * * *"]
    status, out, _ = moworld("runs", "schedules", "--json")
    assert json.loads(out)[0]["schedule"] == "pretrain-wan22-a14b"
    api.page = 1
    for name in ("pretrain-wan22-a14b-a1", "../../etc"):
        reference = {key: api.versions[-1][key] for key in ("pipeline_id", "pipeline_version_id")}
        api.answer(
            "POST",
            "/apis/v2beta1/runs",
            {},
            {
                "experiment_id": api.experiments[0]["experiment_id"],
                "display_name": name,
                "pipeline_version_reference": reference,
                "runtime_config": schedule["runtime_config"],
            },
        )
    _, out, err = moworld("runs", "list", "--json")
    assert sorted(row["run"] for row in json.loads(out)) == ["pretrain-wan22-a14b-a1", api.runs[1]["run_id"]], err
    assert moworld("runs", "unschedule", "pretrain-wan22-a14b")[0] == 0 and api.schedules == []
    status, _, err = moworld("runs", "unschedule", "pretrain-wan22-a14b")
    assert status == 2 and "no such schedule" in err
    status, _, err = moworld("run", "pretrain", "--engine", "kubeflow", *SMALL, "--schedule", "0 3 * * *")
    assert status == 2 and "six fields" in err


def test_an_unreliable_server_gets_each_run_once(api, tmp_path, monkeypatch):
    """Answers are lost after the request was executed: a retried start must not start a second run."""
    monkeypatch.setenv("KFP_ENDPOINT", api.url)
    from moworld_ops.pipelines.kubeflow_runs import submit

    for seed in range(4):
        monkeypatch.setenv("MOWORLD_HOME", str(tmp_path / str(seed)))
        faults = random_faults(seed, 0.25)
        api.fault = lambda method, path, faults=faults: (
            "" if path.endswith("healthz") else {"429": "503", "500": "lost"}.get(fault := faults(method, path), fault)
        )
        run = submit("pretrain", "wan22-a14b", ["inputs.features=s3://moworld/features", f"seed={seed}"])
        assert len(api.runs) == seed + 1 and api.runs[-1]["run_id"] == run.record["kubeflow"]["id"]
    names = [one["display_name"] for one in api.versions]
    assert len(api.pipelines) == 1 and len(names) == len(set(names))


def test_an_endpoint_that_is_not_there_is_one_line_within_ten_seconds(moworld):
    status, out, err = moworld("run", "lifecycle", "--profile", "wan22-a14b", "--engine", "kubeflow", KFP_ENDPOINT="http://127.0.0.1:1")
    assert status == 2 and out == "" and len(err.strip().splitlines()) == 1 and "no connection" in err
    status, _, err = moworld("runs", "list", KFP_ENDPOINT="http://127.0.0.1:1")
    assert status == 0 and "not up to date" in err


def test_a_refusal_has_the_message_of_the_server(api, tmp_path, monkeypatch):
    monkeypatch.setenv("KFP_ENDPOINT", api.url)
    kubeflow = Kubeflow()
    package = tmp_path / "pipeline.yaml"
    package.write_text("pipelineInfo: {name: x}\nschemaVersion: 2.1.0\nsdkVersion: kfp-2.17.0\nnonsense: 1\nroot: {dag: {tasks: {}}}\n")
    with pytest.raises(InputError, match="invalid IR"):
        kubeflow.upload("x", package)


def test_logs_are_those_of_the_runs_pods_and_the_reaper_deletes_jobs_without_a_run(moworld, api, tmp_path):
    with running(Cluster()) as cluster:
        kubeconfig = str(cluster.kubeconfig(tmp_path / "kubeconfig"))
        moworld("run", "pretrain", "--engine", "kubeflow", *SMALL, "--detach")
        run_id = api.runs[0]["run_id"]
        name = f"/api/v1/namespaces/moworld/pods/pod-{run_id}"
        status, _, err = moworld("runs", "logs", KUBECONFIG=kubeconfig)
        assert status == 2 and "none in namespace moworld, and no artifact executor-logs" in err, err
        cluster.put(name, {"metadata": {"name": f"pod-{run_id}", "labels": {"pipeline/runid": run_id}}, "status": {"phase": "Running"}})
        status, out, err = moworld("runs", "logs", KUBECONFIG=kubeconfig)
        assert status == 0 and f"== pod-{run_id} (Running)" in out, err
        workflows = "/apis/argoproj.io/v1alpha1/namespaces/moworld/workflows"
        cluster.put(f"{workflows}/pretrain-x", {"metadata": {"name": "pretrain-x", "labels": {"pipeline/runid": run_id}}, "spec": {}})
        jobs = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/moworld/trainjobs"
        for one in (run_id, "long-gone"):
            labels = {"app.kubernetes.io/part-of": "moworld", "moworld.io/run": one}
            cluster.put(f"{jobs}/m-{one}", {"metadata": {"name": f"m-{one}", "labels": labels}, "spec": {}})
        _, out, _ = moworld("runs", "reap", "--json", KUBECONFIG=kubeconfig)
        assert json.loads(out) == ["m-long-gone"] and list(cluster.jobs()) == [f"m-{run_id}"]


@pytest.mark.parametrize("packed", [False, True])
def test_logs_outlive_the_pods_and_the_workflow(moworld, api, packed):
    """By recorded answers: KFP's copy of the Workflow names the logs, its page server returns them."""
    api.packed, api.fails, api.attempts = packed, {"train-curriculum-2"}, {"train-curriculum-2": 2}
    moworld("run", "pretrain", "--engine", "kubeflow", *SMALL)
    run_id = api.runs[0]["run_id"]
    for step, number in (("preflight", 0), ("train-curriculum", 0), ("train-curriculum-2", 0), ("train-curriculum-2", 1)):
        api.artifacts[f"minio://mlpipeline/v2/artifacts/pretrain/{run_id}/{step}/id/executor-logs-{number}"] = f"{step} {number}\nsaid ä\n".encode()
    status, out, err = moworld("runs", "logs", KUBECONFIG="")
    assert status == 0, err
    lines = out.splitlines()
    assert [line for line in lines if line.startswith("== ")] == [
        f"== {step}, attempt {number} (minio://mlpipeline/v2/artifacts/pretrain/{run_id}/{step}/id/executor-logs-{number})"
        for step, number in (("preflight", 0), ("train-curriculum", 0), ("train-curriculum-2", 0), ("train-curriculum-2", 1))
    ]
    assert lines[-2:] == ["train-curriculum-2 1", "said ä"]
    api.artifacts.popitem()  # of a pod that was killed
    status, out, err = moworld("runs", "logs", KUBECONFIG="")
    assert status == 0 and "train-curriculum-2 0" in out and "no log: status 404" in out.splitlines()[-1], err
    api.artifacts.clear()
    status, _, err = moworld("runs", "logs", KUBECONFIG="")
    assert status == 2 and "status 404" in err and "mlpipeline-minio-artifact" in err, err
    api.keeps_workflows = False
    status, _, err = moworld("runs", "logs", KUBECONFIG="")
    assert status == 2 and "no artifact executor-logs" in err, err


def test_a_record_of_a_cluster_run_is_readable_without_the_cluster(moworld, api):
    moworld("run", "pretrain", "--engine", "kubeflow", *SMALL)
    status, out, err = moworld("runs", "show", "latest", "--json", KFP_ENDPOINT="")
    assert status == 0 and json.loads(out)["status"] == "done", err
    assert Run.existing("latest").on_cluster


def test_an_input_may_be_the_output_of_another_run_on_the_cluster(moworld, api):
    """By recorded answers. `pretrain` takes the features of `data`, by its name here and by its id in KFP."""
    status, out, err = moworld("run", "data", "--profile", "test", "--engine", "kubeflow", "--json")
    assert status == 0, err
    made, run_id = json.loads(out)["run"], api.runs[0]["run_id"]
    for reference in (made, run_id):
        start = ("run", "pretrain", "--profile", "test", "--engine", "kubeflow", "--set", f"inputs.features=run:{reference}", "--detach")
        assert moworld(*start)[0] == 0
        uri = f"minio://mlpipeline/v2/artifacts/data/{run_id}/cache-features/id/features"
        assert api.runs[-1]["runtime_config"]["parameters"]["features"] == uri
        task = api.versions[-1]["pipeline_spec"]["root"]["dag"]["tasks"]["preflight"]
        assert json.loads(task["inputs"]["parameters"]["settings"]["runtimeValue"]["constant"])["artifacts"] == [uri]
    count = len(api.runs)
    for pipeline, name, words in (
        ("pretrain", "features=run:none", "run none: features: found no finished step, or no Workflow"),
        ("distill", f"teacher=run:{made}", "expected a run that finished step train_curriculum-5"),
    ):
        more = ("--set", f"inputs.features=run:{made}", "--set", f"inputs.{name}")
        status, _, err = moworld("run", pipeline, "--profile", "test", "--engine", "kubeflow", *more, "--detach")
        assert status == 2 and words in err and len(err.strip().splitlines()) == 1, err
    assert len(api.runs) == count


def test_a_local_run_is_no_input_of_a_run_on_the_cluster(moworld, api, tmp_path):
    Run(tmp_path / "runs" / "r-1").update(run="r-1", engine="local", status="done", started=1)
    status, _, err = moworld("run", "pretrain", "--profile", "test", "--engine", "kubeflow", "--set", "inputs.features=run:r-1")
    assert status == 2 and "run r-1: engine: found a local run" in err and not api.runs, err


def test_a_run_that_kfp_cannot_retry_is_continued_by_a_new_one(moworld, api):
    """By recorded answers: KFP refuses runs whose nodes it does not have in its database. The second new run has all that both have made."""
    api.fails, api.retries = {"annotate"}, False
    assert moworld("run", "data", "--profile", "test", "--engine", "kubeflow", "--set", "seed=5")[0] == 1
    first = api.runs[0]["run_id"]
    api.fails = {"cache-features"}
    status, out, err = moworld("run", "data", "--resume", "latest", "--json")
    assert status == 1 and "cannot retry run data-test-" in err and "kept: check-quality, collect, complete-geometry" in err, err
    tasks = api.versions[-1]["pipeline_spec"]["root"]["dag"]["tasks"]
    assert set(tasks) == {"preflight", "check-quality-accepted", "annotate", "train-codec", "cache-features"}
    assert api.runs[1]["runtime_config"]["parameters"] == {"seed": "5", "run": json.loads(out)["run"]}
    api.fails = set()
    status, out, err = moworld("run", "data", "--resume", "latest", "--json")
    assert status == 0 and json.loads(out)["status"] == "done", err
    spec = api.versions[-1]["pipeline_spec"]
    assert set(spec["root"]["dag"]["tasks"]) == {"preflight", "annotate-captioned", "train-codec-codec", "cache-features"}
    text = json.dumps(spec)
    assert f"minio://mlpipeline/v2/artifacts/data/{api.runs[1]['run_id']}/annotate/id/captioned" in text
    assert first in text and api.runs[1]["run_id"] != first  # the checkpoints of both are in the folder of the first
    assert len(api.runs) == 3 and len(api.pipelines) == 1


def test_a_run_that_was_started_elsewhere_and_cannot_be_retried_is_refused(moworld, api):
    api.fails, api.retries = {"preflight"}, False
    moworld("run", "data", "--profile", "test", "--engine", "kubeflow")
    Run.existing("latest").file.unlink()
    moworld("runs", "list")
    status, _, err = moworld("run", "data", "--resume", "latest")
    assert status == 2 and "another machine or a schedule started the run" in err and len(api.runs) == 1, err
