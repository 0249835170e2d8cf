"""NPU work on a cluster: TrainJobs that a CPU pod makes or adopts, follows to their end, and deletes when it is told to end.

KFP cannot set a schedulerName and the Ascend device plugin wants Volcano's, so every step on an NPU pool runs this way. A job's name
follows from run and step: a retried launcher finds the job of its predecessor and takes it over. Whoever took a job over last owns it
(annotation), and nobody else deletes it. What no launcher could delete, `reap` does once the run is over.
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
from pathlib import Path
from typing import Any

from components.platform.cluster import REQUEST_SECONDS, Stopped, connect, namespace, patiently
from components.platform.exchange import stage_in, stage_out
from components.platform.failures import why_failed, why_waiting
from components.platform.pod_logs import LogReader
from moworld.errors import InputError

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
PART_OF, RUN, STEP = "app.kubernetes.io/part-of", "moworld.io/run", "moworld.io/step"
OWNER, SPEC = "moworld.io/launcher", "moworld.io/spec-sha256"
POLL_SECONDS = 5.0
CONTAINER = "node"  # of the runtime's pods: Trainer's own name for it


def trainjob(step: str, name: str, pool: dict[str, Any], arguments_path: str, run: str = "") -> dict[str, Any]:
    """The TrainJob that runs a step's ranks on a pool.

    pool: image, runtime (ClusterTrainingRuntime), nodes, procs_per_node, resource (e.g. huawei.com/Ascend910; "" on CPUs), per_node,
          cpu, memory, queue (Volcano's; "" for none), node_selector, claim (a shared volume mounted at mount), seconds (deadline);
          where ranks read an object store, secret and secret_keys, which become environment variables
    """
    resources = {pool["resource"]: str(pool["per_node"])} if pool["resource"] else {}
    resources |= {"cpu": str(pool["cpu"]), "memory": pool["memory"]}
    queue = {"metadata": {"annotations": {"scheduling.volcano.sh/queue-name": pool["queue"]}}} if pool["queue"] else {}
    pod = {
        **queue,
        "spec": {
            "nodeSelector": pool["node_selector"],
            "volumes": [{"name": "work", "persistentVolumeClaim": {"claimName": pool["claim"]}}],
            "containers": [{"name": "node", "volumeMounts": [{"name": "work", "mountPath": pool["mount"]}]}],
        },
    }
    secrets = [(key, {"secretKeyRef": {"name": pool["secret"], "key": key}}) for key in pool.get("secret_keys", [])]
    jobs = [{"name": "node", "template": {"spec": {"template": pod}}}]
    spec = {
        "runtimeRef": {"apiGroup": GROUP, "kind": "ClusterTrainingRuntime", "name": pool["runtime"]},
        "trainer": {
            "image": pool["image"],
            "command": ["torchrun", "-m", "components.platform.launch", step, arguments_path],
            "numNodes": int(pool["nodes"]),
            "numProcPerNode": int(pool["procs_per_node"]),  # the automatic count knows only names containing "gpu"
            "resourcesPerNode": {"requests": resources, "limits": resources},
            "env": [{"name": key, "valueFrom": source} for key, source in secrets],
        },
        "runtimePatches": [{"manager": OWNER, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}}}],
        "activeDeadlineSeconds": int(pool["seconds"]),
    }
    labels = {PART_OF: "moworld", RUN: run, STEP: step.replace("_", "-")}
    annotations = {SPEC: hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {"name": name, "labels": {key: value for key, value in labels.items() if value}, "annotations": annotations},
        "spec": spec,
    }


def job_name(run: str, step: str, index: int) -> str:
    """The one name of a step's job in a run: a DNS label short enough for what Trainer and JobSet append to it (46 characters)."""
    name = re.sub(r"[^a-z0-9]+", "-", f"m-{run}-{step}-{index}".lower()).strip("-")
    return name if len(name) <= 46 else f"{name[:37].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def run_trainjobs(step: str, arguments: dict[str, Any], pools: list[dict[str, Any]]) -> dict[str, Any]:
    """Run a step's jobs side by side, one a pool, and bring their results together in arguments["out"]; returns the joined summary.

    The run's id comes from MOWORLD_RUN. Raises RuntimeError with the reason when a job failed, SystemExit(143) after a SIGTERM.
    """
    run = os.environ.get("MOWORLD_RUN", "")
    if not run:
        raise InputError("MOWORLD_RUN", "", "nothing", "the id of the run that this pod belongs to", "compile the pipeline again")
    plan = {}
    for index, pool in enumerate(pools):
        name = job_name(run, os.environ.get("MOWORLD_STEP", step), index)
        exchange = Path(pool["mount"]) / name
        job = trainjob(step, name, pool, str(exchange / "arguments.json"), run)
        plan[name] = (job, exchange, {**arguments, **pool.get("arguments", {})})
    with _stop_on_sigterm() as stop:
        launcher = Launcher(connect(), namespace(), os.environ.get("KFP_POD_UID") or str(uuid.uuid4()), stop)
        with launcher.holding(list(plan)):
            for job, exchange, given in plan.values():
                launcher.ensure(job, _stager(exchange, given, stop))
            launcher.follow(list(plan))
            summary = stage_out([exchange for _, exchange, _ in plan.values()], Path(arguments["out"]))
    for _, exchange, _ in plan.values():
        shutil.rmtree(exchange, ignore_errors=True)
    return summary


class Launcher:
    """Makes or adopts jobs, follows them, and deletes what it owns."""

    def __init__(
        self,
        api: Any,
        space: str,
        owner: str,
        stop: threading.Event,
        say: Callable[[str], None] = lambda line: print(line, flush=True),
        poll_seconds: float | None = None,
        grace_seconds: float = 15.0,
    ) -> None:
        from kubernetes import client

        self.custom, self.core = client.CustomObjectsApi(api), client.CoreV1Api(api)
        self.space, self.owner, self.stop, self.say = space, owner, stop, say
        self.poll_seconds = float(os.environ.get("MOWORLD_POLL_SECONDS", POLL_SECONDS)) if poll_seconds is None else poll_seconds
        self.grace_seconds = grace_seconds  # for deletions at the end: less than a pod has left after SIGTERM
        self.unsure: set[str] = set()  # jobs whose making was not answered: they may still appear
        self.logs: dict[str, LogReader] = {}

    @contextmanager
    def holding(self, names: list[str]) -> Iterator[None]:
        """While the body runs, jobs of these names may be held; however it ends, those that this launcher owns are deleted.

        Raises SystemExit(143) when the body ended because of a SIGTERM.
        """
        try:
            yield
        except Stopped:
            raise SystemExit(128 + signal.SIGTERM) from None
        finally:  # also after success: the results are out, and the log of the step holds what the pods said
            self.end(names)

    def ensure(self, job: dict[str, Any], stage: Callable[[], None]) -> None:
        """Exactly one job of this name is there, as specified, not failed before, and owned by this launcher."""
        name = job["metadata"]["name"]
        job["metadata"]["annotations"][OWNER] = self.owner
        while True:
            there = self.get(name)
            if there is None:
                stage()
                if self._create(job):
                    self.say(f"TrainJob {self.space}/{name} made")
                    return
            elif "deletionTimestamp" in there["metadata"]:
                self._pause()
            elif _owner(there) == self.owner:
                return  # made by a request of ours whose answer was lost
            elif _state(there)[0] == "Failed" or _annotation(there, SPEC) != _annotation(job, SPEC):
                self.say(f"TrainJob {self.space}/{name} of an earlier attempt {_leftover(there)}: deleted, made anew")
                self._delete(there)
            elif self._take_over(there):
                self.say(f"TrainJob {self.space}/{name} adopted: an earlier attempt of this step made it")
                return

    def follow(self, names: list[str]) -> None:
        """Pass on the first rank's lines and what the pods wait for, until all jobs are complete."""
        waiting, waits_for = set(names), ""
        while True:
            for name in sorted(waiting):
                job = self.get(name)
                if job is None:
                    raise RuntimeError(f"TrainJob {self.space}/{name} is gone: somebody deleted it; run the step again")
                if _owner(job) != self.owner:
                    raise RuntimeError(f"TrainJob {self.space}/{name} was taken over by another attempt of this step")
                state, _ = _state(job)
                pods = self._pods(name)
                self._pass_on(name, pods)
                if state == "Failed":
                    raise RuntimeError(f"TrainJob {self.space}/{name} failed: {why_failed(job, pods, self._tail(pods))}")
                if state == "Complete":
                    self.say(f"TrainJob {self.space}/{name} complete")
                    waiting.discard(name)
                elif (reason := why_waiting(pods)) and reason != waits_for:
                    waits_for = reason
                    self.say(f"TrainJob {self.space}/{name} waits: {reason}")
            if not waiting:
                return
            self._pause()

    def end(self, names: list[str]) -> None:
        """Delete the jobs that this launcher owns, and see that they are gone or going. What cannot be deleted is said on stderr."""
        never = threading.Event()  # the order to end has come; asking must not be cut short by it
        until = time.monotonic() + self.grace_seconds
        for name in names:
            try:
                while True:
                    seconds = max(0.5, until - time.monotonic())  # of all names together
                    there = self.get(name, never, seconds)
                    if there is None and name in self.unsure and time.monotonic() + 0.8 * self.grace_seconds < until:
                        time.sleep(min(self.poll_seconds, 1.0))  # the request that makes it may still be on its way
                    elif there is None or "deletionTimestamp" in there["metadata"] or _owner(there) != self.owner:
                        break
                    else:
                        self._delete(there, never, seconds)
            except Exception as error:
                print(f"TrainJob {self.space}/{name} was not deleted ({error}); 'moworld runs reap' will", file=sys.stderr, flush=True)

    def get(self, name: str, stop: threading.Event | None = None, seconds: float = 600.0) -> dict[str, Any] | None:
        """The job as it stands, or None."""
        from kubernetes.client import ApiException

        ask = self.custom.get_namespaced_custom_object
        try:
            return dict(self._ask(lambda: ask(GROUP, VERSION, self.space, PLURAL, name, _request_timeout=REQUEST_SECONDS), stop, seconds))
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def _create(self, job: dict[str, Any]) -> bool:
        """Make the job; False where one of that name is there."""
        from kubernetes.client import ApiException

        name, ask = job["metadata"]["name"], self.custom.create_namespaced_custom_object
        self.unsure.add(name)
        try:
            self._ask(lambda: ask(GROUP, VERSION, self.space, PLURAL, job, _request_timeout=REQUEST_SECONDS))
        except ApiException as error:
            self.unsure.discard(name)
            if error.status == 409:
                return False
            raise RuntimeError(f"the cluster refused TrainJob {self.space}/{name}: {error.status} {_said(error)}") from None
        self.unsure.discard(name)
        return True

    def _take_over(self, there: dict[str, Any]) -> bool:
        """Write this launcher into the job as its owner; False where the job changed meanwhile."""
        from kubernetes.client import ApiException

        meta, ask = there["metadata"], self.custom.patch_namespaced_custom_object
        patch = {"metadata": {"resourceVersion": meta["resourceVersion"], "annotations": {OWNER: self.owner}}}
        try:
            self._ask(lambda: ask(GROUP, VERSION, self.space, PLURAL, meta["name"], patch, _request_timeout=REQUEST_SECONDS))
        except ApiException as error:
            if error.status in (404, 409):
                return False
            raise
        return True

    def _delete(self, there: dict[str, Any], stop: threading.Event | None = None, seconds: float = 600.0) -> None:
        """Delete this very state of a job: one that changed meanwhile, or a successor of the same name, is left alone."""
        delete_job(self.custom, self.space, there, lambda ask: self._ask(ask, stop, seconds))

    def _pods(self, name: str) -> list[dict[str, Any]]:
        from kubernetes.client import ApiException

        selector, ask = f"jobset.sigs.k8s.io/jobset-name={name}", self.core.list_namespaced_pod
        try:
            found = self._ask(lambda: ask(self.space, label_selector=selector, _request_timeout=REQUEST_SECONDS))
        except ApiException as error:
            self.say(f"pods of {name} cannot be read: {error.status} {error.reason}")
            return []
        pods: list[dict[str, Any]] = self.core.api_client.sanitize_for_serialization(found.items)
        return sorted(pods, key=_rank)

    def _pass_on(self, name: str, pods: list[dict[str, Any]]) -> None:
        """Say the lines of the first rank's pod that were not said yet."""
        for pod in pods[:1]:
            if pod.get("status", {}).get("phase") in ("Running", "Succeeded", "Failed"):
                uid = pod["metadata"].get("uid", "")
                if uid not in self.logs:
                    self.logs[uid] = LogReader(self.core, self.space, pod["metadata"]["name"], CONTAINER)
                for line in self.logs[uid].new_lines():
                    self.say(f"[{name}] {line}")

    def _tail(self, pods: list[dict[str, Any]]) -> str:
        """The last lines of the pods that failed, the first rank's last."""
        failed = [pod for pod in pods if pod.get("status", {}).get("phase") == "Failed"] or pods[:1]
        return "\n".join(LogReader(self.core, self.space, pod["metadata"]["name"], CONTAINER).tail() for pod in reversed(failed[:4]))

    def _pause(self) -> None:
        if self.stop.wait(self.poll_seconds):
            raise Stopped

    def _ask(self, ask: Callable[[], Any], stop: threading.Event | None = None, seconds: float = 600.0) -> Any:
        return patiently(ask, stop or self.stop, seconds, first_wait=min(0.5, self.poll_seconds))


def delete_job(custom: Any, space: str, there: dict[str, Any], ask: Callable[[Callable[[], Any]], Any]) -> None:
    """Delete a job if it still is what was read (uid and resourceVersion); one that is gone or changed is left alone."""
    from kubernetes.client import ApiException

    meta = there["metadata"]
    body = {"preconditions": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}, "propagationPolicy": "Background"}
    try:
        ask(
            lambda: custom.delete_namespaced_custom_object(
                GROUP, VERSION, space, PLURAL, meta["name"], body=body, _request_timeout=REQUEST_SECONDS
            )
        )
    except ApiException as error:
        if error.status not in (404, 409):
            raise


def reap(api: Any, space: str, is_over: Callable[[str], bool]) -> list[str]:
    """Delete the TrainJobs whose run is over: what a launcher that was killed has left. Returns their names.

    is_over: says of a run's id whether the run has ended (or is not known any more)
    """
    from kubernetes import client

    custom, never = client.CustomObjectsApi(api), threading.Event()
    found = patiently(
        lambda: custom.list_namespaced_custom_object(
            GROUP, VERSION, space, PLURAL, label_selector=f"{PART_OF}=moworld", _request_timeout=REQUEST_SECONDS
        ),
        never,
        60.0,
    )
    gone = []
    for job in found["items"]:
        run = job["metadata"].get("labels", {}).get(RUN, "")
        if run and "deletionTimestamp" not in job["metadata"] and is_over(run):
            delete_job(custom, space, job, lambda ask: patiently(ask, never, 60.0))
            gone.append(job["metadata"]["name"])
    return gone


def _stager(exchange: Path, arguments: dict[str, Any], stop: threading.Event) -> Callable[[], None]:
    return lambda: stage_in(exchange, arguments, stop)


@contextmanager
def _stop_on_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets. Nothing is interrupted: a request that makes a job is answered before its deletion is asked for."""
    stop = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda signum, frame: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def _state(job: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """("Failed" | "Complete" | "", its condition)."""
    for condition in job.get("status", {}).get("conditions", []):
        if condition["type"] in ("Failed", "Complete") and condition["status"] == "True":
            return condition["type"], condition
    return "", {}


def _annotation(job: dict[str, Any], key: str) -> str:
    return str(job["metadata"].get("annotations", {}).get(key, ""))


def _owner(job: dict[str, Any]) -> str:
    return _annotation(job, OWNER)


def _leftover(job: dict[str, Any]) -> str:
    return "had failed" if _state(job)[0] == "Failed" else "was specified differently"


def _rank(pod: dict[str, Any]) -> tuple[int, str]:
    """Sorts pods by their node rank, newest attempt of it first."""
    labels = pod["metadata"].get("labels", {})
    index = labels.get("batch.kubernetes.io/job-completion-index") or labels.get("jobset.sigs.k8s.io/job-index") or "0"
    return int(index), str(pod["metadata"]["name"])


def _said(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
