"""Exchange folders that runs left on the shared volume, and the state of their runs on an API server."""

import os
import time
from pathlib import Path

import pytest

from moworld_ops.components.platform.cluster import connect
from moworld_ops.components.platform.leftovers import main, mark, remove_counts, remove_leftovers
from moworld_ops.components.platform.workflows import run_is_over
from tests.cluster import Cluster, running

DAY = 86400.0


def age(folder: Path, days: float) -> None:
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (time.time() - days * DAY,) * 2)


def left(volume: Path, name: str, run: str, days: float) -> Path:
    folder = volume / name
    mark(folder, run)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step-10").write_text("weights")
    age(folder, days)
    return folder


def test_only_old_folders_of_runs_that_are_over_are_removed(tmp_path):
    for name, run, days in (("m-1", "cancelled", 8), ("m-2", "cancelled", 1), ("m-3", "working", 30), ("m-4", "gone", 8)):
        left(tmp_path, name, run, days)
    (tmp_path / "home").mkdir()  # the state folder: no run made it
    (tmp_path / "home" / "ledger").write_text("lines")
    age(tmp_path / "home", 400)
    assert remove_leftovers(tmp_path, lambda run: run != "working", 7 * DAY) == ["m-1", "m-4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "m-2", "m-3"]


def test_a_folder_that_a_rank_still_writes_to_stays(tmp_path):
    folder = left(tmp_path, "m-1", "over", 30)
    (folder / "checkpoints" / "step-20").write_text("weights")
    for path in (folder, folder / "checkpoints"):
        os.utime(path, (0, 0))
    assert remove_leftovers(tmp_path, lambda run: True, 7 * DAY) == []


def test_the_counts_of_attempts_go_with_their_run(tmp_path):
    for run in ("over", "working"):
        (tmp_path / "home" / "attempts" / run).mkdir(parents=True)
        (tmp_path / "home" / "attempts" / run / "collect.json").write_text("{}")
    assert remove_counts(tmp_path, lambda run: run == "over") == ["over"]
    assert [path.name for path in (tmp_path / "home" / "attempts").iterdir()] == ["working"]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    with running(Cluster()) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
        yield server


def put_workflow(cluster, run: str, phase: str) -> None:
    path = f"/apis/argoproj.io/v1alpha1/namespaces/moworld/workflows/w-{run}"
    cluster.put(path, {"metadata": {"name": f"w-{run}", "labels": {"pipeline/runid": run}}, "status": {"phase": phase}})


def test_a_run_is_over_without_a_workflow_that_works(cluster):
    for run, phase in (("a", "Running"), ("b", "Failed"), ("c", "Succeeded"), ("d", "Error")):
        put_workflow(cluster, run, phase)
    assert {run: run_is_over(connect(), "moworld", run) for run in "abcdx"} == {"a": False, "b": True, "c": True, "d": True, "x": True}


def test_the_command_says_what_it_removed(cluster, tmp_path, capsys):
    volume = tmp_path / "volume"
    left(volume, "m-1", "a", 8), left(volume, "m-2", "b", 8)
    for run in "ab":
        (volume / "home" / "attempts" / run).mkdir(parents=True)
    put_workflow(cluster, "b", "Running")
    assert main([str(volume), "7", "30"]) == 0
    said = (f"removed {volume}/m-1: its run is over", "removed the counts of attempts of run a: it is over")
    assert capsys.readouterr().out.splitlines() == list(said)
    assert sorted(path.name for path in volume.iterdir()) == ["home", "m-2"]
