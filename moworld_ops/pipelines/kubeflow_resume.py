"""Continues a run on the cluster that failed or was cancelled.

Kubeflow Pipelines retries a run itself: it changes the run's Workflow, or creates it again from its database after the Workflow's time to
live. It refuses a run whose Workflow's nodes it does not have. Then a new run starts with the outputs of the finished steps, and with
the checkpoints of the former run, which are on the shared volume.
"""

import tempfile
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld_ops.pipelines import profile as profiles
from moworld_ops.pipelines.kubeflow_api import Kubeflow
from moworld_ops.pipelines.kubeflow_outputs import outputs_of
from moworld_ops.pipelines.kubeflow_runs import new_run, refresh, start
from moworld_ops.pipelines.runs import Run


def resume(run: Run, pipeline: str, ignored: dict[str, Any]) -> Run:
    """Runs the unfinished tasks of a failed or cancelled run; returns it, or the new run that continues it.

    ignored: options of the command that would change nothing, because the tasks of a run on a cluster are fixed; empty ones are not given
    Raises InputError for another pipeline, an option that would be ignored, and a run that is in progress or done.
    """
    record = run.record
    if not run.on_cluster:
        raise InputError(
            run.folder, "engine", "a local run", "a run on a cluster", f"omit --engine: moworld run {pipeline} --resume {run.name}"
        )
    if record.get("pipeline") != pipeline:
        raise InputError(run.folder, "pipeline", pipeline, f"'{record.get('pipeline')}', as at the start", "name the run's own pipeline")
    for option, value in ignored.items():
        if value and value != record.get(option.removeprefix("--")):
            fix = f"omit it, or start a new run: moworld run {pipeline} --engine kubeflow"
            raise InputError(run.folder, option, value, "nothing: a run on a cluster continues with the tasks it was started with", fix)
    api = Kubeflow(record["kubeflow"]["endpoint"])
    status = refresh(run, api)["status"]
    if status in ("running", "done"):
        raise InputError(run.folder, "status", status, "a run that failed or was cancelled", "there is nothing to resume")
    try:
        api.retry(record["kubeflow"]["id"])
    except InputError as refused:
        return _continue(run, api, refused)
    run.update(status="running", error="", exit=None, cancel_asked=None)
    return run


def _continue(run: Run, api: Kubeflow, refused: InputError) -> Run:
    """Starts a run of the tasks that `run` has not finished, with its settings and the code of today.

    refused: why KFP cannot retry the run itself
    """
    record = run.record
    pipeline, profile, former = record["pipeline"], record["profile"], record.get("continues") or {}
    if "settings" not in record:
        found = f"{refused.found}; and no settings here, because another machine or a schedule started the run"
        raise InputError(run.folder, "settings", found, "a run that was started here", f"moworld run {pipeline} --engine kubeflow") from None
    first = former.get("id") or record["kubeflow"]["id"]  # the checkpoints have its name
    finished = {**former.get("steps", {}), **outputs_of(api.workflow(record["kubeflow"]["id"]))}
    settings = profiles.parse(record["settings"], str(run.file))
    from moworld_ops.pipelines.engine_kubeflow import build_for_cluster, write_rest

    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "pipeline.yaml"
        kept = write_rest(build_for_cluster(pipeline, settings, first), package, finished, settings.images.own)
        ids = api.upload(f"moworld-{pipeline}-{profile}", package)
    made = new_run(pipeline, profile)
    values = {**record["arguments"], "run": made.name}
    continues = {"run": run.name, "id": first, "steps": kept, "reason": refused.found}
    return start(made, api, pipeline, profile, settings, values, ids, continues=continues)
