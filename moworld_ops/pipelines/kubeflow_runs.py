"""Runs on the cluster through the KFP API: upload, start, watch, cancel, resume, schedule.

A run on the cluster has a folder like a local one. run.json has what was sent, and the API's last answer about the run. The commands
`runs list`, `show`, `logs` and `cancel` read it, so they are the same on both engines.
"""

import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld.files import write_json
from moworld_ops.components.platform.home import home
from moworld_ops.components.platform.images import outdated, unpublished
from moworld_ops.pipelines import profile as profiles
from moworld_ops.pipelines.catalog import arguments
from moworld_ops.pipelines.cron import check_cron
from moworld_ops.pipelines.kubeflow_api import STATES, Kubeflow, account, run_namespace
from moworld_ops.pipelines.kubeflow_outputs import outputs_of, resolved
from moworld_ops.pipelines.kubeflow_tasks import failures, seconds_of, steps_of
from moworld_ops.pipelines.openlineage import announce, cluster_events
from moworld_ops.pipelines.runs import Run, all_runs

POLL_SECONDS = 10.0


def _upload(pipeline: str, name: str, settings: profiles.Profile, api: Kubeflow) -> tuple[str, str]:
    """Compiles a pipeline and uploads its IR; returns the ids of pipeline and version."""
    from moworld_ops.pipelines.engine_kubeflow import build_for_cluster, write_ir

    graph = build_for_cluster(pipeline, settings)
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "pipeline.yaml"
        write_ir(graph, package, settings.images.own)
        return api.upload(f"moworld-{pipeline}-{name}", package)


def submit(pipeline: str, profile: str, overrides: list[str]) -> Run:
    """Compiles, uploads and starts a pipeline; returns the run. Raises InputError before anything is sent.

    Settings and inputs are checked first, before kfp is imported or the cluster is asked.
    """
    name, settings = profiles.load(profile, overrides)
    run = new_run(pipeline, name)
    arguments(pipeline, name, settings, run.name, local=False)
    api = Kubeflow()
    settings = resolved(pipeline, settings)
    values = arguments(pipeline, name, settings, run.name, local=False)
    unchecked = _check_namespace(settings)
    return start(run, api, pipeline, name, settings, values, _upload(pipeline, name, settings, api), unchecked=unchecked)


def new_run(pipeline: str, profile: str) -> Run:
    """Returns a run that does not exist yet, with a name that is unique among machines that submit in the same second."""
    return Run.new(pipeline, profile, suffix=f"-{secrets.token_hex(3)}")


def start(
    run: Run, api: Kubeflow, pipeline: str, profile: str, settings: profiles.Profile, values: dict[str, str], ids: tuple[str, str], **facts: Any
) -> Run:
    """Starts an uploaded version of a pipeline and writes the run's record.

    values: parameters of the pipeline
    ids:    of pipeline and version
    """
    from moworld_ops.pipelines.placement import requirements_of

    run_id = api.start(run.name, *ids, values)
    images = {**requirements_of(settings)["images"], "unpublished": unpublished(), "outdated": outdated()}
    where = {"endpoint": api.endpoint, "id": run_id, "pipeline": ids[0], "version": ids[1], "namespace": run_namespace()}
    empty: dict[str, Any] = {"seconds": 0.0, "steps": {}, "error": "", "unchecked": ""}
    run.begin("kubeflow", pipeline, profile, settings, arguments=values, images=images, kubeflow=where, **{**empty, **facts})
    return run


def schedule(pipeline: str, profile: str, overrides: list[str], cron: str) -> tuple[str, str]:
    """Schedules a pipeline; returns name and id of the schedule. Raises InputError before anything is sent."""
    check_cron(cron)
    name, settings = profiles.load(profile, overrides)
    arguments(pipeline, name, settings, "", local=False)
    api, made = Kubeflow(), f"{pipeline}-{name}"
    settings = resolved(pipeline, settings)
    values = arguments(pipeline, name, settings, "", local=False)  # "": each run takes the id that the cluster assigns
    _check_namespace(settings)
    return made, api.schedule(made, cron, *_upload(pipeline, name, settings, api), values)


def _check_namespace(settings: profiles.Profile) -> str:
    """Returns what could not be checked of the namespace, or "". Raises InputError for what is missing there."""
    from moworld_ops.pipelines.namespace_checks import check_namespace
    from moworld_ops.pipelines.placement import requirements_of

    return check_namespace(run_namespace(), account(), requirements_of(settings))


def refresh(run: Run, api: Kubeflow) -> dict[str, Any]:
    """Reads the run's state, writes run.json and steps/, and returns the record."""
    before = run.record
    seen = api.call(lambda: api.client.get_run(before["kubeflow"]["id"]))
    status, steps = STATES.get(str(seen.state), "running"), steps_of((seen.run_details.task_details if seen.run_details else None) or [])
    asked = _cancelled_at(seen) or before.get("cancel_asked")
    if status == "failed" and asked:  # KFP itself says FAILED of a run that was terminated
        status = "cancelled"
        for step in steps.values():
            if step["status"] == "failed" and step["started"] + step["seconds"] >= asked - 1.0:
                step["status"] = "cancelled"
    error = ""
    if status == "failed":
        for name, message in (reasons := _reasons(run, api)).items():
            if name in steps and steps[name]["status"] == "failed":
                steps[name].setdefault("error", message)
        failed = [f"{name}: {step['error']}" for name, step in steps.items() if step["status"] == "failed" and step.get("error")]
        server = str(seen.error.message) if seen.error else ""
        error = "; ".join(failed) or "; ".join(f"{name}: {text}" for name, text in reasons.items() if name) or reasons.get("", "") or server
    for name, step in steps.items():
        write_json(run.folder / "steps" / f"{name}.json", step)
    for path in (run.folder / "steps").glob("*.json"):
        if path.stem not in steps:
            path.unlink()
    facts = {"status": status, "steps": steps, "error": error}
    if status == "running":
        return run.update(**facts, seconds=max(0.0, time.time() - before["started"]))
    ended = seconds_of(seen.finished_at) or time.time()
    record = run.update(**facts, seconds=max(0.0, ended - before["started"]), exit=0 if status == "done" else 1)
    if before["status"] == "running" and os.environ.get("OPENLINEAGE_URL"):
        announce(cluster_events(record, outputs_of(api.workflow(record["kubeflow"]["id"]))))
    return record


def _cancelled_at(seen: Any) -> float | None:
    """Returns when KFP ended a run because somebody asked for it; None if it ended by itself, or runs again."""
    states = [(str(one.state), seconds_of(one.update_time)) for one in seen.state_history or []]
    while states and states[-1][0] in ("FAILED", "CANCELED"):
        states.pop()
    return states[-1][1] if states and states[-1][0] == "CANCELING" else None


def _reasons(run: Run, api: Kubeflow) -> dict[str, str]:
    """Returns the messages of the failed steps, from the run's Workflow in KFP, else in the cluster, else the command that shows them."""
    run_id, space = run.record["kubeflow"]["id"], run.record["kubeflow"].get("namespace") or run_namespace()
    if found := failures(api.workflow(run_id)):
        return found
    from moworld_ops.pipelines.namespace_checks import workflow_of

    if found := failures(workflow_of(space, run_id)):
        return found
    command = f"kubectl -n {space} get workflows -l pipeline/runid={run_id} -o jsonpath='{{.items[*].status.nodes.*.message}}'"
    return {"": f"KFP gives no reason; it is in the Workflow: {command}"}


def cancel(run: Run) -> None:
    """Terminates a run. Raises InputError unless it is in progress."""
    api = Kubeflow(run.record["kubeflow"]["endpoint"])
    if (status := refresh(run, api)["status"]) != "running":
        raise InputError(run.folder, "status", status, "a run in progress", "there is nothing to cancel")
    run.update(cancel_asked=time.time())
    api.cancel(run.record["kubeflow"]["id"])


def watch(run: Run, progress: Callable[[str, dict[str, Any]], None]) -> dict[str, Any]:
    """Follows a run to its end, calls `progress` for each change of a step's status, and returns the record."""
    pause = float(os.environ.get("MOWORLD_POLL_SECONDS", POLL_SECONDS))
    api = Kubeflow(run.record["kubeflow"]["endpoint"])
    shown: dict[str, str] = {}
    while True:
        record = refresh(run, api)
        for name, step in record["steps"].items():
            if shown.get(name) != step["status"] and step["status"] != "waiting":
                shown[name] = step["status"]
                progress(name, step)
        if record["status"] != "running":
            return record
        time.sleep(pause)


def synchronize(endpoints: list[str]) -> str:
    """Updates the records of runs on the clusters, also of runs started elsewhere; returns why it failed, or ""."""
    for endpoint in endpoints:
        try:
            api = Kubeflow(endpoint)
            known = {run.record["kubeflow"]["id"]: run for run in all_runs() if run.on_cluster}
            experiment = api.experiment()
            for seen in api.call(lambda api=api, experiment=experiment: list(api.listed(experiment))):  # type: ignore[misc]
                run = known.get(seen.run_id) or _record_of(seen, api.endpoint)
                if run.record["status"] == "running":
                    refresh(run, api)
        except InputError as error:
            return str(error)
    return ""


def _record_of(seen: Any, endpoint: str) -> Run:
    """Returns a new record for a run that another machine, or a schedule, has started."""
    name = seen.display_name if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", seen.display_name or "") else seen.run_id
    if (home() / "runs" / name).exists():
        name = f"{name}-{seen.run_id[:8]}"
    run = Run(home() / "runs" / name)
    parameters = (seen.runtime_config.parameters if seen.runtime_config else None) or {}
    run.update(
        run=name, pipeline=name.split("-")[0], profile="", engine="kubeflow", status="running", started=seen.created_at.timestamp(),
        seconds=0.0, arguments=parameters, kubeflow={"endpoint": endpoint, "id": seen.run_id}, steps={}, error="",
    )  # fmt: skip
    return run
