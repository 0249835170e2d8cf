"""Outputs and logs of a run from the Workflow that KFP keeps; its nodes are made by hand after the sources of KFP 2.17."""

import json

from moworld_ops.pipelines.kubeflow_outputs import logs_of, outputs_of


def driver(graph: str, task: str, salt: str) -> dict:
    artifacts = {name: {"artifacts": [{"uri": f"minio://b/{task}/{salt}/{name}"}]} for name in ("clips", "executor-logs")}
    planned = json.dumps({"inputs": {}, "outputs": {"artifacts": artifacts, "parameters": {}}})
    pod = {"containers": [{"name": "main", "command": ["launch", "--executor_input", planned, "--", "python"]}]}
    outputs = {"parameters": [{"name": "cached-decision", "value": "false"}, {"name": "pod-spec-patch", "value": json.dumps(pod)}]}
    return {"name": f"{graph}.{task}-driver(0)", "type": "Pod", "phase": "Succeeded", "outputs": outputs}


def node(name: str, phase: str, ended: str = "") -> dict:
    return {"name": name, "phase": phase, "finishedAt": ended}


def workflow(*nodes: dict) -> dict:
    return {"status": {"nodes": {str(number): one for number, one in enumerate(nodes)}}}


def test_only_finished_steps_have_outputs_and_the_logs_are_not_among_them():
    found = outputs_of(
        workflow(
            node("w.root", "Failed"),
            node("w.root.collect(0)", "Succeeded"),
            node("w.root.annotate(0)", "Failed"),
            driver("w.root", "collect", "x"),
            driver("w.root", "annotate", "y"),
        )
    )
    assert found == {"collect": {"clips": "minio://b/collect/x/clips"}}


def test_a_graph_that_argo_has_repeated_has_the_outputs_of_the_attempt_that_finished():
    """The cluster's defaults repeat graphs too; each attempt of the root has its own drivers, and so its own URIs."""
    first, second = "w(0).root(0)", "w(0).root(1)"
    nodes = [
        driver(second, "collect", "second"), node(f"{second}.collect(0)", "Succeeded"),
        driver(first, "collect", "first"), node(f"{first}.collect(0)", "Failed"),
        node(f"{second}.collect(0).executor(1)", "Succeeded", "2026-01-01T00:00:03Z"),
        node(f"{second}.collect(0).executor(0)", "Error", "2026-01-01T00:00:02Z"),
        node(f"{first}.collect(0).executor(0)", "Failed", "2026-01-01T00:00:01Z"),
        node(f"{first}.collect(1).executor(0)", "Running", ""),
    ]  # fmt: skip
    assert outputs_of(workflow(*nodes)) == {"collect": {"clips": "minio://b/collect/second/clips"}}
    assert list(logs_of(workflow(*nodes)).values()) == [
        "minio://b/collect/second/executor-logs-0",
        "minio://b/collect/second/executor-logs-1",
    ]


def test_a_workflow_that_kfp_does_not_keep_has_nothing():
    assert outputs_of({}) == {} and logs_of({}) == {}
