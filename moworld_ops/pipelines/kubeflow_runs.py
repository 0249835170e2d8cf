"""Runs on the cluster through the KFP API: upload, start, watch, cancel, resume, schedule.

A run on the cluster has a folder like a local one. run.json has what was sent, and the API's last answer about the run. The commands
`runs list`, `show`, `logs` and `cancel` read it, so they are the same on both engines.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld.files import write_json
from moworld_ops.components.platform.cluster import server_message, with_retries
from moworld_ops.components.platform.home import home
from moworld_ops.components.platform.images import image, outdated, unpublished
from moworld_ops.pipelines import profile as profiles
from moworld_ops.pipelines.catalog import arguments, check_name
from moworld_ops.pipelines.runs import Run, all_runs

EXPERIMENT = "moworld"
STATES = {"SUCCEEDED": "done", "SKIPPED": "done", "FAILED": "failed", "CANCELED": "cancelled"}  # terminal; any other one is in progress
POLL_SECONDS = 10.0


class Kubeflow:
    """The KFP API at `endpoint` or KFP_ENDPOINT; uses KFP_TOKEN (or KFP_TOKEN_FILE) and KFP_NAMESPACE if they are set.

    Raises InputError, within 10 s, if the endpoint does not answer.
    """

    def __init__(self, endpoint: str = "") -> None:
        self.endpoint = (endpoint or os.environ.get("KFP_ENDPOINT", "")).rstrip("/")
        if not self.endpoint:
            raise InputError("KFP_ENDPOINT", "", "nothing", "the URL of a Kubeflow Pipelines API", "set it, or run with --engine local")
        import requests

        headers = {"Authorization": f"Bearer {known}"} if (known := token()) else {}
        try:
            requests.get(f"{self.endpoint}/apis/v2beta1/healthz", headers=headers, timeout=(3.05, 5)).raise_for_status()
        except requests.RequestException as error:
            code = error.response.status_code if error.response is not None else 0
            found = f"status {code}" if code else "no answer within 5 s" if isinstance(error, requests.Timeout) else "no connection"
            expected, fix = "a Kubeflow Pipelines API that answers", "check address, network and KFP_TOKEN"
            raise InputError("KFP_ENDPOINT", self.endpoint, found, expected, fix) from None
        import kfp
        import kfp_server_api

        with _quiet():
            more = {"namespace": os.environ["KFP_NAMESPACE"]} if os.environ.get("KFP_NAMESPACE") else {}  # for multi-user Kubeflow
            self.client = kfp.Client(host=self.endpoint, existing_token=token() or None, **more)
        self.error = kfp_server_api.ApiException

    def call(self, request: Callable[[], Any], none: tuple[int, ...] = ()) -> Any:
        """Returns the API's answer, None for a status in `none`; transient failures are retried.

        Raises InputError with the server's message for a refusal.
        """
        try:
            with _quiet():
                return with_retries(request, threading.Event(), 60.0, api_error=self.error)
        except self.error as error:
            if error.status in none:
                return None
            reason = f"{error.status} {error.reason}"
            raise InputError(self.endpoint, reason, server_message(error)[:300], "a request that is accepted", "see the message") from None
        except ConnectionError as error:
            raise InputError(self.endpoint, "", str(error), "a Kubeflow Pipelines API that answers", "check its pods, then retry") from None

    def upload(self, name: str, package: Path) -> tuple[str, str]:
        """Uploads IR as a version of pipeline `name`, named by its hash, once; returns the ids of pipeline and version."""
        digest = hashlib.sha256(package.read_bytes()).hexdigest()[:16]
        pipeline = self.call(lambda: self.client.get_pipeline_id(name))
        if pipeline is None:
            pipeline = self.call(lambda: self.client.upload_pipeline(str(package), pipeline_name=name)).pipeline_id
        version = self._version(pipeline, digest)
        if version is None:
            try:
                made = self.call(lambda: self.client.upload_pipeline_version(str(package), digest, pipeline_id=pipeline))
                version = made.pipeline_version_id
            except InputError:  # uploaded by another machine at the same time, or an answer was lost
                version = self._version(pipeline, digest)
                if version is None:
                    raise
        return str(pipeline), str(version)

    def _version(self, pipeline: str, name: str) -> str | None:
        found = self.call(lambda: self.client.list_pipeline_versions(pipeline, filter=_named(name))).pipeline_versions or []
        return next((str(one.pipeline_version_id) for one in found if one.display_name == name), None)

    def experiment(self) -> str:
        return str(self.call(lambda: self.client.create_experiment(EXPERIMENT)).experiment_id)

    def start(self, name: str, pipeline: str, version: str, values: dict[str, str]) -> str:
        """Starts a run with a unique name and returns its id; if an answer was lost, the run is found by its name."""
        experiment = self.experiment()

        def once() -> str:
            for run in self.listed(experiment, name):
                return str(run.run_id)
            started = self.client.run_pipeline(
                experiment, name, params=values, pipeline_id=pipeline, version_id=version, enable_caching=None, service_account=_account()
            )
            return str(started.run_id)

        return str(self.call(once))

    def listed(self, experiment: str, name: str = "") -> Iterator[Any]:
        """Yields the runs of an experiment, newest first; with `name` only those with that display name."""
        page_token, chosen = "", _named(name) if name else None
        while True:
            page = self.client.list_runs(
                page_token=page_token, page_size=100, sort_by="created_at desc", experiment_id=experiment, filter=chosen
            )
            yield from page.runs or []
            page_token = page.next_page_token or ""
            if not page_token:
                return

    def cancel(self, run_id: str) -> None:
        """Terminates a run; launchers delete their TrainJobs on the SIGTERM that follows."""
        self.call(lambda: self.client.terminate_run(run_id))

    def retry(self, run_id: str) -> None:
        """Runs the unfinished tasks of a failed or cancelled run again."""
        self.call(lambda: self.client._run_api.run_service_retry_run(run_id))

    def is_over(self, run_id: str) -> bool:
        """Returns True if a run has ended or is unknown."""
        seen = self.call(lambda: self.client.get_run(run_id), none=(404,))
        return seen is None or str(seen.state) in STATES

    def schedule(self, name: str, cron: str, pipeline: str, version: str, values: dict[str, str]) -> str:
        """Creates or replaces the recurring run `name`, one run at a time, no catch-up; returns its id."""
        experiment = self.experiment()
        self._delete([old for old in self.schedules() if old.display_name == name])
        made = self.call(
            lambda: self.client.create_recurring_run(
                experiment, name, cron_expression=cron, max_concurrency=1, no_catchup=True, params=values, pipeline_id=pipeline,
                version_id=version, service_account=_account(),
            )
        )  # fmt: skip
        return str(made.recurring_run_id)

    def schedules(self) -> list[Any]:
        experiment = self.experiment()
        return list(self.call(lambda: self.client.list_recurring_runs(page_size=100, experiment_id=experiment)).recurring_runs or [])

    def unschedule(self, name: str) -> None:
        """Deletes a recurring run by name; raises InputError if there is none."""
        known = self.schedules()
        found = [one for one in known if one.display_name == name]
        if not found:
            expected = f"one of: {', '.join(sorted(one.display_name for one in known)) or 'none'}"
            raise InputError(self.endpoint, name, "no such schedule", expected, "see 'moworld runs schedules'")
        self._delete(found)

    def _delete(self, schedules: list[Any]) -> None:
        for one in schedules:
            self.call(lambda one=one: self.client.delete_recurring_run(one.recurring_run_id))  # type: ignore[misc]


def _named(name: str) -> str:
    """Returns the KFP filter for a display name."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def _account() -> str:
    return os.environ.get("MOWORLD_SERVICE_ACCOUNT", "moworld-launcher")


def token() -> str:
    """Returns KFP_TOKEN, else the content of KFP_TOKEN_FILE, which a kubelet renews, else ""; raises InputError if the file is absent."""
    path = os.environ.get("KFP_TOKEN_FILE")
    if os.environ.get("KFP_TOKEN") or not path:
        return os.environ.get("KFP_TOKEN", "")
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InputError("KFP_TOKEN_FILE", path, error.strerror, "a file with a token", "mount it, or set KFP_TOKEN") from None


def _upload(pipeline: str, name: str, settings: profiles.Profile, run: str, api: Kubeflow) -> tuple[str, str, dict[str, str]]:
    """Compiles a pipeline and uploads its IR; returns the ids of pipeline and version, and its parameters."""
    from moworld_ops.pipelines.engine_kubeflow import build_for_cluster, write_ir

    graph = build_for_cluster(pipeline, settings)
    values = arguments(graph, name, settings, run, local=False)
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "pipeline.yaml"
        write_ir(graph, package)
        return *api.upload(f"moworld-{pipeline}-{name}", package), values


def submit(pipeline: str, profile: str, overrides: list[str]) -> Run:
    """Compiles, uploads and starts a pipeline; returns the run. Raises InputError before anything is sent."""
    check_name(pipeline)
    name, settings = profiles.load(profile, overrides)
    api = Kubeflow()
    run = Run.new(pipeline, name, suffix=f"-{secrets.token_hex(3)}")  # unique among machines that submit in the same second
    pipeline_id, version_id, values = _upload(pipeline, name, settings, run.name, api)
    run_id = api.start(run.name, pipeline_id, version_id, values)
    from moworld_ops.pipelines.placement import images_of

    images = {**{one: image(one) for one in sorted(images_of(settings.resources))}, "unpublished": unpublished(), "outdated": outdated()}
    where = {"endpoint": api.endpoint, "id": run_id, "pipeline": pipeline_id, "version": version_id}
    empty: dict[str, Any] = {"seconds": 0.0, "steps": {}, "error": ""}
    run.begin("kubeflow", pipeline, name, settings, arguments=values, images=images, kubeflow=where, **empty)
    return run


def schedule(pipeline: str, profile: str, overrides: list[str], cron: str) -> tuple[str, str]:
    """Schedules a pipeline; returns name and id of the schedule. Raises InputError before anything is sent."""
    if len(cron.split()) != 6:
        expected = 'six fields, seconds first: "0 0 3 * * *" is every night at three'
        raise InputError("--schedule", "", cron, expected, "add the field of seconds in front")
    check_name(pipeline)
    name, settings = profiles.load(profile, overrides)
    api, made = Kubeflow(), f"{pipeline}-{name}"
    return made, api.schedule(made, cron, *_upload(pipeline, name, settings, "", api))  # "": each run takes the id that the cluster assigns


def refresh(run: Run, api: Kubeflow) -> dict[str, Any]:
    """Requests the state of a run; writes run.json and steps/, and returns the record."""
    seen = api.call(lambda: api.client.get_run(run.record["kubeflow"]["id"]))
    status = STATES.get(str(seen.state), "running")
    steps: dict[str, dict[str, Any]] = {}
    tasks = (seen.run_details.task_details if seen.run_details else None) or []
    for task in sorted(tasks, key=lambda task: (str(task.start_time), task.task_id or "")):
        if task.display_name and not re.search(r"(^root|^executor$|-driver$)", task.display_name):
            steps[task.display_name] = _step(task, len(steps))
    for name, step in steps.items():
        write_json(run.folder / "steps" / f"{name}.json", step)
    failed = [f"{name}: {step['error']}" for name, step in steps.items() if step["status"] == "failed" and step.get("error")]
    error = "; ".join(failed) or (str(seen.error.message) if seen.error else "")
    facts = {"status": status, "steps": steps, "error": error if status in ("failed", "cancelled") else ""}
    if status == "running":
        return run.update(**facts)
    ended = seen.finished_at.timestamp() if seen.finished_at else time.time()
    return run.update(**facts, seconds=max(0.0, ended - run.record["started"]), exit=0 if status == "done" else 1)


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


def resume(run: Run) -> Run:
    """Runs the unfinished tasks of a failed or cancelled run; raises InputError for any other run."""
    api = Kubeflow(run.record["kubeflow"]["endpoint"])
    status = refresh(run, api)["status"]
    if status in ("running", "done"):
        raise InputError(run.folder, "status", status, "a run that failed or was cancelled", "there is nothing to resume")
    api.retry(run.record["kubeflow"]["id"])
    run.update(status="running", error="", exit=None)
    return run


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


def _step(task: Any, index: int) -> dict[str, Any]:
    state = str(task.state)
    status = STATES.get(state, "running" if state == "RUNNING" else "waiting")
    started = task.start_time.timestamp() if task.start_time else time.time()
    ended = task.end_time.timestamp() if task.end_time and status not in ("running", "waiting") else time.time()
    step = {"index": index, "status": status, "started": started, "seconds": max(0.0, ended - started), "peak_bytes": 0}
    return {**step, "error": str(task.error.message)} if task.error else step


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what kfp's client prints: links on stdout, which is for results, and warnings about its version."""
    import warnings

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
