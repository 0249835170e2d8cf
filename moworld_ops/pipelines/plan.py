"""Plans of a profile on its pools: training by `moworld.training.plan`, serving by `moworld.inference.placement`."""

from dataclasses import asdict
from typing import Any, TypeVar

from moworld.distillation.plan import plan_autoregressive, plan_distillation
from moworld.distillation.settings import AutoregressiveSettings, DistillSettings
from moworld.errors import InputError
from moworld.inference.placement import plan_placement
from moworld.inference.published import compare_with_published
from moworld.model.settings import Device
from moworld.training.plan import StagePlan, plan_stage
from moworld.training.settings import Stage
from moworld_ops.pipelines.profile import Profile, ring_for

ASSUMPTIONS = (
    "operations: all products of one forward pass, three times for a step, four times if activations are recomputed",
    "memory: float32 weights and two moments sharded over all devices; gathered: parameters outside the blocks and two blocks, in the"
    " dtype, and a block's gradients in float32; step: the largest of embedding, end of forward, start and end of backward; 'fits'"
    " compares with the device's whole memory",
    "distillation: student, fake model, teacher and the monitor's copy of the student, of two experts each; a student step keeps the"
    " activations of all chunks; the exit step is in the middle of the schedule on average",
    "communication: sharding overlaps with compute; the exchange of heads or keys and values does not; a group within a node uses its"
    " fast link, a larger one the network",
    "days: steps of the stage; no restarts, no waiting for data, no evaluation; both pools run at the same time",
)
S = TypeVar("S", Stage, AutoregressiveSettings, DistillSettings)
SERVING_COUNTS = (1, 2, 3, 5, 9, 17, 33)  # one device for the decoder, a power of two for the experts


def plan_profile(profile: Profile) -> list[dict[str, Any]]:
    """Returns one row per stage and pool: {"stage", "pool", "ulysses", "ring", "ring_of_profile", ...} and the fields of `StagePlan`.

    After the numbered stages follow "autoregressive", "distill-fake" and "distill-student".
    Raises InputError if the profile does not describe the pool's devices.
    """
    rows, size = [], (profile.data.height, profile.data.width, profile.text.length)
    pools = _training_pools(profile, "train_curriculum")
    for number, stage in enumerate(profile.curriculum, start=1):
        for name, device, devices, per_node in pools:
            experts = 1 if len(pools) == 2 else 2
            fitted = _shared(stage, devices)
            made = plan_stage(profile.model, fitted, *size, devices, device, experts=experts, per_node=per_node)
            rows.append(_row(number, name, stage, fitted, made))
    for name, device, devices, per_node in _training_pools(profile, "train_autoregressive"):
        own = _shared(profile.autoregressive, devices)
        student = plan_autoregressive(profile.model, own, *size, devices, device, per_node)
        rows.append(_row("autoregressive", name, profile.autoregressive, own, student))
    for name, device, devices, per_node in _training_pools(profile, "distill"):
        distill = _shared(profile.distill, devices)
        for kind, made in plan_distillation(profile.model, distill, *size, devices, device, per_node).items():
            rows.append(_row(f"distill-{kind}", name, profile.distill, distill, made))
    return rows


def _training_pools(profile: Profile, step: str) -> list[tuple[str, Device, int, int]]:
    """Returns name, device, number of devices and devices of a node, of each pool of a step with devices; this machine if there is none."""
    resources = profile.resources
    named = [(name, resources.pools[name]) for name in resources.pool_names(step)]
    pools = [(name, pool) for name, pool in named if pool.device or pool.num_ranks > 1]
    if not pools:
        return [("this machine", _described(resources.machine, "resources.machine"), 1, 1)]
    return [
        (name, _described(pool.device, f"resources.pools.{name}.device"), pool.num_ranks, pool.ranks_per_node)
        for name, pool in pools
    ]


def _shared(stage: S, devices: int) -> S:
    """Returns a stage with the smallest ring with which the devices share its batch: a plan answers for pools of any size."""
    ring = ring_for(stage, devices) if devices > 1 else None
    return stage.model_copy(update={"parallel": stage.parallel.model_copy(update={"ring": ring})}) if ring else stage


def _row(stage: int | str, pool: str, given: Any, used: Any, planned: StagePlan) -> dict[str, Any]:
    parallel = used.parallel
    sharing = {"ulysses": parallel.ulysses, "ring": parallel.ring, "ring_of_profile": given.parallel.ring, "batch": used.batch, "steps": used.steps}
    return {"stage": stage, "pool": pool, **sharing, **planned.as_json()}


def plan_serving(profile: Profile, devices: int = 8) -> list[dict[str, Any]]:
    """Returns placements on 1, 2, 3, 5, 9, ... up to `devices` of the benchmark pool, in both precisions: fields of `PlacementPlan`.

    Raises InputError if the profile does not describe the pool's devices.
    """
    pool = next((pool for pool in profile.resources.pools_of("benchmark") if pool.device), None)
    device = _described(profile.resources.machine if pool is None else pool.device, "resources")
    counts = [1] if pool is None else sorted({count for count in SERVING_COUNTS if count < devices} | {devices})
    size = (profile.data.height, profile.data.width, profile.text.length, profile.codec is not None)
    return [asdict(plan_placement(profile.model, *size, count, device, precision)) for count in counts for precision in ("bf16", "int8")]


def published_times(profile: Profile) -> dict[str, Any] | None:
    """Returns the plan's formula beside published times on NPUs (see `compare_with_published`), or None if no NPU pool serves."""
    pool = next((pool for pool in profile.resources.pools_of("benchmark") if pool.kind == "npu"), None)
    return None if pool is None else compare_with_published(_described(pool.device, "resources"))


def _described(device: Device | None, field: str) -> Device:
    if device is None:
        raise InputError("profile", field, "nothing", "memory, flops and utilization of a device", "see profile wan22-a14b")
    return device
