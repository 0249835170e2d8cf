"""NPU work on a cluster: TrainJobs that a CPU pod creates or adopts, follows until they end, and deletes.

KFP cannot set a schedulerName, and the Ascend device plugin requires Volcano's, so every step on an NPU pool runs as a TrainJob.
A job's name follows from run and step, so a restarted launcher finds the job of its predecessor and adopts it. The last launcher to
adopt a job owns it (an annotation), and only the owner deletes it. `reap` deletes what killed launchers leave, once the run is over.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from moworld_ops.components.platform.cluster import REQUEST_SECONDS, Stopped, connect, namespace, server_message, with_retries
from moworld_ops.components.platform.context import context
from moworld_ops.components.platform.exchange import stage_in, stage_out
from moworld_ops.components.platform.failures import failure_reason, pending_reason
from moworld_ops.components.platform.gangs import waiting_reason
from moworld_ops.components.platform.leftovers import mark
from moworld_ops.components.platform.pod_logs import LogReader
from moworld_ops.components.platform.pools import Job

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
PART_OF, RUN, STEP = "app.kubernetes.io/part-of", "moworld.io/run", "moworld.io/step"
OWNER, SPEC = "moworld.io/launcher", "moworld.io/spec-sha256"
POLL_SECONDS = 5.0
CONTAINER = "node"  # Trainer's name for the container in the runtime's pods
MAX_NAME_CHARACTERS = 46  # Trainer and JobSet append to the name, and the result must be a DNS label


def trainjob(step: str, name: str, pool: Job, arguments_path: str, run: str = "") -> dict[str, Any]:
    """Returns the TrainJob that runs a step's ranks on a pool."""
    resources = {pool.resource: str(pool.procs_per_node)} if pool.resource else {}
    resources |= {"cpu": pool.cpu, "memory": pool.memory}
    queue = {"metadata": {"annotations": {"scheduling.volcano.sh/queue-name": pool.queue}}} if pool.queue else {}
    pod = {
        **queue,
        "spec": {
            "nodeSelector": pool.node_selector,
            "volumes": [{"name": "work", "persistentVolumeClaim": {"claimName": pool.claim}}],
            "containers": [{"name": CONTAINER, "volumeMounts": [{"name": "work", "mountPath": pool.mount}]}],
        },
    }
    secrets = [(key, {"secretKeyRef": {"name": pool.secret, "key": key}}) for key in pool.secret_keys]
    jobs = [{"name": "node", "template": {"spec": {"template": pod}}}]
    spec = {
        "runtimeRef": {"apiGroup": GROUP, "kind": "ClusterTrainingRuntime", "name": pool.runtime},
        "trainer": {
            "image": pool.image,
            "command": ["torchrun", "-m", "moworld_ops.components.platform.launch", step, arguments_path],
            "numNodes": pool.nodes,
            "numProcPerNode": pool.procs_per_node,  # Trainer's own count recognises only resource names with "gpu"
            "resourcesPerNode": {"requests": resources, "limits": resources},
            "env": [{"name": key, "valueFrom": source} for key, source in secrets],
        },
        "runtimePatches": [{"manager": OWNER, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}}}],
        "activeDeadlineSeconds": pool.seconds,
    }
    labels = {PART_OF: "moworld", RUN: run, STEP: step.replace("_", "-")}
    annotations = {SPEC: hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()}
    metadata = {"name": name, "labels": {key: value for key, value in labels.items() if value}, "annotations": annotations}
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": "TrainJob", "metadata": metadata, "spec": spec}


def job_name(run: str, step: str, index: int) -> str:
    """Returns the name of a step's job in a run: a DNS label of at most 46 characters."""
    name = re.sub(r"[^a-z0-9]+", "-", f"m-{run}-{step}-{index}".lower()).strip("-")
    if len(name) <= MAX_NAME_CHARACTERS:
        return name
    return f"{name[: MAX_NAME_CHARACTERS - 9].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def run_trainjobs(step: str, arguments: dict[str, Any], pools: list[Job]) -> dict[str, Any]:
    """Runs one job per pool in parallel, copies their results to arguments["out"] and returns the joined summary.

    Raises RuntimeError with the reason if a job fails, SystemExit(143) after SIGTERM, InputError outside a run.
    """
    place = context()
    run, task = place.run_id, place.step or step
    jobs, exchanges = [], []
    with _stop_on_sigterm() as stop:
        for index, pool in enumerate(pools):
            name = job_name(run, task, index)
            exchange = Path(pool.mount) / name
            mark(exchange, run)
            job = trainjob(step, name, pool, str(exchange / "arguments.json"), run)
            jobs.append((job, partial(stage_in, exchange, {**arguments, **pool.arguments}, stop)))
            exchanges.append(exchange)
        names = [job["metadata"]["name"] for job, _ in jobs]
        launcher = Launcher(connect(), namespace(), os.environ.get("KFP_POD_UID") or str(uuid.uuid4()), stop)
        with launcher.cleanup(names):
            for job, stage in jobs:
                launcher.ensure(job, stage)
            launcher.follow(names)
            summary = stage_out(exchanges, Path(arguments["out"]))
    for exchange in exchanges:
        shutil.rmtree(exchange, ignore_errors=True)
    return summary


class Launcher:
    """Creates or adopts jobs, follows them, and deletes those that it owns."""

    def __init__(
        self,
        api: Any,
        space: str,
        owner: str,
        stop: threading.Event,
        log: Callable[[str], None] = lambda line: print(line, flush=True),
        poll_seconds: float | None = None,
        grace_seconds: float = 15.0,
    ) -> None:
        from kubernetes import client

        self.custom, self.core = client.CustomObjectsApi(api), client.CoreV1Api(api)
        self.space, self.owner, self.stop, self.log = space, owner, stop, log
        self.poll_seconds = float(os.environ.get("MOWORLD_POLL_SECONDS", POLL_SECONDS)) if poll_seconds is None else poll_seconds
        self.grace_seconds = grace_seconds  # for the final deletions: less than a pod has after SIGTERM
        self.unconfirmed: set[str] = set()  # jobs whose creation got no response: they may still appear
        self.logs: dict[str, LogReader] = {}

    @contextmanager
    def cleanup(self, names: list[str]) -> Iterator[None]:
        """Runs the body, then deletes the jobs of these names that this launcher owns, also after success or an error.

        Raises SystemExit(143) if SIGTERM ended the body.
        """
        try:
            yield
        except Stopped:
            raise SystemExit(128 + signal.SIGTERM) from None
        finally:  # also after success: the results are copied, and the step's log has the pods' lines
            self.end(names)

    def ensure(self, job: dict[str, Any], stage: Callable[[], None]) -> None:
        """Returns once exactly one job of this name exists that matches the spec, has not failed, and is owned by this launcher.

        stage: writes the job's inputs; called before the job is created
        """
        name = job["metadata"]["name"]
        job["metadata"]["annotations"][OWNER] = self.owner
        while True:
            found = self.get(name)
            if found is None:
                stage()
                if self._create(job):
                    self.log(f"TrainJob {self.space}/{name} created")
                    return
            elif "deletionTimestamp" in found["metadata"]:
                self._pause()
            elif _annotation(found, OWNER) == self.owner:
                return  # created by an earlier request whose response was lost
            elif _state(found) == "Failed" or _annotation(found, SPEC) != _annotation(job, SPEC):
                reason = "had failed" if _state(found) == "Failed" else "was specified differently"
                self.log(f"TrainJob {self.space}/{name} of an earlier attempt {reason}: deleting and recreating it")
                self._delete(found)
            elif self._adopt(found):
                self.log(f"TrainJob {self.space}/{name} adopted: an earlier attempt of this step created it")
                return

    def follow(self, names: list[str]) -> None:
        """Logs the first rank's lines and what pods wait for, until all jobs are complete. Raises RuntimeError if one fails."""
        running, logged = set(names), ""
        while running:
            for name in sorted(running):
                job = self.get(name)
                if job is None:
                    raise RuntimeError(f"TrainJob {self.space}/{name} was deleted by someone else; run the step again")
                if _annotation(job, OWNER) != self.owner:
                    raise RuntimeError(f"TrainJob {self.space}/{name} was taken over by another attempt of this step")
                pods = self._pods(name)
                self._log_lines(name, pods)
                if _state(job) == "Failed":
                    raise RuntimeError(f"TrainJob {self.space}/{name} failed: {failure_reason(job, pods, self._tail(pods))}")
                if _state(job) == "Complete":
                    self.log(f"TrainJob {self.space}/{name} complete")
                    running.discard(name)
                elif (reason := pending_reason(pods) or waiting_reason(self.core.api_client, self.space, name, pods)) and reason != logged:
                    logged = reason
                    self.log(f"TrainJob {self.space}/{name} waits: {reason}")
            if running:
                self._pause()

    def end(self, names: list[str]) -> None:
        """Deletes the jobs that this launcher owns and waits until each deletion is confirmed. Failures are printed to stderr."""
        never = threading.Event()  # `stop` may be set already and must not interrupt these requests
        until = time.monotonic() + self.grace_seconds
        for name in names:
            try:
                while True:
                    seconds = max(0.5, until - time.monotonic())  # shared by all names
                    found = self.get(name, never, seconds)
                    if found is None and name in self.unconfirmed and time.monotonic() + 0.8 * self.grace_seconds < until:
                        time.sleep(min(self.poll_seconds, 1.0))  # the server may still process the creation
                    elif found is None or "deletionTimestamp" in found["metadata"] or _annotation(found, OWNER) != self.owner:
                        break
                    else:
                        self._delete(found, never, seconds)
            except Exception as error:
                message = f"TrainJob {self.space}/{name} was not deleted ({error}); 'moworld runs reap' will delete it"
                print(message, file=sys.stderr, flush=True)

    def get(self, name: str, stop: threading.Event | None = None, seconds: float = 600.0) -> dict[str, Any] | None:
        """Returns the job, or None."""
        found: dict[str, Any] | None = self._request(self.custom.get_namespaced_custom_object, name, none=(404,), stop=stop, seconds=seconds)
        return found

    def _create(self, job: dict[str, Any]) -> bool:
        """Creates the job; returns False if one of that name exists. Raises RuntimeError if the cluster rejects it."""
        from kubernetes.client import ApiException

        name = job["metadata"]["name"]
        self.unconfirmed.add(name)
        try:
            created = self._request(self.custom.create_namespaced_custom_object, job, none=(409,))
        except ApiException as error:
            self.unconfirmed.discard(name)
            raise RuntimeError(f"the cluster refused TrainJob {self.space}/{name}: {error.status} {server_message(error)}") from None
        self.unconfirmed.discard(name)
        return created is not None

    def _adopt(self, found: dict[str, Any]) -> bool:
        """Makes this launcher the job's owner; returns False if the job changed in the meantime."""
        meta = found["metadata"]
        patch = {"metadata": {"resourceVersion": meta["resourceVersion"], "annotations": {OWNER: self.owner}}}
        return self._request(self.custom.patch_namespaced_custom_object, meta["name"], patch, none=(404, 409)) is not None

    def _delete(self, found: dict[str, Any], stop: threading.Event | None = None, seconds: float = 600.0) -> None:
        delete_job(self.custom, self.space, found, partial(self._retry, stop=stop, seconds=seconds))

    def _pods(self, name: str) -> list[dict[str, Any]]:
        """Returns the job's pods by rank; [] with a log line if they cannot be listed."""
        from kubernetes.client import ApiException

        options = {"label_selector": f"jobset.sigs.k8s.io/jobset-name={name}", "_request_timeout": REQUEST_SECONDS}
        try:
            found = self._retry(partial(self.core.list_namespaced_pod, self.space, **options))
        except ApiException as error:
            self.log(f"pods of {name} cannot be read: {error.status} {error.reason}")
            return []
        pods: list[dict[str, Any]] = self.core.api_client.sanitize_for_serialization(found.items)
        return sorted(pods, key=_rank)

    def _log_lines(self, name: str, pods: list[dict[str, Any]]) -> None:
        """Logs the new lines of the first rank's pod."""
        for pod in pods[:1]:
            if pod.get("status", {}).get("phase") in ("Running", "Succeeded", "Failed"):
                uid = pod["metadata"].get("uid", "")
                if uid not in self.logs:
                    self.logs[uid] = self._reader(pod)
                for line in self.logs[uid].new_lines():
                    self.log(f"[{name}] {line}")

    def _tail(self, pods: list[dict[str, Any]]) -> str:
        """Returns the last lines of up to four failed pods, the first rank's last."""
        failed = [pod for pod in pods if pod.get("status", {}).get("phase") == "Failed"] or pods[:1]
        return "\n".join(self._reader(pod).tail() for pod in reversed(failed[:4]))

    def _reader(self, pod: dict[str, Any]) -> LogReader:
        return LogReader(self.core, self.space, pod["metadata"]["name"], CONTAINER)

    def _pause(self) -> None:
        if self.stop.wait(self.poll_seconds):
            raise Stopped

    def _request(self, method: Callable[..., Any], *arguments: Any, none: tuple[int, ...] = (), **limits: Any) -> Any:
        """Calls a method of CustomObjectsApi on this namespace's TrainJobs, with retries; returns None for a status in `none`."""
        from kubernetes.client import ApiException

        try:
            return self._retry(partial(method, GROUP, VERSION, self.space, PLURAL, *arguments, _request_timeout=REQUEST_SECONDS), **limits)
        except ApiException as error:
            if error.status in none:
                return None
            raise

    def _retry(self, request: Callable[[], Any], stop: threading.Event | None = None, seconds: float = 600.0) -> Any:
        return with_retries(request, stop or self.stop, seconds, first_wait=min(0.5, self.poll_seconds))


def delete_job(custom: Any, space: str, found: dict[str, Any], send: Callable[[Callable[[], Any]], Any]) -> None:
    """Deletes exactly this state of a job (uid and resourceVersion); a changed or replaced job is left alone."""
    from kubernetes.client import ApiException

    meta = found["metadata"]
    body = {"preconditions": {key: meta[key] for key in ("uid", "resourceVersion")}, "propagationPolicy": "Background"}
    delete = custom.delete_namespaced_custom_object
    try:
        send(partial(delete, GROUP, VERSION, space, PLURAL, meta["name"], body=body, _request_timeout=REQUEST_SECONDS))
    except ApiException as error:
        if error.status not in (404, 409):
            raise


def reap(api: Any, space: str, is_over: Callable[[str], bool]) -> list[str]:
    """Deletes the TrainJobs whose run is over, which killed launchers left, and returns their names.

    is_over: returns True if the run with this id has ended or does not exist
    """
    from kubernetes import client

    custom = client.CustomObjectsApi(api)
    send = partial(with_retries, stop=threading.Event(), seconds=60.0)
    options = {"label_selector": f"{PART_OF}=moworld", "_request_timeout": REQUEST_SECONDS}
    listed = send(partial(custom.list_namespaced_custom_object, GROUP, VERSION, space, PLURAL, **options))
    deleted = []
    for job in listed["items"]:
        run = job["metadata"].get("labels", {}).get(RUN, "")
        if run and "deletionTimestamp" not in job["metadata"] and is_over(run):
            delete_job(custom, space, job, send)
            deleted.append(job["metadata"]["name"])
    return deleted


@contextmanager
def _stop_on_sigterm() -> Iterator[threading.Event]:
    """Gives an event that SIGTERM sets. A request in flight is not interrupted: a job must be created before it can be deleted."""
    stop = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda signum, frame: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def _state(job: dict[str, Any]) -> str:
    """Returns "Failed", "Complete" or ""."""
    conditions = job.get("status", {}).get("conditions", [])
    return next((one["type"] for one in conditions if one["type"] in ("Failed", "Complete") and one["status"] == "True"), "")


def _annotation(job: dict[str, Any], key: str) -> str:
    return str(job["metadata"].get("annotations", {}).get(key, ""))


def _rank(pod: dict[str, Any]) -> tuple[int, str]:
    """Returns a sort key: the pod's node rank, then its name."""
    labels = pod["metadata"].get("labels", {})
    index = labels.get("batch.kubernetes.io/job-completion-index") or labels.get("jobset.sigs.k8s.io/job-index") or "0"
    return int(index), str(pod["metadata"]["name"])
