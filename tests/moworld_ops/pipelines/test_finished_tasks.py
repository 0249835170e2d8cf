"""IR of a run that continues another one: the finished tasks of the compiled pipeline `data` and `lifecycle` become importers."""

import json

import pytest
import yaml

from moworld_ops.pipelines import profile
from moworld_ops.pipelines.engine_kubeflow import build_for_cluster, write_ir, write_rest

MADE = {  # as KFP names the outputs
    "collect": {"clips": "minio://b/collect/clips"},
    "complete-geometry": {"clips": "minio://b/posed", "quarantine": "minio://b/q1"},
    "check-quality": {"accepted": "minio://b/accepted", "quarantine": "minio://b/q2", "report": "minio://b/r"},
}


@pytest.fixture(scope="module")
def graph():
    return build_for_cluster("data", profile.load("test")[1], "run-1")


def rest(graph, tmp_path, finished):
    """Returns the replaced tasks, the spec and the Kubernetes settings of what is left."""
    replaced = write_rest(graph, tmp_path / "rest.yaml", finished)
    return (replaced, *yaml.safe_load_all((tmp_path / "rest.yaml").read_text()))


def test_finished_tasks_become_importers_of_the_outputs_that_others_read(graph, tmp_path):
    replaced, spec, platform = rest(graph, tmp_path, {**MADE, "preflight": {"checks": "minio://b/checks"}})
    assert set(replaced) == set(MADE)
    tasks = spec["root"]["dag"]["tasks"]
    assert set(tasks) == {"preflight", "check-quality-accepted", "annotate", "train-codec", "cache-features"}
    source = tasks["annotate"]["inputs"]["artifacts"]["clips"]["taskOutputArtifact"]
    assert source == {"producerTask": "check-quality-accepted", "outputArtifactKey": "artifact"}
    assert tasks["annotate"]["dependentTasks"] == ["check-quality-accepted", "preflight"]
    importer = spec["deploymentSpec"]["executors"]["exec-check-quality-accepted"]["importer"]
    assert importer["artifactUri"] == {"constant": "minio://b/accepted"} and importer["typeSchema"]["schemaTitle"] == "system.Dataset"
    required = json.loads(tasks["preflight"]["inputs"]["parameters"]["settings"]["runtimeValue"]["constant"])
    assert required["artifacts"] == ["minio://b/accepted"]  # whether it still exists is checked first
    executors = set(platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"])
    assert executors == {"exec-preflight", "exec-annotate", "exec-train-codec", "exec-cache-features"}
    environment = {one["name"]: one["value"] for one in spec["deploymentSpec"]["executors"]["exec-annotate"]["container"]["env"]}
    assert json.loads(environment["MOWORLD_CONTEXT"])["continues"] == "run-1"


@pytest.mark.parametrize(
    "finished",
    [
        {"check-quality": MADE["check-quality"]},  # what it read is made again
        {**MADE, "collect": {}},  # of a run before the step had this output
        {"none": {"x": "y"}},
        {},
    ],
)
def test_a_task_runs_again_if_what_it_reads_does(graph, tmp_path, finished):
    replaced, spec, _ = rest(graph, tmp_path, finished)
    write_ir(graph, tmp_path / "whole.yaml")
    whole = next(yaml.safe_load_all((tmp_path / "whole.yaml").read_text()))
    assert replaced == {} and spec == whole
