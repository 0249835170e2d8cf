"""Outputs and logs of a run on the cluster, from the Argo Workflow that Kubeflow Pipelines keeps in its database.

The Workflow object is deleted after its time to live, an hour in stock KFP 2.17, and takes the run's pods with it. The copy in KFP's
database stays. In it each step's driver has the pod of the step as its output `pod-spec-patch`, and that pod's argument
`--executor_input` has the URI of each output artifact.
"""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from moworld.errors import InputError
from moworld_ops.components.platform.artifact_store import location
from moworld_ops.components.platform.pod_logs import run_logs
from moworld_ops.pipelines.catalog import FROM_RUN, inputs_of, producer
from moworld_ops.pipelines.kubeflow_api import Kubeflow, run_namespace, token
from moworld_ops.pipelines.profile import Profile
from moworld_ops.pipelines.runs import Run, all_runs

LOGS = "executor-logs"  # artifact in which KFP keeps the log of a pod; -N for attempt N
TIMEOUT_SECONDS = (3.05, 60.0)  # connect, read


def outputs_of(workflow: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Returns the URIs of the output artifacts of each step that has succeeded, by task and output."""
    planned, found = _planned(workflow), {}
    for node in _nodes(workflow):
        graph, _, task = _unnumbered(node).rpartition(".")
        if node.get("phase") == "Succeeded" and (outputs := planned.get((graph, task))) is not None:
            found[task] = {name: uri for name, uri in outputs.items() if name != LOGS}
    return found


def logs_of(workflow: dict[str, Any]) -> dict[tuple[str, int], str]:
    """Returns the URIs of the logs that KFP keeps, by step and attempt, in the order of the attempts' ends. Running pods have none yet."""
    planned, found = _planned(workflow), {}
    for node in sorted(_nodes(workflow), key=lambda node: str(node.get("finishedAt") or "")):
        pod = re.fullmatch(r"(.+)\.([^.]+?)(?:\(\d+\))?\.executor\((\d+)\)", str(node.get("name")))
        if pod and node.get("phase") in ("Succeeded", "Failed", "Error"):
            graph, task, attempt = pod.groups()
            if uri := planned.get((graph, task), {}).get(LOGS):
                found[task, int(attempt)] = f"{uri}-{attempt}"
    return found


def resolved(pipeline: str, profile: Profile) -> Profile:
    """Returns the profile with the URI of a run's output for each input of the pipeline that is run:RUN. Raises InputError as `run_output`."""
    given = {name: getattr(profile.inputs, name) for name in inputs_of(pipeline, profile)}
    found = {name: run_output(value.removeprefix(FROM_RUN), *producer(name, profile)) for name, value in given.items() if value.startswith(FROM_RUN)}
    return profile.model_copy(update={"inputs": profile.inputs.model_copy(update=found)})


def run_output(reference: str, step: str, output: str) -> str:
    """Returns the URI of an output that a run on the cluster has made.

    reference: name of a recorded run, or the id of a run in KFP
    step:      name of the step in its pipeline, such as train_curriculum-5
    Raises InputError for a run that is not on a cluster, that KFP does not have, or that has not finished the step.
    """
    api, run_id = _cluster_run(reference)
    task = step.replace("_", "-").removesuffix("-1")  # KFP numbers the tasks of one component from 2
    made = outputs_of(api.workflow(run_id))
    if not (uri := made.get(task, {}).get(output)):
        expected = f"a run that finished step {step}"
        found = f"finished steps {', '.join(sorted(made))}" if made else "no finished step, or no Workflow in KFP's database"
        raise InputError(f"run {reference}", output, found, expected, "name another run, or the URI of the artifact")
    return uri


def cluster_logs(run: Run) -> Iterator[str]:
    """Yields the log lines of a run: of its pods, or, if none exists any more, of the artifacts in which KFP keeps them.

    A log that KFP could not keep, as of a pod that was killed, is one line with the reason. Raises InputError if there is no log at all.
    """
    where = run.record["kubeflow"]
    space = where.get("namespace") or run_namespace()
    try:
        yield from run_logs(where["id"], space)
    except InputError as no_pods:
        kept = logs_of(Kubeflow(where["endpoint"]).workflow(where["id"]))
        if not kept:
            fix = "start KFP with PUBLISH_LOGS=true, its default, to keep the logs of later runs"
            raise InputError(f"run {run.name}", "logs", f"{no_pods.found}, and no artifact {LOGS}", "pods or artifacts", fix) from None
    else:
        return
    readable = 0
    for (step, attempt), uri in kept.items():
        yield f"== {step}, attempt {attempt} ({uri})"
        try:
            yield from read_artifact(uri, where["endpoint"], space).splitlines()
            readable += 1
        except InputError as error:
            last = error
            yield f"no log: {error.found}"
    if not readable:
        raise last


def read_artifact(uri: str, endpoint: str, space: str) -> str:
    """Returns the text of an artifact: from KFP's page server, which reads the store for its users, else from the store itself.

    Raises InputError if neither answers.
    """
    import requests

    scheme, _, path = uri.partition("://")
    bucket, _, key = path.partition("/")
    query = urlencode({"source": {"gs": "gcs"}.get(scheme, scheme), "namespace": space, "bucket": bucket, "key": key})
    headers = {"Authorization": f"Bearer {known}"} if (known := token()) else {}
    try:
        answer = requests.get(f"{endpoint}/artifacts/get?{query}", headers=headers, timeout=TIMEOUT_SECONDS)
        if answer.status_code == 200 and "text/html" not in answer.headers.get("Content-Type", ""):  # HTML: a login page, or the page itself
            return answer.content.decode("utf-8", "replace")
        reason = f"status {answer.status_code} of {endpoint}/artifacts/get"
    except requests.RequestException as error:
        reason = f"{type(error).__name__} of {endpoint}/artifacts/get"
    return _from_store(uri, space, reason)


def _from_store(uri: str, space: str, reason: str) -> str:
    """Returns the text of an artifact in its object store, opened as KFP's launchers do.

    reason: why KFP's page server did not return it
    """
    import fsspec

    from moworld_ops.pipelines.namespace_checks import object_of

    try:
        place, options = location(uri, lambda name: object_of(space, name))
        with fsspec.open(place, "rb", **options) as stream:
            return str(stream.read().decode("utf-8", "replace"))
    except Exception as error:  # each store has its own errors; without a cluster there are no keys
        found = f"{reason}; {type(error).__name__}: {error}"
        fix = "set KFP_ENDPOINT to the address of KFP's page, or run this where the store can be reached"
        raise InputError(uri, "", found[:400], "a readable artifact", fix) from None


def _cluster_run(reference: str) -> tuple[Kubeflow, str]:
    """Returns the KFP API and the id of a run there. Raises InputError for a local run."""
    for run in all_runs():
        where = run.record.get("kubeflow")
        if run.name == reference and where is None:
            expected = "a run on the cluster, whose pods can read it"
            raise InputError(f"run {reference}", "engine", "a local run", expected, "name another run, or upload the directory and name its URI")
        if where and reference in (run.name, where["id"]):
            return Kubeflow(where["endpoint"]), str(where["id"])
    return Kubeflow(), reference


def _planned(workflow: dict[str, Any]) -> dict[tuple[str, str], dict[str, str]]:
    """Returns the URIs that the driver of each step chose for its outputs, by the name of the graph around the step, and the task."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for node in _nodes(workflow):
        graph, _, task = _unnumbered(node).rpartition(".")
        for parameter in (node.get("outputs") or {}).get("parameters") or []:
            if task.endswith("-driver") and parameter.get("name") == "pod-spec-patch" and parameter.get("value"):
                found[graph, task.removesuffix("-driver")] = _uris(json.loads(parameter["value"]))
    return found


def _uris(pod: dict[str, Any]) -> dict[str, str]:
    command = next(iter(pod.get("containers") or [{}]))
    words = [*(command.get("command") or []), *(command.get("args") or [])]
    if "--executor_input" not in words:
        return {}
    planned = json.loads(words[words.index("--executor_input") + 1]).get("outputs", {}).get("artifacts", {})
    return {name: str(one["artifacts"][0]["uri"]) for name, one in planned.items() if one.get("artifacts")}


def _nodes(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return list(((workflow.get("status") or {}).get("nodes") or {}).values())


def _unnumbered(node: dict[str, Any]) -> str:
    """Returns the name of a node without the number of its last attempt: w-1(0).root(0).collect for w-1(0).root(0).collect(1)."""
    return re.sub(r"\(\d+\)$", "", str(node.get("name", "")))
