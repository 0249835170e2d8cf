"""OpenLineage events of a run: run, steps, data sets with their versions (https://openlineage.io/spec), for Marquez, DataHub and others.

They are sent if OPENLINEAGE_URL is set, the variable of OpenLineage's own clients; OPENLINEAGE_API_KEY is sent as a bearer token, and
OPENLINEAGE_NAMESPACE names the jobs' namespace. A run does not depend on the endpoint: what goes wrong there is one line.
"""

import os
import socket
import sys
import uuid
from datetime import UTC, datetime
from typing import Any

from moworld_ops.components.platform.home import home
from moworld_ops.components.platform.source import REPOSITORY
from moworld_ops.pipelines.runs import Run, ordered

SPEC = "https://openlineage.io/spec"
EVENT = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
FACETS = {
    "version": f"{SPEC}/facets/1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet",
    "parent": f"{SPEC}/facets/1-2-0/ParentRunFacet.json#/$defs/ParentRunFacet",
    "errorMessage": f"{SPEC}/facets/1-0-1/ErrorMessageRunFacet.json#/$defs/ErrorMessageRunFacet",
}
ENDS = {"done": "COMPLETE", "cancelled": "ABORT"}  # any other status is FAIL
TIMEOUT_SECONDS = 5.0

Event = dict[str, Any]


def start_event(run: Run) -> Event:
    """Returns the START event of the run's attempt."""
    record = run.record
    return _event("START", record["attempts"][-1]["started"], _run_id(record), _job(record), {})


def end_events(run: Run) -> list[Event]:
    """Returns START and end of each step that ran in the run's last attempt, then the end of the run."""
    record, attempt = run.record, len(run.record["attempts"])
    parent = {"parent": {"run": {"runId": _run_id(record)}, "job": _job(record)}}
    events, live = [], run.steps()
    for name, step in ordered(record):
        found = live.get(name, {})
        if found.get("attempt") != attempt or "seconds" not in found:
            continue
        identity, job = str(uuid.uuid5(uuid.UUID(_run_id(record)), name)), _job(record, name)
        inputs = [one for need in step["needs"] for one in _outputs(record, live.get(need, {}))]
        facets = {**parent, **_failure(found)}
        events.append(_event("START", found["started"], identity, job, parent, inputs))
        end = found["started"] + found["seconds"]
        events.append(_event(ENDS.get(found["status"], "FAIL"), end, identity, job, facets, inputs, _outputs(record, found)))
    last = record["attempts"][-1]
    features = _outputs(record, run.step("cache_features"))
    end = last["started"] + last["seconds"]
    return [*events, _event(ENDS.get(record["status"], "FAIL"), end, _run_id(record), _job(record), _failure(record), [], features)]


def cluster_events(record: dict[str, Any], outputs: dict[str, dict[str, str]]) -> list[Event]:
    """Returns START and end of a run on the cluster that has ended, and of each of its steps. They are equal on every machine that asks KFP.

    outputs: URIs of the artifacts that each step wrote (`kubeflow_outputs.outputs_of`)
    """
    whole = uuid.uuid5(uuid.NAMESPACE_URL, f"{REPOSITORY}/kubeflow/{record['kubeflow']['id']}")
    parent = {"parent": {"run": {"runId": str(whole)}, "job": _job(record)}}
    events, written = [_event("START", record["started"], str(whole), _job(record), {})], list[Event]()
    for name, step in ordered(record):
        if step.get("started") is None or step["status"] in ("waiting", "running"):
            continue
        made = [_artifact(uri) for uri in outputs.get(name, {}).values()]
        identity, job, facets = str(uuid.uuid5(whole, name)), _job(record, name), {**parent, **_failure(step)}
        events.append(_event("START", step["started"], identity, job, parent))
        end = step["started"] + step["seconds"]
        events.append(_event(ENDS.get(step["status"], "FAIL"), end, identity, job, facets, [], made))
        written += made
    end = record["started"] + record["seconds"]
    return [*events, _event(ENDS.get(record["status"], "FAIL"), end, str(whole), _job(record), _failure(record), [], written)]


def send(events: list[Event]) -> str:
    """Posts events to OPENLINEAGE_URL, in order; returns the problem of the first that was not accepted, "" if all were or there is no URL."""
    endpoint = os.environ.get("OPENLINEAGE_URL", "").rstrip("/")
    if not endpoint:
        return ""
    import httpx2

    key = os.environ.get("OPENLINEAGE_API_KEY", "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx2.Client(timeout=TIMEOUT_SECONDS, headers=headers) as client:
            for event in events:
                client.post(f"{endpoint}/api/v1/lineage", json=event).raise_for_status()
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:  # ValueError: a text or a number that cannot be sent
        return f"OPENLINEAGE_URL: {endpoint}: {' '.join(str(error).split()) or type(error).__name__}; this run's lineage is incomplete there"
    return ""


def announce(events: list[Event]) -> None:
    """Sends events and prints what went wrong."""
    if problem := send(events):
        print(f"warning: {problem}", file=sys.stderr)


def _event(kind: str, when: float, identity: str, job: Any, facets: Any, inputs: Any = (), outputs: Any = ()) -> Event:
    return {
        "eventType": kind,
        "eventTime": datetime.fromtimestamp(when, UTC).isoformat(),
        "producer": REPOSITORY,
        "schemaURL": EVENT,
        "run": {"runId": identity, "facets": _facets(facets)},
        "job": job,
        "inputs": list(inputs),
        "outputs": list(outputs),
    }


def _facets(values: dict[str, Any]) -> dict[str, Any]:
    return {name: {"_producer": REPOSITORY, "_schemaURL": FACETS[name], **value} for name, value in values.items()}


def _run_id(record: dict[str, Any]) -> str:
    """Returns the UUID of the run's last attempt: equal for equal records."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{REPOSITORY}/runs/{record['run']}/{record['attempts'][-1]['started']}"))


def _job(record: dict[str, Any], step: str = "") -> dict[str, str]:
    name = f"{record['pipeline']}-{record['profile']}" + (f".{step}" if step else "")
    return {"namespace": os.environ.get("OPENLINEAGE_NAMESPACE") or "moworld", "name": name}


def _outputs(record: dict[str, Any], step: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the data sets that a step wrote: features at their DVC revision, others by path and SHA-256."""
    summary = step.get("summary") or {}
    revision = summary.get("revision", summary.get("data_revision", ""))
    found = []
    for output in step.get("outputs", {}).values():
        namespace, name, version = f"file://{socket.gethostname()}", output["path"], output["sha256"]
        if revision and output["path"].rstrip("/").endswith("features"):
            registry = record["settings"]["registry"]
            namespace, name, version = "dvc", f"{registry['data'] or home() / 'registry'}/features", revision
        found.append({"namespace": namespace, "name": name, "facets": _facets({"version": {"datasetVersion": version}})})
    return found


def _artifact(uri: str) -> dict[str, Any]:
    scheme, _, path = uri.partition("://")
    bucket, _, key = path.partition("/")
    return {"namespace": f"{scheme}://{bucket}", "name": key, "facets": {}}


def _failure(facts: dict[str, Any]) -> dict[str, Any]:
    return {"errorMessage": {"message": facts["error"], "programmingLanguage": "Python"}} if facts.get("error") else {}
