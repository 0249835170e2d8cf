"""Pools: where the work of a step runs. Section `resources` of a profile names them, and parameter `pool` of a step has them as JSON."""

import json
import math
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, TypeAdapter

from moworld.model.settings import Device
from moworld.settings import Settings

MAX_SECONDS = 10**9  # a deadline is an int32 in Kubernetes
UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
UNITS |= {f"{prefix}i": 1024.0**power for power, prefix in enumerate("KMGTP", 1)}


def amount_of(quantity: object) -> float:
    """Returns a Kubernetes quantity such as 1, "1000m", 0.5 or "16Gi" as a number. Raises ValueError unless it is one above 0."""
    found = None if isinstance(quantity, bool) else re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)([a-zA-Z]*)", str(quantity).strip())
    if found is None or found[2] not in UNITS or float(found[1]) <= 0:
        raise ValueError("a Kubernetes quantity above 0, such as 2, 500m or 16Gi")
    return float(found[1]) * UNITS[found[2]]


def _cpu(quantity: object) -> str:
    """Returns a number of CPUs in the one form that KFP accepts for all: whole CPUs or thousandths."""
    thousandths = max(1, round(amount_of(quantity) * 1000))
    return f"{thousandths}m" if thousandths % 1000 else str(thousandths // 1000)


def _memory(quantity: object) -> str:
    """Returns an amount of memory as KFP accepts it: a whole number, with a unit if it was given so."""
    amount, text = amount_of(quantity), str(quantity).strip()
    return text if re.fullmatch(r"\d+([KMGTP]i|[MGTP])?", text) else str(math.ceil(amount))


class _Nodes(Settings):
    """What a pod of the pool gets on a cluster. A local run ignores all of it."""

    cpu: Annotated[str, BeforeValidator(_cpu)] = "4"
    memory: Annotated[str, BeforeValidator(_memory)] = "16Gi"
    image: str = "data"
    node_selector: dict[str, str] = Field(default={})
    seconds: int = Field(default=7 * 24 * 3600, gt=0, le=MAX_SECONDS, description="deadline of a step's work")
    device: Device | None = Field(default=None, description="one accelerator of the pool, for 'moworld plan'")


class _Pod(_Nodes):
    """A pool whose work is in the task's pod. Without requests of its own the pod reserves what it may use."""

    cpu_request: Annotated[str, BeforeValidator(_cpu)] | None = None
    memory_request: Annotated[str, BeforeValidator(_memory)] | None = None


class Here(_Pod):
    """The step's own process; on a cluster that of its pod."""

    kind: Literal["here"] = "here"
    tolerations: list[dict[str, str]] = Field(default=[])

    num_ranks: ClassVar[int] = 1
    ranks_per_node: ClassVar[int] = 1


class Torchrun(_Pod):
    """Ranks that torchrun starts beside the step: on this machine, or in its pod. Each takes the accelerator of its local rank, if any."""

    kind: Literal["torchrun"] = "torchrun"
    tolerations: list[dict[str, str]] = Field(default=[])
    ranks: int = Field(default=1, ge=1, le=4096)

    @property
    def num_ranks(self) -> int:
        return self.ranks

    @property
    def ranks_per_node(self) -> int:
        return self.ranks


class TrainJob(_Nodes):
    """Jobs of Kubeflow Trainer that the step's pod launches on a cluster; a local run uses the step's own process instead."""

    kind: Literal["trainjob"] = "trainjob"
    runtime: str = Field(description="the ClusterTrainingRuntime")
    nodes: int = Field(default=1, ge=1, le=100_000)
    procs_per_node: int = Field(default=1, ge=1, le=4096)
    resource: str = Field(default="", description="accelerator of each process, such as huawei.com/Ascend910; empty for CPUs")
    queue: str = Field(default="", description="Volcano's queue; empty for none")
    local_queue: str = Field(default="", description="Kueue's LocalQueue, which starts the job suspended; empty for none")
    queue_seconds: int = Field(default=24 * 3600, ge=0, le=MAX_SECONDS, description="additional time that its jobs may wait in the queue: Trainer counts a deadline from the creation")

    @property
    def num_ranks(self) -> int:
        return self.nodes * self.procs_per_node

    @property
    def ranks_per_node(self) -> int:
        return self.procs_per_node


def _of_former_kind(values: Any) -> Any:
    """Returns a pool of version 0.1, of kind `cpu` or `npu`, as a pool of today; other values are unchanged."""
    if not isinstance(values, dict) or values.get("kind") not in ("cpu", "npu"):
        return values
    npu = values["kind"] == "npu"
    if not (npu or values.get("runtime")):
        return {"kind": "here", **{key: value for key, value in values.items() if key in Here.model_fields and key != "kind"}}
    former = {"procs_per_node": 8, "resource": "huawei.com/Ascend910", **values}
    changed = {"kind": "trainjob", "resource": former["resource"] if npu else ""}
    return {key: value for key, value in (former | changed).items() if key in TrainJob.model_fields}


Pool = Annotated[Annotated[Here | Torchrun | TrainJob, Field(discriminator="kind")], BeforeValidator(_of_former_kind)]


class Job(TrainJob):
    """A TrainJob pool with what a run adds. `image` is a reference by digest.

    claim, mount: the shared volume and its mount path
    secret:       secret whose keys `secret_keys` become environment variables, for ranks that read an object store; empty for none
    arguments:    arguments of the step that this job changes
    """

    claim: str
    mount: str
    secret: str = ""
    secret_keys: tuple[str, ...] = ()
    arguments: dict[str, Any] = Field(default={})


_Parameter: TypeAdapter[Torchrun | list[Job]] = TypeAdapter(Torchrun | list[Job])
_UNUSED = {"device"}  # by jobs


def text(pool: Here | Torchrun | list[Job]) -> str:
    """Returns parameter `pool` of a step as JSON, with what the step reads of it; "" for the step's own process."""
    if isinstance(pool, Here):
        return ""
    used = {"kind", "ranks"} if isinstance(pool, Torchrun) else {"__all__": set(Job.model_fields) - _UNUSED}
    return json.dumps(_Parameter.dump_python(pool, mode="json", include=used), sort_keys=True)


def parse(parameter: str) -> Here | Torchrun | list[Job]:
    """Returns the pool in parameter `pool` of a step, as `text` wrote it: parallel jobs for TrainJobs."""
    return _Parameter.validate_json(parameter) if parameter else Here()
