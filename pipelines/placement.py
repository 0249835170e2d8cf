"""Puts a step where it runs: on this machine, or on a pool of the cluster.

`Here` gives a task its name and the digest of the code (kfp's local cache knows nothing of our package). `Cluster` gives it resources,
node selectors and tolerations, and hands NPU steps their pool, as TrainJobs that the task's CPU pod launches.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Protocol

from kfp import dsl
from pydantic import Field

from components.platform.images import ROOT, image
from moworld.settings import Settings
from moworld.training.plan import Device

CODE = ("moworld", "kernels", "data_contracts", "components")


class Pool(Settings):
    """A pool of nodes. `kind` cpu: the task's own pod; npu: TrainJobs that the task's pod launches (Volcano runtime)."""

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
    seconds: int = 7 * 24 * 3600
    device: Device | None = Field(default=None, description="one accelerator of the pool, for 'moworld plan'")


class Resources(Settings):
    """What a profile needs of a machine, and which pool each step takes on a cluster."""

    disk_bytes: int = Field(description="free bytes that a local run needs at its start")
    pools: dict[str, Pool] = Field(default={})
    steps: dict[str, str | list[str]] = Field(default={}, description="step to pool, or to one pool per expert (high noise, low noise)")
    machine: Device | None = Field(default=None, description="the machine of local runs, for 'moworld plan'")
    claim: str = "moworld-work"
    mount: str = "/mnt/moworld"


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


class Cluster:
    """Placement by a profile's section `resources`."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources

    def pool(self, step: str) -> str:
        """The `pool` parameter of a step: JSON of the TrainJobs it launches, one per expert where two pools are named; "" on CPU pools."""
        pools = self.pools(step)
        if not pools or pools[0].kind == "cpu":
            return ""
        jobs = [self.job(pool) for pool in pools]
        if len(jobs) == 2:
            jobs = [{**job, "arguments": {"experts": [expert]}} for job, expert in zip(jobs, ("high", "low"), strict=True)]
        return json.dumps({"jobs": jobs}, sort_keys=True)

    def job(self, pool: Pool) -> dict[str, Any]:
        """What `components.platform.trainjobs.trainjob` reads."""
        keep = ("cpu", "memory", "resource", "nodes", "procs_per_node", "queue", "runtime", "seconds", "node_selector")
        facts = {key: value for key, value in pool.model_dump().items() if key in keep}
        return {"kind": "trainjob", **facts, "per_node": pool.procs_per_node, "image": image(pool.image), "claim": self.resources.claim,
                "mount": self.resources.mount}  # fmt: skip

    def pools(self, step: str) -> list[Pool]:
        """The pools of a step; none where the profile names none."""
        return [self.resources.pools[name] for name in self.names(step)]

    def names(self, step: str) -> list[str]:
        chosen = self.resources.steps.get(step, self.resources.steps.get("default", []))
        return [chosen] if isinstance(chosen, str) else chosen

    def __call__(self, task: dsl.PipelineTask, name: str) -> dsl.PipelineTask:
        from kfp import kubernetes

        step = name.rsplit("-", 1)[0] if name.startswith("train_curriculum-") else name
        task.set_env_variable("MOWORLD_STEP", name)
        for pool_name in self.names(step)[:1]:
            pool = self.resources.pools[pool_name]
            if pool.kind == "npu":  # the launcher itself is small; it shares the volume that the ranks read
                task.set_cpu_limit("2").set_memory_limit("8Gi").set_cpu_request("1").set_memory_request("2Gi")
                kubernetes.mount_pvc(task, pvc_name=self.resources.claim, mount_path=self.resources.mount)
            else:
                task.set_cpu_limit(pool.cpu).set_memory_limit(pool.memory).set_cpu_request(pool.cpu).set_memory_request(pool.memory)
            launcher = next(p for p in self.resources.pools.values() if p.kind == "cpu") if pool.kind == "npu" else pool
            for key, value in launcher.node_selector.items():
                kubernetes.add_node_selector(task, key, value)
            for toleration in launcher.tolerations:
                kubernetes.add_toleration(task, **toleration)
        return task


def code_digest() -> str:
    """SHA-256 over the sources that steps run: a change there makes the steps run again."""
    digest = hashlib.sha256()
    paths = [path for part in CODE for path in (ROOT / part).rglob("*") if path.suffix in {".py", ".yaml", ".html"}]
    for path in sorted(paths):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + Path(path).read_bytes())
    return digest.hexdigest()
