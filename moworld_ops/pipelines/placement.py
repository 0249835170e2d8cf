"""Places the tasks of a pipeline: on this machine, or on a pool of the cluster.

`Local` gives a task its name and the digest of the code: kfp's local cache does not see our package. `Cluster` gives it resources,
node selectors and tolerations. On a pool of kind `trainjob` the task's CPU pod launches TrainJobs.
"""

import hashlib
import json
from typing import Any, Protocol

from kfp import dsl

from moworld.cpus import SHARE
from moworld.errors import InputError
from moworld_ops.components.platform.context import COMMIT, CONTEXT, NAMESPACE, NODE, RUN, StepContext
from moworld_ops.components.platform.image_settings import ImageSettings
from moworld_ops.components.platform.images import image, unpinned, unpublished
from moworld_ops.components.platform.pools import Job, Pool, Torchrun, TrainJob, text
from moworld_ops.components.platform.registry import DATABASE
from moworld_ops.components.platform.source import ROOT, code_revision
from moworld_ops.pipelines.resources import Resources

CODE = ("moworld", "moworld_ops/data_contracts", "moworld_ops/components")  # what steps import
STORE_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")
SIGNING_KEYS = ("signing.pem", "signing.pub")
DATABASE_KEY = "backend-store-uri"  # of the secret that MLflow reads, too
USES_DATABASE = "moworld.io/uses-database"  # label of pods that a network policy lets reach the database
SIGNING_MOUNT = "/var/run/moworld/signing"
SIDE_BY_SIDE = 2  # iterations of a loop that kfp.local runs at a time, at most
STAGING_SECONDS = 6 * 3600  # for a launcher to copy inputs and results; it must outlive its job to say how that ended
SIGNING_PUBLIC = "MOWORLD_SIGNING_PUBLIC"  # variable of preflight: with it the secret exists, and no account needs to read the key
UNRETRIED = ("preflight", "promote")  # refusals are deterministic, so these steps are not retried
RETRIES = 2  # of a step that failed, in its pod (attempts.py), and of a pod that was lost, by Argo
# Steps whose pod only launches jobs: image `launcher` has all they import. The pod of cache_features also adds shards to DVC afterwards.
LAUNCHERS = ("preflight", "train_curriculum", "train_autoregressive", "distill", "quantize", "benchmark")


class Placement(Protocol):
    """Gives a task its name and its place.

    base_sha256: hash of the base weights; "" if it is not known
    beside:      number of partitions whose steps run at the same time
    """

    base_sha256: str

    def pool(self, step: str) -> str: ...

    def __call__(self, task: dsl.PipelineTask, name: str, beside: int = 1) -> dsl.PipelineTask: ...


class Local:
    """Placement on this machine."""

    def __init__(self, code: str, resources: Resources, base_sha256: str = "") -> None:
        self.code, self.resources, self.base_sha256 = code, resources, base_sha256

    def pool(self, step: str) -> str:
        """Returns parameter `pool` of a step: its ranks if its pool is of kind `torchrun`, else "" for the step's own process."""
        pool = next(iter(self.resources.pools_of(step)), None)
        return text(pool) if isinstance(pool, Torchrun) else ""

    def __call__(self, task: dsl.PipelineTask, name: str, beside: int = 1) -> dsl.PipelineTask:
        if (share := min(beside, SIDE_BY_SIDE)) > 1:
            task.set_env_variable(SHARE, str(share))
        return task.set_env_variable(CONTEXT, StepContext(step=name, code=self.code).text())


class Cluster:
    """Placement by a profile's sections `resources` and `images`.

    requirements: fields of `moworld_ops.components.platform.preflight.Requirements`; every task waits for a preflight that checks
                  them. None omits the preflight
    continues:    id of the run whose checkpoints the steps continue from; "" for none
    """

    def __init__(
        self, resources: Resources, requirements: dict[str, Any] | None = None, images: ImageSettings | None = None, continues: str = ""
    ) -> None:
        self.images, self.continues = images or ImageSettings(), continues
        self.resources, self.requirements, self.base_sha256 = resources, requirements, ""
        self.preflight: dsl.PipelineTask | None = None
        self.commit = code_revision()

    def pool(self, step: str) -> str:
        """Returns parameter `pool` of a step: its TrainJobs, one per expert for two pools; its ranks; "" for the task's own pod."""
        pools = self.resources.pools_of(step)
        jobs = [pool for pool in pools if isinstance(pool, TrainJob)]
        if not jobs:
            return "".join(text(pool) for pool in pools if not isinstance(pool, TrainJob))
        experts = [{"experts": ["high"]}, {"experts": ["low"]}] if len(jobs) == 2 else [{}]
        return text([self._job(pool, arguments) for pool, arguments in zip(jobs, experts, strict=True)])

    def _job(self, pool: TrainJob, arguments: dict[str, Any]) -> Job:
        secret, shared = self.resources.store_secret, {"claim": self.resources.claim, "mount": self.resources.mount}
        facts = pool.model_dump() | shared | {"image": self._image(pool.image), "arguments": arguments}
        return Job(**facts, secret=secret, secret_keys=STORE_KEYS if secret else ())

    def _image(self, name: str) -> str:
        return self.images.reference(name, image(name))

    def __call__(self, task: dsl.PipelineTask, name: str, beside: int = 1) -> dsl.PipelineTask:
        if self.requirements is not None and name != "preflight":
            if self.preflight is None:
                from moworld_ops.components.preflight.component import preflight

                self.preflight = self(preflight(settings=json.dumps(self.requirements, sort_keys=True)), "preflight")
            task.after(self.preflight)
        step = name.rsplit("-", 1)[0] if name.startswith("train_curriculum-") else name
        pools = self.resources.pools_of(step)
        if not pools:
            raise InputError("profile", f"resources.steps.{step}", "no pool", "a pool for every step", "name one, or a default")
        from kfp import kubernetes

        watches = step == "preflight" or isinstance(pools[0], TrainJob)
        seconds = self._place(task, pools[0], watches)
        task.set_container_image(self._image("launcher" if step in LAUNCHERS and watches else "data"))
        if self.images.own:
            kubernetes.set_image_pull_policy(task, "IfNotPresent")  # images may be on the nodes alone
        self._secure(task, name)
        # The cluster's cache key has the names of input artifacts, not their content, and not the content behind a URI: hits could be
        # stale. --resume keeps the finished tasks of a failed run instead.
        task.set_caching_options(False)
        if name not in UNRETRIED:  # Argo counts the maximum from the first attempt's start, so every attempt must fit
            task.set_retry(RETRIES, backoff_duration="60s", backoff_factor=2.0, backoff_max_duration=f"{seconds * (RETRIES + 1)}s")
        return task

    def _place(self, task: dsl.PipelineTask, pool: Pool, watches: bool) -> int:
        """Sets resources, deadline and nodes, and returns the deadline.

        watches: the pod only checks or launches, so it is small; it runs on the first pool of pods
        """
        from kfp import kubernetes

        small = self.resources.launcher
        if watches or isinstance(pool, TrainJob):  # the second for mypy: such a pool has no requests of its own
            requests, limits = (small.cpu, small.memory), (small.cpu_limit, small.memory_limit)
        else:
            requests, limits = (pool.cpu_request or pool.cpu, pool.memory_request or pool.memory), (pool.cpu, pool.memory)
        task.set_cpu_request(requests[0]).set_memory_request(requests[1]).set_cpu_limit(limits[0]).set_memory_limit(limits[1])
        if isinstance(pool, TrainJob):
            seconds = pool.queue_seconds + pool.seconds + STAGING_SECONDS
            own = next(one for one in self.resources.pools.values() if not isinstance(one, TrainJob))
        else:
            seconds, own = pool.seconds, pool
        kubernetes.set_timeout(task, seconds)
        for key, value in own.node_selector.items():
            kubernetes.add_node_selector(task, key, value)
        for toleration in own.tolerations:
            kubernetes.add_toleration(task, **toleration)
        return seconds

    def _secure(self, task: dsl.PipelineTask, name: str) -> None:
        """Sets user, shared volume, the run's id, and secrets by reference."""
        from kfp import kubernetes

        kubernetes.set_security_context(task, run_as_user=1000, run_as_group=1000, run_as_non_root=True)
        kubernetes.add_pod_label(task, "sidecar.istio.io/inject", "false")  # a sidecar never ends, so the pod would not either
        kubernetes.mount_pvc(task, pvc_name=self.resources.claim, mount_path=self.resources.mount)
        kubernetes.use_field_path_as_env(task, RUN, "metadata.labels['pipeline/runid']")  # the same in every attempt of a step
        kubernetes.use_field_path_as_env(task, NAMESPACE, "metadata.namespace")
        kubernetes.use_field_path_as_env(task, NODE, "metadata.annotations['workflows.argoproj.io/node-name']")
        retries = 0 if name in UNRETRIED else RETRIES
        own = self._image("data") if self.images.own else ""
        step = StepContext(step=name, retries=retries, image=own, continues=self.continues)
        task.set_env_variable(CONTEXT, step.text()).set_env_variable(COMMIT, self.commit)
        task.set_env_variable("MOWORLD_HOME", f"{self.resources.mount}/home")
        if self.resources.store_secret:
            kubernetes.use_secret_as_env(task, self.resources.store_secret, {key: key for key in STORE_KEYS})
        if self.resources.signing_secret and name == "preflight":
            kubernetes.use_secret_as_env(task, self.resources.signing_secret, {SIGNING_KEYS[1]: SIGNING_PUBLIC}, optional=True)
        if self.resources.signing_secret and name in ("register", "promote"):
            kubernetes.use_secret_as_volume(task, self.resources.signing_secret, mount_path=SIGNING_MOUNT)
            task.set_env_variable("MOWORLD_SIGNING_KEY", f"{SIGNING_MOUNT}/signing.pem")
        if self.resources.registry_secret and name in ("preflight", "register", "promote"):
            absent_is_reported = name == "preflight"  # without it the pod would not start, and nothing would say why
            kubernetes.use_secret_as_env(task, self.resources.registry_secret, {DATABASE_KEY: DATABASE}, optional=absent_is_reported)
            kubernetes.add_pod_label(task, USES_DATABASE, "true")


def requirements_of(profile: Any) -> dict[str, Any]:
    """Returns what a profile's runs need of the cluster: fields of `moworld_ops.components.platform.preflight.Requirements`."""
    from moworld_ops.data_contracts.load import contract_names, load_contract

    resources: Resources = profile.resources
    jobs = [pool for pools in resources.used_pools() for pool in pools if isinstance(pool, TrainJob)]
    images = images_of(resources)
    nodes: dict[tuple[str, str, int], int] = {}
    for pools in resources.used_pools():  # the pools of one step work at the same time, steps one after the other
        together: dict[tuple[str, str, int], int] = {}
        for pool in pools:
            if isinstance(pool, TrainJob) and pool.resource:
                kind = (json.dumps(pool.node_selector, sort_keys=True), pool.resource, pool.procs_per_node)
                together[kind] = together.get(kind, 0) + pool.nodes
        nodes |= {kind: max(count, nodes.get(kind, 0)) for kind, count in together.items()}
    read = [profile.data.videos, profile.registry.remote, profile.inputs.base, profile.inputs.base_low]  # by the steps
    imported = [getattr(profile.inputs, name) for name in ("features", "captioned", "teacher", "distilled", "vae")]  # by KFP
    store, signing, database = resources.store_secret, resources.signing_secret, resources.registry_secret
    secrets = {name: list(keys) for name, keys in ((store, STORE_KEYS), (signing, SIGNING_KEYS), (database, (DATABASE_KEY,))) if name}
    return {
        "queues": sorted({pool.queue for pool in jobs if pool.queue}),
        "local_queues": sorted({pool.local_queue for pool in jobs if pool.local_queue}),
        "runtimes": sorted({pool.runtime for pool in jobs}),
        "claims": [resources.claim],
        "secrets": secrets,
        "variables": {name: variable for name, variable in ((signing, SIGNING_PUBLIC), (database, DATABASE)) if name},
        "nodes": [
            {"selector": json.loads(selector), "resource": resource, "amount": amount, "count": count}
            for (selector, resource, amount), count in sorted(nodes.items())
        ],
        "pods": _pods(resources),
        "uris": sorted({uri for uri in read if uri and "://" in uri}),
        "artifacts": sorted({uri for uri in imported if "://" in uri}),
        "database": DATABASE if database else "",
        "services": [profile.registry.tracking] if profile.registry.tracking.startswith("http") else [],
        "images": {name: profile.images.reference(name, image(name)) for name in sorted(images)},
        "unpublished_images": [] if profile.images.own else sorted(images & set(unpublished())),
        "unpinned_bases": [] if profile.images.own else unpinned(images),
        "contracts": {name: load_contract(name).version for name in contract_names()},
    }


def _pods(resources: Resources) -> list[list[dict[str, Any]]]:
    """Returns the pods of each step that differs in them: its own, which is a launcher if it has jobs, and those of the jobs."""
    steps: list[list[dict[str, Any]]] = []
    for pools in resources.used_pools():
        pods: list[dict[str, Any]] = []
        for pool in pools:
            limits = {"cpu": pool.cpu, "memory": pool.memory}
            if isinstance(pool, TrainJob):
                limits |= {pool.resource: str(pool.procs_per_node)} if pool.resource else {}
                pods.append({"count": pool.nodes, "requests": limits, "limits": limits})
            else:
                requests = {"cpu": pool.cpu_request or pool.cpu, "memory": pool.memory_request or pool.memory}
                pods.append({"count": 1, "requests": requests, "limits": limits})
        if any(isinstance(pool, TrainJob) for pool in pools):
            small = resources.launcher
            requests, limits = {"cpu": small.cpu, "memory": small.memory}, {"cpu": small.cpu_limit, "memory": small.memory_limit}
            pods.append({"count": 1, "requests": requests, "limits": limits})
        if pods not in steps:
            steps.append(pods)
    return steps


def images_of(resources: Resources) -> set[str]:
    """Returns the names of the images of a profile's runs on a cluster: those of tasks, launchers and TrainJobs."""
    return {"data", "launcher", *(pool.image for pools in resources.used_pools() for pool in pools)}


def code_digest() -> str:
    """Returns the SHA-256 of the sources that steps run: after a change the steps run again."""
    digest = hashlib.sha256()
    for path in sorted(path for part in CODE for path in (ROOT / part).rglob("*") if path.suffix in (".py", ".yaml", ".html")):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()
