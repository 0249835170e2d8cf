"""The KFP API: pipelines, versions, runs and schedules (kubeflow_runs.py keeps the records of runs)."""

import base64
import contextlib
import gzip
import hashlib
import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld_ops.components.platform.cluster import namespace, server_message, with_retries

EXPERIMENT = "moworld"
STATES = {"SUCCEEDED": "done", "SKIPPED": "done", "FAILED": "failed", "CANCELED": "cancelled"}  # terminal; any other one is in progress


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

        with quiet():
            more = {"namespace": os.environ["KFP_NAMESPACE"]} if os.environ.get("KFP_NAMESPACE") else {}  # for multi-user Kubeflow
            self.client = kfp.Client(host=self.endpoint, existing_token=token() or None, **more)
        self.error = kfp_server_api.ApiException

    def call(self, request: Callable[[], Any], none: tuple[int, ...] = ()) -> Any:
        """Returns the API's answer, None for a status in `none`; transient failures are retried.

        Raises InputError with the server's message for a refusal.
        """
        try:
            with quiet():
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

    def workflow(self, run_id: str) -> dict[str, Any]:
        """Returns the Argo Workflow of a run as KFP keeps it, also after the Workflow was deleted; {} if KFP has none.

        KFP's older API has it. The newer one returns `error: null` for a step whose pod could not be created.
        """
        client = self.client._run_api.api_client
        options = {"response_type": "object", "auth_settings": ["Bearer"], "_return_http_data_only": True}
        found = self.call(lambda: client.call_api(f"/apis/v1beta1/runs/{run_id}", "GET", **options), none=(400, 403, 404, 501)) or {}
        try:
            workflow = dict(json.loads((found.get("pipeline_runtime") or {}).get("workflow_manifest") or "{}"))
            status = workflow.get("status") or {}
            if packed := status.get("compressedNodes"):  # Argo's form of a status that is too large for etcd
                status["nodes"] = json.loads(gzip.decompress(base64.b64decode(packed)))
        except (ValueError, OSError):
            return {}
        return workflow

    def experiment(self) -> str:
        return str(self.call(lambda: self.client.create_experiment(EXPERIMENT)).experiment_id)

    def start(self, name: str, pipeline: str, version: str, values: dict[str, str]) -> str:
        """Starts a run with a unique name and returns its id; if an answer was lost, the run is found by its name."""
        experiment = self.experiment()

        def once() -> str:
            for run in self.listed(experiment, name):
                return str(run.run_id)
            started = self.client.run_pipeline(
                experiment, name, params=values, pipeline_id=pipeline, version_id=version, enable_caching=None, service_account=account()
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
        """Terminates a run; the reaper then deletes its TrainJobs."""
        self.call(lambda: self.client.terminate_run(run_id))

    def retry(self, run_id: str) -> None:
        """Runs the unfinished tasks of a failed or cancelled run again."""
        self.call(lambda: self.client._run_api.run_service_retry_run(run_id))

    def schedule(self, name: str, cron: str, pipeline: str, version: str, values: dict[str, str]) -> str:
        """Creates the recurring run `name`, one run at a time, no catch-up, then deletes its predecessors; returns its id.

        A refused schedule leaves its predecessor as it is.
        """
        experiment = self.experiment()
        old = [one for one in self.schedules() if one.display_name == name]
        known = {one.recurring_run_id for one in old}

        def once() -> str:
            for one in self.schedules():  # created by a request whose answer was lost
                if one.display_name == name and one.recurring_run_id not in known:
                    return str(one.recurring_run_id)
            made = self.client.create_recurring_run(
                experiment, name, cron_expression=cron, max_concurrency=1, no_catchup=True, params=values, pipeline_id=pipeline,
                version_id=version, service_account=account(),
            )  # fmt: skip
            return str(made.recurring_run_id)

        made = str(self.call(once))
        self._delete(old)
        return made

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


def account() -> str:
    """Returns the service account of the runs."""
    return os.environ.get("MOWORLD_SERVICE_ACCOUNT", "moworld-launcher")


def run_namespace() -> str:
    """Returns the namespace of the runs' pods: KFP_NAMESPACE, else that of this pod, else moworld."""
    return os.environ.get("KFP_NAMESPACE") or namespace()


def token() -> str:
    """Returns KFP_TOKEN, else the content of KFP_TOKEN_FILE, which a kubelet renews, else ""; raises InputError if the file is absent."""
    path = os.environ.get("KFP_TOKEN_FILE")
    if os.environ.get("KFP_TOKEN") or not path:
        return os.environ.get("KFP_TOKEN", "")
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InputError("KFP_TOKEN_FILE", path, error.strerror, "a file with a token", "mount it, or set KFP_TOKEN") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides what kfp's client prints: links on stdout, which is for results, and warnings about its version."""
    import warnings

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
