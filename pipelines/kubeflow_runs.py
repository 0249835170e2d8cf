"""Runs on the cluster through the KFP API: uploaded, started, watched, ended, gone on with, scheduled.

A run on the cluster has a folder like a local one: run.json holds what was sent and, as of the last look, what the API said. `runs`
list, show, logs and cancel read that, so that they are the same on both engines.
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

from components.platform.cluster import patiently
from components.platform.home import home
from components.platform.images import image, unpublished
from moworld.errors import InputError
from moworld.files import write_json
from pipelines import profile as profiles
from pipelines.catalog import arguments, build
from pipelines.engine_kubeflow import compile_pipeline
from pipelines.placement import Cluster, images_of
from pipelines.runs import Run, all_runs, git_commit

EXPERIMENT = "moworld"
STATES = {"SUCCEEDED": "done", "SKIPPED": "done", "FAILED": "failed", "CANCELED": "cancelled"}  # terminal; every other one is at work
POLL_SECONDS = 10.0
SECONDS = (3.05, 10.0)


class Kubeflow:
    """The KFP API that KFP_ENDPOINT (or `endpoint`) names; KFP_TOKEN (or KFP_TOKEN_FILE) and KFP_NAMESPACE are used where they are set."""

    def __init__(self, endpoint: str = "") -> None:
        self.endpoint = (endpoint or os.environ.get("KFP_ENDPOINT", "")).rstrip("/")
        if not self.endpoint:
            raise InputError("KFP_ENDPOINT", "", "nothing", "the URL of a Kubeflow Pipelines API", "set it, or run with --engine local")
        self._must_answer()
        import kfp
        import kfp_server_api

        with _quiet():
            room = {"namespace": os.environ["KFP_NAMESPACE"]} if os.environ.get("KFP_NAMESPACE") else {}  # multi-user Kubeflow's
            self.client = kfp.Client(host=self.endpoint, existing_token=token() or None, **room)
        self.error = kfp_server_api.ApiException
        self.never = threading.Event()

    def _must_answer(self) -> None:
        """Raises InputError, within 10 s, where nothing answers."""
        import requests

        headers = {"Authorization": f"Bearer {known}"} if (known := token()) else {}
        try:
            requests.get(f"{self.endpoint}/apis/v2beta1/healthz", headers=headers, timeout=(3.05, 5)).raise_for_status()
        except requests.RequestException as error:
            code = error.response.status_code if error.response is not None else 0
            said = f"status {code}" if code else "no answer within 5 s" if isinstance(error, requests.Timeout) else "no connection"
            raise InputError(
                "KFP_ENDPOINT", self.endpoint, said, "a Kubeflow Pipelines API that answers", "check address, network and KFP_TOKEN"
            ) from None

    def ask(self, call: Callable[[], Any], seconds: float = 60.0) -> Any:
        """An answer of the API, asked again while it fails in passing. Raises InputError with what the server said for a refusal."""
        try:
            with _quiet():
                return patiently(call, self.never, seconds, api_error=self.error)
        except self.error as error:
            raise InputError(
                self.endpoint, f"{error.status} {error.reason}", _said(error), "a request that is accepted", "see the message"
            ) from None
        except ConnectionError as error:
            raise InputError(
                self.endpoint, "", str(error), "a Kubeflow Pipelines API that answers", "look at its pods, then ask again"
            ) from None

    def upload(self, name: str, package: Path) -> tuple[str, str]:
        """Make the IR a version of pipeline `name`, named by its hash; the same IR is uploaded once. Returns ids of pipeline and version."""
        digest = hashlib.sha256(package.read_bytes()).hexdigest()[:16]
        pipeline = self.ask(lambda: self.client.get_pipeline_id(name))
        if pipeline is None:
            pipeline = self.ask(lambda: self.client.upload_pipeline(str(package), pipeline_name=name)).pipeline_id
        version = self._version(pipeline, digest)
        if version is None:
            try:
                made = self.ask(lambda: self.client.upload_pipeline_version(str(package), digest, pipeline_id=pipeline))
                version = made.pipeline_version_id
            except InputError:  # another one uploaded it at the same time, or an answer was lost
                version = self._version(pipeline, digest)
                if version is None:
                    raise
        return str(pipeline), str(version)

    def _version(self, pipeline: str, name: str) -> str | None:
        with_name = json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})
        found = self.ask(lambda: self.client.list_pipeline_versions(pipeline, filter=with_name)).pipeline_versions or []
        return next((str(one.pipeline_version_id) for one in found if one.display_name == name), None)

    def experiment(self) -> str:
        return str(self.ask(lambda: self.client.create_experiment(EXPERIMENT)).experiment_id)

    def start(self, name: str, pipeline: str, version: str, values: dict[str, str]) -> str:
        """Start a run under a name that is its own; returns its id. A start whose answer was lost is found again by that name."""
        experiment = self.experiment()

        def once() -> str:
            for run in self.listed(experiment, name):
                return str(run.run_id)
            account = os.environ.get("MOWORLD_SERVICE_ACCOUNT", "moworld-launcher")
            return str(
                self.client.run_pipeline(
                    experiment, name, params=values, pipeline_id=pipeline, version_id=version, enable_caching=None, service_account=account
                ).run_id
            )

        return str(self.ask(once))

    def listed(self, experiment: str, name: str = "") -> Iterator[Any]:
        """Runs of an experiment, newest first; those of one display name where it is given."""
        chosen = json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}) if name else None
        token = ""
        while True:
            page = self.client.list_runs(
                page_token=token, page_size=100, sort_by="created_at desc", experiment_id=experiment, filter=chosen
            )
            yield from page.runs or []
            token = page.next_page_token or ""
            if not token:
                return

    def get(self, run_id: str) -> Any:
        return self.ask(lambda: self.client.get_run(run_id))

    def cancel(self, run_id: str) -> None:
        """Terminate a run; launchers delete their TrainJobs on the SIGTERM that follows."""
        self.ask(lambda: self.client.terminate_run(run_id))

    def retry(self, run_id: str) -> None:
        """Run a failed or cancelled run's unfinished tasks again; finished ones are kept."""
        self.ask(lambda: self.client._run_api.run_service_retry_run(run_id))

    def is_over(self, run_id: str) -> bool:
        """True where a run has ended, or is not known any more."""
        try:
            with _quiet():
                seen = patiently(lambda: self.client.get_run(run_id), self.never, 60.0, api_error=self.error)
        except self.error as error:
            if error.status == 404:
                return True
            raise
        return str(seen.state) in STATES

    def schedule(self, name: str, cron: str, pipeline: str, version: str, values: dict[str, str]) -> str:
        """Make, or make anew, the recurring run `name`; one run at a time, none caught up. Returns its id."""
        experiment = self.experiment()
        for old in self.schedules():
            if old.display_name == name:
                self.ask(lambda old=old: self.client.delete_recurring_run(old.recurring_run_id))  # type: ignore[misc]
        made = self.ask(
            lambda: self.client.create_recurring_run(
                experiment, name, cron_expression=cron, max_concurrency=1, no_catchup=True, params=values, pipeline_id=pipeline, version_id=version,
                service_account=os.environ.get("MOWORLD_SERVICE_ACCOUNT", "moworld-launcher"),
            )
        )  # fmt: skip
        return str(made.recurring_run_id)

    def schedules(self) -> list[Any]:
        experiment = self.experiment()
        return list(self.ask(lambda: self.client.list_recurring_runs(page_size=100, experiment_id=experiment)).recurring_runs or [])

    def unschedule(self, name: str) -> None:
        """Delete a recurring run by name. Raises InputError where there is none."""
        found = [one for one in self.schedules() if one.display_name == name]
        if not found:
            known = ", ".join(sorted(one.display_name for one in self.schedules())) or "none"
            raise InputError(self.endpoint, name, "no such schedule", f"one of: {known}", "see 'moworld runs schedules'")
        for one in found:
            self.ask(lambda one=one: self.client.delete_recurring_run(one.recurring_run_id))  # type: ignore[misc]


def token() -> str:
    """KFP_TOKEN, or what stands in KFP_TOKEN_FILE, which a kubelet renews; "" where neither is set. Raises InputError for a file that is not there."""
    path = os.environ.get("KFP_TOKEN_FILE")
    if os.environ.get("KFP_TOKEN") or not path:
        return os.environ.get("KFP_TOKEN", "")
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InputError("KFP_TOKEN_FILE", path, error.strerror, "a file with a token", "mount it, or set KFP_TOKEN") from None


def compiled(pipeline: str, profile: str, overrides: list[str], api: Kubeflow) -> tuple[str, profiles.Profile, str, str]:
    """Compile a pipeline and upload it; returns the profile's name, the profile, and the ids of pipeline and version."""
    name, settings = profiles.load(profile, overrides)
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "pipeline.yaml"
        compile_pipeline(pipeline, settings, package)
        ids = api.upload(f"moworld-{pipeline}-{name}", package)
    return name, settings, *ids


def submit(pipeline: str, profile: str, overrides: list[str]) -> Run:
    """Compile, upload and start a pipeline; returns the run with its record. Raises InputError before anything is sent."""
    name, settings = profiles.load(profile, overrides)
    run = Run.new(pipeline, name, suffix=f"-{secrets.token_hex(3)}")  # machines that submit in the same second share no name
    values = arguments(build(pipeline, settings, Cluster(settings.resources)), name, settings, run.name, local=False)
    api = Kubeflow()
    _, _, pipeline_id, version_id = compiled(pipeline, profile, overrides, api)
    run_id = api.start(run.name, pipeline_id, version_id, values)
    run.update(
        run=run.name,
        pipeline=pipeline,
        profile=name,
        engine="kubeflow",
        status="running",
        started=time.time(),
        seconds=0.0,
        seeds={"seed": settings.seed},
        settings=settings.model_dump(mode="json"),
        arguments=values,
        git_commit=git_commit(),
        images={**{one: image(one) for one in sorted(images_of(settings.resources))}, "unpublished": unpublished()},
        kubeflow={"endpoint": api.endpoint, "id": run_id, "pipeline": pipeline_id, "version": version_id},
        steps={},
        error="",
    )
    return run


def refresh(run: Run, api: Kubeflow) -> dict[str, Any]:
    """Ask the API how a run stands; write run.json and steps/, return the record."""
    seen = api.get(run.record["kubeflow"]["id"])
    status = STATES.get(str(seen.state), "running")
    steps: dict[str, dict[str, Any]] = {}
    for task in sorted(
        (seen.run_details.task_details if seen.run_details else None) or [], key=lambda t: (str(t.start_time), t.task_id or "")
    ):
        if task.display_name and not re.search(r"(^root|^executor$|-driver$)", task.display_name):
            steps[task.display_name] = _step(task, len(steps))
    for name, step in steps.items():
        write_json(run.folder / "steps" / f"{name}.json", step)
    ended = seen.finished_at.timestamp() if status != "running" and seen.finished_at else time.time()
    failed = [f"{name}: {step['error']}" for name, step in steps.items() if step["status"] == "failed" and step.get("error")]
    error = "; ".join(failed) or (str(seen.error.message) if seen.error else "")
    facts = {"status": status, "steps": steps, "error": error if status in ("failed", "cancelled") else ""}
    if status == "running":
        return run.update(**facts)
    return run.update(**facts, seconds=max(0.0, ended - run.record["started"]), exit=0 if status == "done" else 1)


def watch(run: Run, progress: Callable[[str, dict[str, Any]], None], poll_seconds: float | None = None) -> dict[str, Any]:
    """Follow a run to its end: `progress` gets each step when its status changes. Returns the record."""
    pause = float(os.environ.get("MOWORLD_POLL_SECONDS", POLL_SECONDS)) if poll_seconds is None else poll_seconds
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


def go_on(run: Run) -> Run:
    """Run the unfinished tasks of a run that failed or was cancelled. Raises InputError for one that is at work or done."""
    api = Kubeflow(run.record["kubeflow"]["endpoint"])
    status = refresh(run, api)["status"]
    if status in ("running", "done"):
        raise InputError(run.folder, "status", status, "a run that failed or was cancelled", "there is nothing to go on with")
    api.retry(run.record["kubeflow"]["id"])
    run.update(status="running", error="", exit=None)
    return run


def sync() -> str:
    """Bring the records of runs on the cluster up to date, those that others started included; returns why it could not, or "".

    Without KFP_ENDPOINT and without runs on the cluster that are at work, nothing is asked.
    """
    at_work = {
        run.record["kubeflow"]["endpoint"]
        for run in all_runs()
        if run.record.get("engine") == "kubeflow" and run.record["status"] == "running"
    }
    endpoints = at_work | ({os.environ["KFP_ENDPOINT"].rstrip("/")} if os.environ.get("KFP_ENDPOINT") else set())
    for endpoint in sorted(endpoints):
        try:
            _sync_one(Kubeflow(endpoint))
        except InputError as error:
            return str(error)
    return ""


def _sync_one(api: Kubeflow) -> None:
    known = {run.record["kubeflow"]["id"]: run for run in all_runs() if run.record.get("engine") == "kubeflow"}
    experiment = api.experiment()
    for seen in api.ask(lambda: list(api.listed(experiment))):
        run = known.get(seen.run_id) or _of_others(seen, api.endpoint)
        if run.record["status"] == "running":
            refresh(run, api)


def _of_others(seen: Any, endpoint: str) -> Run:
    """A record for a run that another machine, or a schedule, has started."""
    name = seen.display_name if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", seen.display_name or "") else seen.run_id
    if (home() / "runs" / name).exists():
        name = f"{name}-{seen.run_id[:8]}"
    run = Run(home() / "runs" / name)
    parameters = (seen.runtime_config.parameters if seen.runtime_config else None) or {}
    run.update(
        run=name, pipeline=name.split("-")[0], profile="", engine="kubeflow", status="running", started=seen.created_at.timestamp(), seconds=0.0,
        arguments=parameters, kubeflow={"endpoint": endpoint, "id": seen.run_id}, steps={}, error="",
    )  # fmt: skip
    return run


def _step(task: Any, index: int) -> dict[str, Any]:
    state = str(task.state)
    status = STATES.get(state, "running" if state == "RUNNING" else "waiting")
    started = task.start_time.timestamp() if task.start_time else time.time()
    ended = task.end_time.timestamp() if task.end_time and status not in ("running", "waiting") else time.time()
    step = {"index": index, "status": status, "started": started, "seconds": max(0.0, ended - started), "peak_bytes": 0}
    if task.error:
        step["error"] = str(task.error.message)
    return step


def _said(error: Any) -> str:
    try:
        body = json.loads(error.body)
        return str(body.get("error_message") or body.get("message") or body.get("error") or error.reason)[:300]
    except (TypeError, ValueError, AttributeError):
        return str(error.reason)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """kfp's client prints links to stdout, where results stand, and warns of its age."""
    import warnings

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
