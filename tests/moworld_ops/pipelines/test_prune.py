"""`runs prune`: what it deletes, what it keeps and why; and lists with records that cannot be read."""

import json
import os
import time

import pytest

from moworld.errors import InputError
from moworld_ops.components.platform.home import environment
from moworld_ops.components.platform.registry import ModelRegistry
from moworld_ops.pipelines.prune import Policy, decide, delete
from moworld_ops.pipelines.runs import Run
from tests.moworld_ops.pipelines.command import Command

DAY = 86400.0


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "home"


def make_run(home, name, age_days=100.0, status="done", profile="pocket", steps=("collect",), arguments=None, **record):
    folder = home / "runs" / name
    started = time.time() - age_days * DAY
    for part in ("checkpoints/train/state", *(f"artifacts/{step}/out" for step in steps)):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / part).write_bytes(bytes(100_000))
    (folder / "steps").mkdir()
    for step in steps:
        (folder / "steps" / f"{step}.json").write_text(json.dumps({"status": "done", "outputs": {"out": {"path": str(folder / "artifacts" / step)}}}))
    (folder / "log.txt").write_text(f"log of {name}\n")
    values = {"run": name, "engine": "local", "pipeline": "data", "profile": profile, "status": status, "started": started, **record}
    (folder / "run.json").write_text(json.dumps({**values, "arguments": arguments or {}, "settings": {"registry": {"tracking": ""}}}))
    return folder


def decided(**policy):
    return {one.run: one for one in decide(Policy(**policy))}


def test_checkpoints_of_finished_runs_go_and_those_that_a_resume_needs_stay(home):
    for status in ("done", "killed", "failed", "refused", "cancelled"):
        make_run(home, status, age_days=1, status="running" if status == "killed" else status)
    found = decided()
    assert {name: one.delete for name, one in found.items()} == {
        "done": "checkpoints", "killed": "", "failed": "", "refused": "", "cancelled": "",
    }  # fmt: skip
    assert 100_000 <= found["done"].size < 200_000 and all(delete(one) for one in found.values())
    assert not (home / "runs/done/checkpoints").exists() and (home / "runs/done/artifacts/collect/out").is_file()
    assert (home / "runs/failed/checkpoints/train/state").is_file()
    assert decided()["done"].delete == ""


def test_an_old_run_goes_as_a_whole_and_the_newest_of_each_pipeline_and_profile_stay(home):
    for index in range(4):
        make_run(home, f"run-{index}", age_days=100 - index)
        make_run(home, f"other-{index}", age_days=100 - index, profile="test")
    make_run(home, "young", age_days=3, profile="pocket")
    found = decided(keep=2, days=30)
    assert [name for name, one in found.items() if one.delete == "run"] == ["run-0", "other-0", "run-1", "other-1", "run-2"]
    assert all(delete(one) for one in found.values())
    assert sorted(path.name for path in (home / "runs").iterdir()) == ["other-2", "other-3", "run-3", "young"]
    assert not (home / "pruned").exists()


def test_the_newest_output_of_each_step_stays_although_later_runs_failed_before_it(home):
    make_run(home, "only-teacher", age_days=90, steps=("collect", "train_curriculum-5"))
    make_run(home, "later", age_days=80)
    make_run(home, "latest", age_days=70)
    found = decided(keep=1, days=0)
    assert {name: one.delete for name, one in found.items()} == {"only-teacher": "checkpoints", "later": "run", "latest": "checkpoints"}
    assert "the newest output of train_curriculum-5" in found["only-teacher"].reason


def test_inputs_of_kept_runs_stay_also_by_way_of_others(home):
    make_run(home, "root", age_days=99)
    make_run(home, "middle", age_days=98, arguments={"features": str(home / "runs/root/artifacts/collect")})
    make_run(home, "unused", age_days=97)
    make_run(home, "last", age_days=1, arguments={"teacher": str(home / "runs/middle/artifacts/collect")})
    found = decided(keep=1, days=30)
    assert {name for name, one in found.items() if one.delete == "run"} == {"unused"}
    assert found["middle"].reason.endswith("run last reads its outputs") and found["root"].reason.endswith("run middle reads its outputs")


def test_a_run_that_a_registered_model_names_stays_and_an_unreadable_registry_stops_everything(home):
    make_run(home, "registered")
    make_run(home, "unnamed", age_days=99)
    make_run(home, "newest", age_days=98)
    client = ModelRegistry().client
    client.create_registered_model("moworld-pocket")
    client.create_model_version("moworld-pocket", "file:///nowhere", tags={"run": "registered"})
    found = decided(keep=1, days=0)
    assert found["registered"].delete == "checkpoints" and "moworld-pocket version 1" in found["registered"].reason
    assert found["unnamed"].delete == "run"
    (home / "broken.db").write_bytes(b"no database" * 1000)
    with environment(MLFLOW_TRACKING_URI=f"sqlite:///{home}/broken.db"), pytest.raises(InputError, match="no old run is deleted"):
        decided(keep=1, days=0)


def test_runs_in_progress_on_the_cluster_and_by_links_are_not_touched(home):
    busy = make_run(home, "busy")
    make_run(home, "cluster", engine="kubeflow", kubeflow={"endpoint": "http://127.0.0.1:1", "id": "1"})
    linked = make_run(home, "linked")
    os.rename(linked, home / "elsewhere")
    linked.symlink_to(home / "elsewhere")
    make_run(home, "newest", age_days=1)
    found = decided(keep=1, days=0)
    assert {found[name].delete for name in ("cluster", "linked", "newest")} == {"", "checkpoints"}
    assert found["cluster"].delete == found["linked"].delete == "" and found["busy"].delete == "run"
    with Run(busy).locked():  # it was resumed after the decision
        assert not delete(found["busy"])
    assert (busy / "checkpoints/train/state").is_file()


def test_hard_links_to_files_elsewhere_do_not_count_as_freed(home):
    make_run(home, "done", age_days=1)
    os.link(home / "runs/done/checkpoints/train/state", home / "kept")
    assert decided()["done"].size == 0


def test_the_command_deletes_nothing_without_delete(home, tmp_path, monkeypatch, capsys):
    moworld = Command(tmp_path, monkeypatch, capsys, KFP_ENDPOINT="")
    make_run(home, "old")
    make_run(home, "new", age_days=1)
    (home / "runs/broken").mkdir()
    (home / "runs/broken/run.json").write_text("{")
    done = moworld("runs", "prune", "--keep", "1")
    assert done.returncode == 0 and "would delete" in done.stdout and "nothing was deleted, add --delete" in done.stderr
    assert (home / "runs/old").is_dir() and "not touched" in done.stderr and "broken/run.json" in done.stderr
    rows = json.loads(moworld("runs", "prune", "--keep", "1", "--delete", "--json").stdout)
    assert [(row["run"], row["delete"], row["deleted"]) for row in rows] == [("old", "run", True), ("new", "checkpoints", True)]
    assert rows[0]["bytes"] > 200_000 and sorted(path.name for path in (home / "runs").iterdir()) == ["broken", "new"]
    assert moworld("runs", "logs", "new").stdout == "log of new\n"


@pytest.mark.parametrize("content", ["{", "[]", '{"started": "yesterday", "status": "done"}', "", '{"status": 3}', "[" * 100_000, "\x00"])
def test_a_record_that_cannot_be_read_stops_no_other_run(home, tmp_path, monkeypatch, capsys, content):
    moworld = Command(tmp_path, monkeypatch, capsys, KFP_ENDPOINT="")
    make_run(home, "good")
    (home / "runs/broken").mkdir()
    (home / "runs/broken/run.json").write_text(content)
    done = moworld("runs", "list", "--json")
    assert done.returncode == 0 and [(row["run"], row["status"]) for row in json.loads(done.stdout)] == [("good", "done"), ("broken", "unreadable")]
    assert "broken/run.json" in done.stderr
    assert moworld("runs", "show", "latest").returncode == 0
    wrong = moworld("runs", "show", "broken")
    assert wrong.returncode == 2 and len(wrong.stderr.splitlines()) == 1 and "broken/run.json" in wrong.stderr


RECORDS = [
    {"attempts": "x"}, {"attempts": None}, {"attempts": [{}]}, {"started": float("nan")}, {"started": 1e300}, {"started": -1e12}, {"started": True},
    {"seconds": float("inf")}, {"settings": []}, {"settings": None}, {"settings": {"registry": None}}, {"settings": {"registry": {"tracking": 5}}},
    {"steps": {"collect": None}}, {"steps": {"collect": {"status": "done"}}}, {"pipeline": [1]}, {"profile": {}}, {"engine": ["kubeflow"]},
    {"engine": "kubeflow"}, {"engine": "kubeflow", "kubeflow": "x"}, {"engine_process": "abc"}, {"engine_process": 5},
]  # fmt: skip


@pytest.mark.parametrize("change", RECORDS, ids=str)
def test_a_record_with_a_wrong_value_stops_no_other_run(home, tmp_path, monkeypatch, capsys, change):
    moworld = Command(tmp_path, monkeypatch, capsys, KFP_ENDPOINT="")
    for name in ("good", "broken"):
        make_run(home, name)
    file = home / "runs/broken/run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "running"} | change))
    done = moworld("runs", "list", "--json")
    assert done.returncode == 0 and [(row["run"], row["status"]) for row in json.loads(done.stdout)] == [("good", "done"), ("broken", "unreadable")]
    done = moworld("runs", "prune", "--keep", "0", "--days", "0", "--delete")
    assert done.returncode == 0 and "not touched" in done.stderr and file.is_file()
    for command in ("show", "logs", "cancel"):
        done = moworld("runs", command, "broken")
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "broken/run.json" in done.stderr


@pytest.mark.parametrize("content", ["{", "[]", "null", "{}", '{"status": "done", "outputs": {"videos": 5}}', "\x00"])
def test_a_step_s_record_that_cannot_be_read_keeps_its_run_and_stops_no_other(home, tmp_path, monkeypatch, capsys, content):
    moworld = Command(tmp_path, monkeypatch, capsys, KFP_ENDPOINT="")
    for name in ("old", "damaged"):
        make_run(home, name)
    make_run(home, "new", age_days=1)
    (home / "runs/damaged/steps/collect.json").write_text(content)
    rows = {row["run"]: row for row in json.loads(moworld("runs", "prune", "--keep", "0", "--days", "0", "--delete", "--json").stdout)}
    assert rows["old"]["deleted"] and rows["damaged"]["delete"] != "run" and "collect.json" in rows["damaged"]["reason"]
    assert (home / "runs/damaged/run.json").is_file()


def test_a_long_name_is_never_broken_into_lines(home, tmp_path, monkeypatch, capsys):
    name = "lifecycle-" + "a-long-profile-name-" * 4 + "20261130-101010"
    make_run(home, name)
    for command in (("runs", "list"), ("runs", "prune")):
        assert name in Command(tmp_path, monkeypatch, capsys, KFP_ENDPOINT="", COLUMNS="80")(*command).stdout
