"""Puts a step where it runs: on this machine, or on a pool of the cluster.

`Here` gives a task its name and the digest of the code (kfp's local cache knows nothing of our package). `Cluster` gives it resources,
node selectors and tolerations, and hands steps of NPU pools theirs, as TrainJobs that the task's CPU pod launches.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Protocol

from kfp import dsl
from pydantic import Field

from components.platform.images import ROOT, image, unpinned, unpublished
from moworld.errors import InputError
from moworld.model.costs import Device
from moworld.settings import Settings

CODE = ("moworld", "kernels", "data_contracts", "components")


class Pool(Settings):
    """A pool of nodes. `kind` npu, or a `runtime`: TrainJobs that the task's pod launches; else the task's own pod."""

    kind: Literal["cpu", "npu"]
    cpu: str = "4"
    memory: str = "16Gi"
    image: str = "data"
    node_selector: dict[str, str] = Field(default={})
    tolerations: list[dict[str, str]] = Field(default=[])
    resource: str = "huawei.com/Ascend910"
    nodes: int = 1
    procs_per_node: int = 8
    queue: str = ""
    runtime: str = ""
    seconds: int = Field(default=7 * 24 * 3600, gt=0, description="deadline of a step's work")
    queue_seconds: int = Field(default=24 * 3600, ge=0, description="how long its jobs may wait in the queue on top of that")
    device: Device | None = Field(default=None, description="one accelerator of the pool, for 'moworld plan'")

    @property
    def launches(self) -> bool:
        """Whether its work runs as TrainJobs."""
        return self.kind == "npu" or bool(self.runtime)


class Resources(Settings):
    """What a profile needs of a machine, and which pool each step takes on a cluster."""

    disk_bytes: int = Field(description="free bytes that a local run needs at its start")
    pools: dict[str, Pool] = Field(default={})
    steps: dict[str, str | list[str]] = Field(default={}, description="step to pool, or to one pool per expert (high noise, low noise)")
    machine: Device | None = Field(default=None, description="the machine of local runs, for 'moworld plan'")
    claim: str = "moworld-work"
    mount: str = "/mnt/moworld"
    store_secret: str = Field(
        default="", description="secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL; empty for none"
    )
    signing_secret: str = Field(default="", description="secret with signing.pem and signing.pub, for register and promote; empty for none")


class Placement(Protocol):
    """Gives a task its name and its place."""

    def pool(self, step: str) -> str: ...

    def __call__(self, task: dsl.PipelineTask, name: str) -> dsl.PipelineTask: ...


class Here:
    """Placement on this machine."""

    def __init__(self, code: str) -> None:
        self.code = code

    def pool(self, step: str) -> str:
        """No pool: ranks run in the step's process."""
        return ""

    def __call__(self, task: dsl.PipelineTask, name: str) -> dsl.PipelineTask:
        task.set_env_variable("MOWORLD_STEP", name)
        return task.set_env_variable("MOWORLD_CODE", self.code)


STORE_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")
SIGNING_KEYS = ("signing.pem", "signing.pub")
SIGNING_MOUNT = "/var/run/moworld/signing"
UNRETRIED = ("preflight", "promote")  # their no is an answer, not an accident
# Pods that look and launch, and do nothing else: image `launcher` holds all they import. That of cache_features puts shards under DVC afterwards.
LAUNCHERS = ("preflight", "train_curriculum", "train_autoregressive", "distill", "quantize", "benchmark")


class Cluster:
    """Placement by a profile's section `resources`. Every task waits for `preflight`, which looks for what `wanted` names.

    wanted: fields of `components.platform.preflight.Wanted`; None leaves the preflight away
    """

    def __init__(self, resources: Resources, wanted: dict[str, Any] | None = None) -> None:
        self.resources, self.wanted = resources, wanted
        self.preflight: dsl.PipelineTask | None = None

    def pool(self, step: str) -> str:
        """The `pool` parameter of a step: JSON of the TrainJobs it launches, one per expert where two pools are named; "" for the task's own pod."""
        pools = self.pools(step)
        if not pools or not pools[0].launches:
            return ""
        jobs = [self.job(pool) for pool in pools]
        if len(jobs) == 2:
            jobs = [{**job, "arguments": {"experts": [expert]}} for job, expert in zip(jobs, ("high", "low"), strict=True)]
        return json.dumps({"jobs": jobs}, sort_keys=True)

    def job(self, pool: Pool) -> dict[str, Any]:
        """What `components.platform.trainjobs.trainjob` reads."""
        keep = ("cpu", "memory", "resource", "nodes", "procs_per_node", "queue", "runtime", "seconds", "node_selector")
        facts = {key: value for key, value in pool.model_dump().items() if key in keep}
        if pool.kind == "cpu":
            facts["resource"] = ""
        if self.resources.store_secret:
            facts |= {"secret": self.resources.store_secret, "secret_keys": list(STORE_KEYS)}
        return {"kind": "trainjob", **facts, "per_node": pool.procs_per_node, "image": image(pool.image), "claim": self.resources.claim,
                "mount": self.resources.mount}  # fmt: skip

    def pools(self, step: str) -> list[Pool]:
        """The pools of a step; none where the profile names none."""
        return [self.resources.pools[name] for name in self.names(step)]

    def names(self, step: str) -> list[str]:
        chosen = self.resources.steps.get(step, self.resources.steps.get("default", []))
        return [chosen] if isinstance(chosen, str) else chosen

    def __call__(self, task: dsl.PipelineTask, name: str) -> dsl.PipelineTask:
        if self.wanted is not None and name != "preflight":
            if self.preflight is None:
                from components.preflight.component import preflight

                self.preflight = self(preflight(settings=json.dumps(self.wanted, sort_keys=True)), "preflight")
            task.after(self.preflight)
        step = name.rsplit("-", 1)[0] if name.startswith("train_curriculum-") else name
        if not self.pools(step):
            raise InputError(
                "profile", f"resources.steps.{step}", "no pool", "a pool for every step on a cluster", "name one, or a default"
            )
        self._place(task, self.pools(step)[0])
        if step in LAUNCHERS and (step == "preflight" or self.pools(step)[0].launches):
            task.set_container_image(image("launcher"))
        self._secure(task, name)
        # The cluster's cache key knows the names of input artifacts, not their content, and nothing of what a URI holds today:
        # a hit could be stale. A run that failed goes on with --resume, which keeps its finished tasks.
        task.set_caching_options(False)
        if name not in UNRETRIED:
            task.set_retry(num_retries=2, backoff_duration="60s", backoff_factor=2.0, backoff_max_duration="600s")
        return task

    def _place(self, task: dsl.PipelineTask, pool: Pool) -> None:
        """Resources, deadline and nodes; a launcher is small, and lives on the first CPU pool."""
        from kfp import kubernetes

        own = next(p for p in self.resources.pools.values() if not p.launches) if pool.launches else pool
        if pool.launches:
            task.set_cpu_limit("2").set_memory_limit("8Gi").set_cpu_request("1").set_memory_request("2Gi")
        else:
            task.set_cpu_limit(pool.cpu).set_memory_limit(pool.memory).set_cpu_request(pool.cpu).set_memory_request(pool.memory)
        kubernetes.set_timeout(task, pool.seconds + (pool.queue_seconds if pool.launches else 0))
        for key, value in own.node_selector.items():
            kubernetes.add_node_selector(task, key, value)
        for toleration in own.tolerations:
            kubernetes.add_toleration(task, **toleration)

    def _secure(self, task: dsl.PipelineTask, name: str) -> None:
        """User, state on the shared volume, the run's id, and secrets by reference."""
        from kfp import kubernetes

        kubernetes.set_security_context(task, run_as_user=1000, run_as_group=1000, run_as_non_root=True)
        kubernetes.mount_pvc(task, pvc_name=self.resources.claim, mount_path=self.resources.mount)
        kubernetes.use_field_path_as_env(task, "MOWORLD_RUN", "metadata.labels['pipeline/runid']")  # the same in every attempt of a step
        kubernetes.use_field_path_as_env(task, "MOWORLD_NAMESPACE", "metadata.namespace")
        task.set_env_variable("MOWORLD_STEP", name).set_env_variable("MOWORLD_HOME", f"{self.resources.mount}/home")
        if self.resources.store_secret:
            kubernetes.use_secret_as_env(task, self.resources.store_secret, {key: key for key in STORE_KEYS})
        if self.resources.signing_secret and name in ("register", "promote"):
            kubernetes.use_secret_as_volume(task, self.resources.signing_secret, mount_path=SIGNING_MOUNT)
            task.set_env_variable("MOWORLD_SIGNING_KEY", f"{SIGNING_MOUNT}/signing.pem")


def wanted_of(profile: Any) -> dict[str, Any]:
    """What a profile's runs need of the cluster: fields of `components.platform.preflight.Wanted`."""
    from data_contracts.load import contract_names, load_contract

    resources: Resources = profile.resources
    placed = [[chosen] if isinstance(chosen, str) else chosen for chosen in resources.steps.values()]
    jobs = [pool for name, pool in sorted(resources.pools.items()) if pool.launches and any(name in names for names in placed)]
    images = images_of(resources)
    nodes: dict[tuple[str, str, int], int] = {}
    for names in placed:  # pools of one step work at the same time, steps one after the other
        together: dict[tuple[str, str, int], int] = {}
        for pool in (resources.pools[name] for name in names if resources.pools[name].kind == "npu"):
            kind = (json.dumps(pool.node_selector, sort_keys=True), pool.resource, pool.procs_per_node)
            together[kind] = together.get(kind, 0) + pool.nodes
        nodes |= {kind: max(count, nodes.get(kind, 0)) for kind, count in together.items()}
    given = [profile.data.videos, profile.registry.remote, *profile.inputs.model_dump().values()]
    secrets = {name: list(keys) for name, keys in ((resources.store_secret, STORE_KEYS), (resources.signing_secret, SIGNING_KEYS)) if name}
    return {
        "queues": sorted({pool.queue for pool in jobs if pool.queue}),
        "runtimes": sorted({pool.runtime for pool in jobs}),
        "claims": [resources.claim],
        "secrets": secrets,
        "nodes": [
            {"selector": json.loads(selector), "resource": resource, "amount": amount, "count": count}
            for (selector, resource, amount), count in sorted(nodes.items())
        ],
        "uris": sorted({uri for uri in given if uri and "://" in uri}),
        "services": [profile.registry.tracking] if profile.registry.tracking.startswith("http") else [],
        "unpublished_images": sorted(images & set(unpublished())),
        "unpinned_bases": unpinned(images),
        "contracts": {name: load_contract(name).version for name in contract_names()},
    }


def images_of(resources: Resources) -> set[str]:
    """Names of the images that a profile's runs on a cluster are made of: those of tasks, of launchers, and of the jobs of its pools."""
    names = [name for chosen in resources.steps.values() for name in ([chosen] if isinstance(chosen, str) else chosen)]
    return {"data", "launcher", *(resources.pools[name].image for name in names)}


def code_digest() -> str:
    """SHA-256 over the sources that steps run: a change there makes the steps run again."""
    digest = hashlib.sha256()
    paths = [path for part in CODE for path in (ROOT / part).rglob("*") if path.suffix in {".py", ".yaml", ".html"}]
    for path in sorted(paths):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + Path(path).read_bytes())
    return digest.hexdigest()
