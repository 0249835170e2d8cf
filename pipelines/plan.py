"""What a profile's curriculum needs on its pools: the arithmetic of `moworld.training.plan`, stage by stage."""

from typing import Any

from moworld.errors import InputError
from moworld.inference.placement import plan_placement
from moworld.model.costs import Device
from moworld.training.plan import StagePlan, plan_stage
from pipelines.placement import Cluster
from pipelines.profile import Profile

ASSUMPTIONS = (
    "operations: all products of one forward pass, three times for a step, four times where activations are computed again",
    "memory: float32 weights and two moments sharded over all devices; gathered: what is outside the blocks and two blocks, in the dtype;"
    " step: the largest of embedding, end of forward, start and end of backward; 'fits' compares with the device's whole memory",
    "communication: sharding overlaps with computing; exchanging heads or keys and values does not; a group within a node takes its fast"
    " link, a larger one the network",
    "days: steps of the stage; no restarts, no waiting for data, no evaluation; both pools run at the same time",
)


def plan_profile(profile: Profile) -> list[dict[str, Any]]:
    """One row a stage and pool: {"stage", "pool", "ulysses", "ring", ...} and the fields of `StagePlan`.

    Raises InputError where the profile says nothing of the pool's devices.
    """
    cluster, rows = Cluster(profile.resources), []
    named = [(name, profile.resources.pools[name]) for name in cluster.names("train_curriculum")]
    pools = [(name, pool) for name, pool in named if pool.kind == "npu"]
    for number, stage in enumerate(profile.curriculum, start=1):
        placed: list[tuple[str, Device | None, int, int, int]] = [
            (name, pool.device, pool.nodes * pool.procs_per_node, pool.procs_per_node, 1 if len(pools) == 2 else 2) for name, pool in pools
        ] or [("this machine", profile.resources.machine, 1, 1, 2)]
        for name, device, devices, per_node, experts in placed:
            if device is None:
                where = "resources.machine" if name == "this machine" else f"resources.pools.{name}.device"
                raise InputError("profile", where, "nothing", "memory, flops and utilization of a device", "see profile wan22-a14b")
            made: StagePlan = plan_stage(
                profile.model, stage, profile.data.height, profile.data.width, profile.text.length, devices, device,
                experts=experts, per_node=per_node,
            )  # fmt: skip
            sharing = {"ulysses": stage.parallel.ulysses, "ring": stage.parallel.ring, "batch": stage.batch, "steps": stage.steps}
            rows.append({"stage": number, "pool": name, **sharing, **made.as_json()})
    return rows


def plan_serving(profile: Profile, devices: int = 8) -> list[dict[str, Any]]:
    """Placements on 1, 2, 3, 5, 9, ... up to `devices` of the pool that benchmarks, in both precisions: the fields of `PlacementPlan`.

    Raises InputError where the profile says nothing of the pool's devices.
    """
    cluster = Cluster(profile.resources)
    pool = next((profile.resources.pools[name] for name in cluster.names("benchmark") if profile.resources.pools[name].kind == "npu"), None)
    device = profile.resources.machine if pool is None else pool.device
    if device is None:
        raise InputError("profile", "resources", "nothing", "memory, flops and utilization of a device", "see profile wan22-a14b")
    counts = [1] if pool is None else sorted({count for count in (1, 2, 3, 5, 9, 17, 33) if count < devices} | {devices})
    size = (profile.data.height, profile.data.width, profile.text.length, profile.codec is not None)
    return [plan_placement(profile.model, *size, count, device, precision).as_json() for count in counts for precision in ("bf16", "int8")]
