"""Running a step's ranks: in this process, under torchrun on this machine, or as Kubeflow TrainJobs on an Ascend pool.

KFP cannot set a schedulerName and the Ascend device plugin wants Volcano's, so NPU work is always a TrainJob that a CPU pod launches,
watches, and deletes when it is told to end. A rank runs `python -m components.platform.launch STEP ARGUMENTS.json`.
"""

import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld.files import read_json, write_json

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
POLL_SECONDS = 15.0


def run_step(step: str, arguments: dict[str, Any], pool: str = "") -> dict[str, Any]:
    """Run `components.STEP.step.STEP(**arguments)` where the pool says; returns its summary.

    step:      name of a component
    arguments: paths under their own names, and plain values
    pool:      JSON: "" for this process; {"kind": "local", "ranks": n} for torchrun; {"kind": "trainjob", ...} (see `trainjob`),
               or {"jobs": [pool, ...]} for TrainJobs side by side, each with its own "arguments"
    Raises RuntimeError where ranks fail.
    """
    where = json.loads(pool) if pool else {"kind": "here"}
    if "jobs" in where or where["kind"] == "trainjob":
        return _run_trainjobs(step, arguments, where.get("jobs", [where]))
    if where["kind"] == "local" and int(where["ranks"]) > 1:
        return _run_torchrun(step, arguments, int(where["ranks"]))
    return dict(call(step, arguments))


def call(step: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Call the step's function in this process."""
    return getattr(importlib.import_module(f"components.{step}.step"), step)(**arguments)  # type: ignore[no-any-return]


def _run_torchrun(step: str, arguments: dict[str, Any], ranks: int) -> dict[str, Any]:
    exchange = Path(str(arguments["out"]) + ".ranks")
    write_json(exchange / "arguments.json", arguments)
    try:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        command += ["-m", "components.platform.launch", step, str(exchange / "arguments.json")]
        if subprocess.run(command, check=False).returncode:
            raise RuntimeError(f"a rank of {step} failed; its lines stand above")
        return dict(read_json(exchange / "summary.json"))
    finally:
        shutil.rmtree(exchange, ignore_errors=True)


def trainjob(step: str, name: str, pool: dict[str, Any], arguments_path: str) -> dict[str, Any]:
    """The TrainJob that runs a step's ranks on a pool.

    pool: image, runtime (ClusterTrainingRuntime), nodes, procs_per_node, resource (e.g. huawei.com/Ascend910), per_node,
          cpu, memory, queue, node_selector, claim (a shared volume mounted at mount), seconds (deadline)
    """
    resources = {pool["resource"]: str(pool["per_node"]), "cpu": str(pool["cpu"]), "memory": pool["memory"]}
    pod = {
        "metadata": {"annotations": {"scheduling.volcano.sh/queue-name": pool["queue"]}},
        "spec": {
            "nodeSelector": pool["node_selector"],
            "volumes": [{"name": "work", "persistentVolumeClaim": {"claimName": pool["claim"]}}],
            "containers": [{"name": "node", "volumeMounts": [{"name": "work", "mountPath": pool["mount"]}]}],
        },
    }
    jobs = [{"name": "node", "template": {"spec": {"template": pod}}}]
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "moworld", "moworld/step": step.replace("_", "-")}},
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": "ClusterTrainingRuntime", "name": pool["runtime"]},
            "trainer": {
                "image": pool["image"],
                "command": ["torchrun", "-m", "components.platform.launch", step, arguments_path],
                "numNodes": int(pool["nodes"]),
                "numProcPerNode": int(pool["procs_per_node"]),  # the automatic count knows only names containing "gpu"
                "resourcesPerNode": {"requests": resources, "limits": resources},
            },
            "runtimePatches": [{"manager": "moworld.io/launcher", "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}}}],
            "activeDeadlineSeconds": int(pool["seconds"]),
        },
    }


def _run_trainjobs(step: str, arguments: dict[str, Any], pools: list[dict[str, Any]]) -> dict[str, Any]:
    from kubernetes import client, config

    config.load_incluster_config() if os.environ.get("KUBERNETES_SERVICE_HOST") else config.load_kube_config()
    api = client.CustomObjectsApi()
    namespace = os.environ.get("MOWORLD_NAMESPACE", "moworld")
    run = os.environ.get("MOWORLD_RUN") or hashlib.sha256(str(arguments["out"]).encode()).hexdigest()[:8]
    jobs = {}
    for index, pool in enumerate(pools):
        name = f"{run}-{os.environ.get('MOWORLD_STEP', step)}-{index}".replace("_", "-").lower()[:60].strip("-")
        exchange = Path(pool["mount"]) / name
        stage_in(exchange, {**arguments, **pool.get("arguments", {})})
        jobs[name] = (pool, exchange)
    with _deleted_when_told_to_end(api, namespace, list(jobs)):
        for name, (pool, exchange) in jobs.items():
            _create_or_adopt(api, namespace, trainjob(step, name, pool, str(exchange / "arguments.json")))
        _watch(api, namespace, list(jobs))
    return stage_out([exchange for _, exchange in jobs.values()], Path(arguments["out"]))


LASTING = ("out", "checkpoints", "cache")  # written by ranks on the shared volume, where they outlive a pod


def stage_in(exchange: Path, arguments: dict[str, Any]) -> None:
    """Copy the folders among the arguments to the shared volume and write the rank's arguments.json with their places there."""
    moved = {}
    for key, value in arguments.items():
        if key not in LASTING and isinstance(value, str) and Path(value).is_dir():
            shutil.copytree(value, exchange / "in" / key, dirs_exist_ok=True)
            value = str(exchange / "in" / key)
        moved[key] = str(exchange / key) if key in LASTING else value
    write_json(exchange / "arguments.json", moved)


def stage_out(exchanges: list[Path], out: Path) -> dict[str, Any]:
    """Bring the results of jobs side by side together in `out` (each writes its own expert's files); join their losses and summaries."""
    summary: dict[str, Any] = {}
    for exchange in exchanges:
        if (exchange / "out" / "losses.json").is_file() and (out / "losses.json").is_file():
            write_json(exchange / "out" / "losses.json", read_json(out / "losses.json") | read_json(exchange / "out" / "losses.json"))
        shutil.copytree(exchange / "out", out, dirs_exist_ok=True)
        summary.update(read_json(exchange / "summary.json"))
        shutil.rmtree(exchange, ignore_errors=True)
    return summary


def _create_or_adopt(api: Any, namespace: str, job: dict[str, Any]) -> None:
    from kubernetes.client import ApiException

    try:
        api.create_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, job)
    except ApiException as error:
        if error.status != 409:  # 409: a retried pod finds the job its predecessor made, and goes on watching it
            raise


def _watch(api: Any, namespace: str, names: list[str], poll_seconds: float = POLL_SECONDS) -> None:
    """Return when all jobs are complete. Raises RuntimeError when one has failed."""
    waiting = set(names)
    while waiting:
        for name in sorted(waiting):
            job = api.get_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, name)
            true = {c["type"]: c for c in job.get("status", {}).get("conditions", []) if c["status"] == "True"}
            if "Failed" in true:
                raise RuntimeError(f"TrainJob {namespace}/{name} failed: {true['Failed'].get('message', 'see the logs of its pods')}")
            if "Complete" in true:
                waiting.discard(name)
        if waiting:
            time.sleep(poll_seconds)


@contextmanager
def _deleted_when_told_to_end(api: Any, namespace: str, names: list[str]) -> Iterator[None]:
    """On SIGTERM, or any error, the jobs are deleted, so that a cancelled pipeline holds no accelerator."""
    from kubernetes.client import ApiException

    def end(signum: int, frame: Any) -> None:
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except BaseException:
        for name in names:
            try:
                api.delete_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, name)
            except ApiException as error:
                if error.status != 404:
                    print(f"could not delete TrainJob {namespace}/{name}: {error.reason}", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: list[str]) -> int:
    """One rank: call the step; rank 0 writes its summary beside the arguments."""
    step, path = argv
    try:
        summary = call(step, dict(read_json(path)))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if os.environ.get("RANK", "0") == "0":
        write_json(Path(path).with_name("summary.json"), summary)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
