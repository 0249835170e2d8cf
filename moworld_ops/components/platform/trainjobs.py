"""NPU work on a cluster: TrainJobs that a CPU pod creates or adopts, follows until they end, and deletes.

KFP cannot set a schedulerName, and the Ascend device plugin requires Volcano's, so every step on an NPU pool runs as a TrainJob.
A job's name follows from run and step, so a restarted launcher finds the job of its predecessor and adopts it. The last launcher to
adopt a job owns it (an annotation), and only the owner deletes it, when it has seen the job's end. A launcher that is lost changes
nothing: a job whose run is cancelled or over is deleted by the reaper (reaper.py), and Kubernetes deletes the jobs of a deleted run.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld_ops.components.platform.cluster import REQUEST_SECONDS, connect, namespace, own_pod, server_message, with_retries
from moworld_ops.components.platform.context import context
from moworld_ops.components.platform.exchange import refusal, stage_in, stage_out
from moworld_ops.components.platform.failures import failure_reason, pending_reason
from moworld_ops.components.platform.gangs import BEGUN, LOCAL_QUEUE, waiting_reason
from moworld_ops.components.platform.leftovers import mark
from moworld_ops.components.platform.pod_logs import LogReader
from moworld_ops.components.platform.pools import Job

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
PART_OF, RUN, STEP = "app.kubernetes.io/part-of", "moworld.io/run", "moworld.io/step"
OWNER, SPEC = "moworld.io/launcher", "moworld.io/spec-sha256"
POLL_SECONDS = 5.0
END_SECONDS = 60.0  # limit of each request that deletes a job at the end of its step
CONTAINER = "node"  # Trainer's name for the container in the runtime's pods
MAX_NAME_CHARACTERS = 46  # Trainer and JobSet append to the name, and the result must be a DNS label


def trainjob(step: str, name: str, pool: Job, arguments_path: str, run: str = "") -> dict[str, Any]:
    """Returns the TrainJob that runs a step's ranks on a pool."""
    resources = {pool.resource: str(pool.procs_per_node)} if pool.resource else {}
    resources |= {"cpu": pool.cpu, "memory": pool.memory}
    pod = {
        "spec": {
            "nodeSelector": pool.node_selector,
            "volumes": [{"name": "work", "persistentVolumeClaim": {"claimName": pool.claim}}],
            "containers": [{"name": CONTAINER, "volumeMounts": [{"name": "work", "mountPath": pool.mount}]}],
        },
    }
    # Trainer makes the gang's PodGroup from the template's annotations; it ignores those of pods.
    queue = {"metadata": {"annotations": {"scheduling.volcano.sh/queue-name": pool.queue}}} if pool.queue else {}
    secrets = [(key, {"secretKeyRef": {"name": pool.secret, "key": key}}) for key in pool.secret_keys]
    template = {**queue, "spec": {"replicatedJobs": [{"name": "node", "template": {"spec": {"template": pod}}}]}}
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
        "runtimePatches": [{"manager": OWNER, "trainingRuntimeSpec": {"template": template}}],
        "activeDeadlineSeconds": pool.queue_seconds + pool.seconds,  # Trainer counts from the creation
    }
    if pool.local_queue:
        spec["suspend"] = True  # Kueue resumes it once its queue has room for all pods
    labels = {PART_OF: "moworld", RUN: run, STEP: step.replace("_", "-"), LOCAL_QUEUE: pool.local_queue}
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

    Raises RuntimeError with the reason if a job fails; InputError outside a run, or if a rank raised it.
    """
    place = context()
    run, task = place.run_id, place.step or step
    api, space = connect(), namespace()
    pod = own_pod(api, space)
    launcher = Launcher(api, space, pod.uid or str(uuid.uuid4()))
    jobs, exchanges = [], []
    for index, pool in enumerate(pools):
        name = job_name(run, task, index)
        exchange = Path(pool.mount) / job_name(place.continues or run, task, index)  # it has the checkpoints
        mark(exchange, run)
        job = trainjob(step, name, pool, str(exchange / "arguments.json"), run)
        if pod.workflow:
            job["metadata"]["ownerReferences"] = [pod.workflow]  # Kubernetes deletes the job with its run
        jobs.append((job, partial(stage_in, exchange, {**arguments, **pool.arguments})))
        exchanges.append(exchange)
    names = [job["metadata"]["name"] for job, _ in jobs]
    with launcher.cleanup(names):
        for job, stage in jobs:
            launcher.ensure(job, stage)
        try:
            launcher.follow(names)
        except RuntimeError:
            if error := refusal(exchanges):
                raise error from None
            raise
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
        log: Callable[[str], None] = lambda line: print(line, flush=True),
        poll_seconds: float | None = None,
    ) -> None:
        from kubernetes import client

        self.custom, self.core = client.CustomObjectsApi(api), client.CoreV1Api(api)
        self.space, self.owner, self.log = space, owner, log
        self.poll_seconds = float(os.environ.get("MOWORLD_POLL_SECONDS", POLL_SECONDS)) if poll_seconds is None else poll_seconds
        self.logs: dict[str, LogReader] = {}
        self.started: set[str] = set()  # jobs of which a pod has run

    @contextmanager
    def cleanup(self, names: list[str]) -> Iterator[None]:
        """Runs the body, then deletes the jobs of these names that this launcher owns, also after a failure of the step.

        They stay if the body ends in any other way, such as an API server that does not respond: the next attempt adopts them.
        """
        try:
            yield
        except (RuntimeError, InputError):
            self.end(names)
            raise
        self.end(names)  # the results are copied, and the step's log has the pods' lines

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
                if any(pod.get("status", {}).get("phase") in BEGUN for pod in pods):
                    self.started.add(name)
                if _state(job) == "Failed":
                    reason = failure_reason(job, pods, self._tail(pods), name in self.started)
                    raise RuntimeError(f"TrainJob {self.space}/{name} failed: {reason}")
                if _state(job) == "Complete":
                    self.log(f"TrainJob {self.space}/{name} complete")
                    running.discard(name)
                elif (reason := pending_reason(pods) or waiting_reason(self.core.api_client, self.space, job, pods)) and reason != logged:
                    logged = reason
                    self.log(f"TrainJob {self.space}/{name} waits: {reason}")
            if running:
                self._pause()

    def end(self, names: list[str]) -> None:
        """Deletes the jobs that this launcher owns and waits until each deletion is confirmed. Failures are printed to stderr."""
        for name in names:
            try:
                while True:
                    found = self.get(name, seconds=END_SECONDS)
                    if found is None or "deletionTimestamp" in found["metadata"] or _annotation(found, OWNER) != self.owner:
                        break
                    self._delete(found, seconds=END_SECONDS)
            except Exception as error:
                message = f"TrainJob {self.space}/{name} was not deleted ({error}); the reaper deletes it once the run is over"
                print(message, file=sys.stderr, flush=True)

    def get(self, name: str, seconds: float = 600.0) -> dict[str, Any] | None:
        """Returns the job, or None."""
        found: dict[str, Any] | None = self._request(self.custom.get_namespaced_custom_object, name, none=(404,), seconds=seconds)
        return found

    def _create(self, job: dict[str, Any]) -> bool:
        """Creates the job; returns False if one of that name exists. Raises RuntimeError if the cluster rejects it."""
        from kubernetes.client import ApiException

        create = partial(self.custom.create_namespaced_custom_object, field_validation="Strict")  # else unknown fields are dropped
        try:
            return self._request(create, job, none=(409,)) is not None
        except ApiException as error:
            name = job["metadata"]["name"]
            raise RuntimeError(f"the cluster refused TrainJob {self.space}/{name}: {error.status} {server_message(error)}") from None

    def _adopt(self, found: dict[str, Any]) -> bool:
        """Makes this launcher the job's owner; returns False if the job changed in the meantime."""
        meta = found["metadata"]
        patch = {"metadata": {"resourceVersion": meta["resourceVersion"], "annotations": {OWNER: self.owner}}}
        return self._request(self.custom.patch_namespaced_custom_object, meta["name"], patch, none=(404, 409)) is not None

    def _delete(self, found: dict[str, Any], seconds: float = 600.0) -> None:
        delete_job(self.custom, self.space, found, partial(self._retry, seconds=seconds))

    def _pods(self, name: str) -> list[dict[str, Any]]:
        """Returns the job's pods by rank, those of a rank by age; [] with a log line if they cannot be listed."""
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
        """Logs the new lines of the first rank's pods: it has several after restarts."""
        for pod in pods:
            if _rank(pod)[0] != _rank(pods[0])[0]:
                break
            if pod.get("status", {}).get("phase") in BEGUN:
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
        time.sleep(self.poll_seconds)

    def _request(self, method: Callable[..., Any], *arguments: Any, none: tuple[int, ...] = (), **limits: Any) -> Any:
        """Calls a method of CustomObjectsApi on this namespace's TrainJobs, with retries; returns None for a status in `none`."""
        from kubernetes.client import ApiException

        try:
            return self._retry(partial(method, GROUP, VERSION, self.space, PLURAL, *arguments, _request_timeout=REQUEST_SECONDS), **limits)
        except ApiException as error:
            if error.status in none:
                return None
            raise

    def _retry(self, request: Callable[[], Any], seconds: float = 600.0) -> Any:
        return with_retries(request, threading.Event(), seconds, first_wait=min(0.5, self.poll_seconds))


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


def _state(job: dict[str, Any]) -> str:
    """Returns "Failed", "Complete" or ""."""
    conditions = job.get("status", {}).get("conditions", [])
    return next((one["type"] for one in conditions if one["type"] in ("Failed", "Complete") and one["status"] == "True"), "")


def _annotation(job: dict[str, Any], key: str) -> str:
    return str(job["metadata"].get("annotations", {}).get(key, ""))


def _rank(pod: dict[str, Any]) -> tuple[int, str, str]:
    """Returns a sort key: the pod's node rank, when it was created, its name."""
    meta = pod["metadata"]
    labels = meta.get("labels", {})
    index = labels.get("batch.kubernetes.io/job-completion-index") or labels.get("jobset.sigs.k8s.io/job-index") or "0"
    return int(index), str(meta.get("creationTimestamp", "")), str(meta["name"])
