"""Dry run of a profile: every phase of training, the quantization and a served chunk, at true size, on fake tensors and fake ranks.

Each phase runs the library's own functions in a process of its own, because a process has one process group. What is counted, and how, is in
`moworld.training.dry_run`.
"""

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from moworld.distillation.plan import plan_autoregressive, plan_distillation
from moworld.errors import InputError
from moworld.inference.placement import plan_placement
from moworld.kernels.dispatch import named
from moworld.model.experts import Experts
from moworld.model.flow import few_step_schedule
from moworld.model.settings import Device
from moworld.model.transformer import MoWorldTransformer3DModel
from moworld.model.weights import cast_parameters
from moworld.model.world import WorldConfig, WorldModel, expert_structure
from moworld.training.dry_run import MemoryTracker, Peak, ascend_shapes, fake_ranks, fake_tensors
from moworld.training.loop import Learner
from moworld.training.parallel import Ranks, join_ranks
from moworld.training.plan import plan_stage
from moworld.training.settings import Stage
from moworld_ops.pipelines.profile import Profile

SPARE = 0.1  # share of a device's free memory that a phase must leave
ASSUMPTIONS = (
    "parameters, gradients, optimizer: this rank's shards, moments after earlier steps included; gathered: weights of other ranks and the"
    " buffers that collect weights and sum gradients; activations: all else",
    "placing: the largest total while the models are created and placed on the rank",
    "kernels are those of the CPU, whose temporaries can be larger than those of fused NPU kernels; fragmentation is in runtime_bytes",
    "quantize, serve: experts in bfloat16 and INT8; the chunk has full history; its decoder runs on the same device",
    "yes: the total is at most nine tenths of memory_bytes - runtime_bytes",
)
Measured = tuple[Peak, int]  # of a step, and the largest total while its models were created and placed


@dataclass(frozen=True)
class Phase:
    """A phase of a profile and the pools that run it. `step` is the lifecycle step, `kind` the function of PHASES, `stage` its index."""

    name: str
    step: str
    kind: str
    stage: int = 0


@dataclass(frozen=True)
class Place:
    """Where a phase runs: pools of equal size, their number of devices, one device, and the experts of one process."""

    pools: tuple[str, ...]
    devices: int
    device: Device
    experts: tuple[str, ...]


def phases(profile: Profile) -> list[Phase]:
    """Returns the phases of a profile in the order in which they run."""
    stages = [Phase(f"stage-{number}", "train_curriculum", "stage", number - 1) for number in range(1, len(profile.curriculum) + 1)]
    distill = [Phase(f"distill-{kind}", "distill", kind) for kind in ("fake", "student")]
    last = [Phase("quantize", "quantize", "quantize"), Phase("serve", "benchmark", "serve")]
    return [*stages, Phase("autoregressive", "train_autoregressive", "autoregressive"), *distill, *last]


def place_of(profile: Profile, phase: Phase) -> Place:
    """Returns where a phase runs. Raises InputError if the profile does not describe the devices, or one phase has unequal pools."""
    resources = profile.resources
    named_pools = [(name, resources.pools[name]) for name in resources.pool_names(phase.step)]
    pools = [(name, pool) for name, pool in named_pools if pool.device or pool.num_ranks > 1]
    if not pools:
        if resources.machine is None:
            raise InputError("profile", "resources.machine", "nothing", "memory of this machine", "see profile pocket")
        return Place(("this machine",), 1, resources.machine, ("high", "low"))
    sizes = {(pool.num_ranks, pool.device) for _, pool in pools}
    devices, device = next(iter(sizes))
    if len(sizes) > 1 or device is None:
        found = f"pools {' and '.join(name for name, _ in pools)} of {'different devices' if len(sizes) > 1 else 'undescribed devices'}"
        raise InputError("profile", f"resources.steps.{phase.step}", found, "equal pools with a device", "describe the same device in both")
    return Place(tuple(name for name, _ in pools), devices, device, ("high",) if len(pools) == 2 else ("high", "low"))


def dry_run(profile: Profile, names: list[str] | None = None, workers: int = 2) -> Iterator[dict[str, Any]]:
    """Yields {"phase", "pools", "devices", "peak", "total_bytes", "placing_bytes", "free_bytes", "fits", "planned"} of each phase.

    peak:    bytes by kind, see `moworld.training.dry_run.Peak`; planned: the plan's, with "total"; None if it has none
    names:   phases to run; None runs all
    workers: processes at a time; one takes up to 2 GB
    Raises InputError for an unknown phase.
    """
    known = {phase.name: phase for phase in phases(profile)}
    if unknown := set(names or []) - set(known):
        raise InputError("--phase", "", ", ".join(sorted(unknown)), f"one of {', '.join(known)}", "choose one of them")
    chosen = [phase for phase in known.values() if not names or phase.name in names]
    places = [place_of(profile, phase) for phase in chosen]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        yield from pool.map(_measure, [profile.model_dump()] * len(chosen), chosen, places)


def _measure(values: dict[str, Any], phase: Phase, place: Place) -> dict[str, Any]:
    """Runs one phase in this process, and returns its row."""
    warnings.filterwarnings("ignore", category=UserWarning)  # FSDP warns of blocks that return views
    torch.set_num_threads(1)
    rank = min(1, place.devices - 1)  # inner ranks hold tokens of one more frame than the first rank
    profile = Profile(**values)
    with fake_ranks(place.devices, rank):
        try:
            peak, placing = PHASES[phase.kind](profile, phase, place)
        except Exception as error:  # some errors cannot be sent to another process
            raise RuntimeError(f"{phase.name}: {type(error).__name__}: {error}") from error
    free = place.device.memory_bytes - place.device.runtime_bytes
    peak_of = {"total": peak.total, **asdict(peak)}
    return {
        "phase": phase.name, "pools": place.pools, "devices": place.devices, "peak": peak_of, "total_bytes": peak.total,
        "placing_bytes": placing, "free_bytes": free, "fits": peak.total <= (1 - SPARE) * free, "planned": planned_peak(profile, phase, place),
    }  # fmt: skip


def planned_peak(profile: Profile, phase: Phase, place: Place) -> dict[str, float] | None:
    """Returns the plan's bytes of a phase by the same kinds, with their "total"; None if the plan has none."""
    model, size = profile.model, (profile.data.height, profile.data.width, profile.text.length)
    if phase.kind == "stage":
        stage, experts = profile.curriculum[phase.stage], len(place.experts)
        return plan_stage(model, stage, *size, place.devices, place.device, experts=experts).peak()
    if phase.kind == "autoregressive":
        return plan_autoregressive(model, profile.autoregressive, *size, place.devices, place.device).peak()
    if phase.kind in ("fake", "student"):
        return plan_distillation(model, profile.distill, *size, place.devices, place.device)[phase.kind].peak()
    if phase.kind == "serve":
        return plan_placement(model, *size, profile.codec is not None, 1, place.device, "int8").peak()
    return None


def _train_step(profile: Profile, stage: Stage, place: Place, loss_of: Callable[..., Tensor]) -> Measured:
    """Measures one step of each expert in turn, with optimizer state from earlier steps. loss_of: (world, name, batch, generator, ranks)."""
    ranks = join_ranks(stage.parallel)
    with fake_tensors() as tracker:
        world, generator = _unread(profile, place.experts), torch.Generator().manual_seed(0)
        learners = {}
        for name, expert in world.experts.named_experts():
            ranks.place(expert)
            learners[name] = Learner(expert, stage.optimizer, stage.steps)
        batch = _batch(profile, stage.num_latents, stage.batch // ranks.data_size)
        _start(tracker, [world.experts], learners)
        for name, learner in learners.items():
            learner.step(loss_of(world, name, batch, generator, ranks))
        return tracker.peak(), tracker.placing


def _stage(profile: Profile, phase: Phase, place: Place) -> Measured:
    from moworld.training.objective import flow_matching_loss

    stage = profile.curriculum[phase.stage]

    def loss_of(world: WorldModel, name: str, batch: Any, generator: Any, ranks: Ranks) -> Tensor:
        dropout = stage.camera_dropout, stage.text_dropout
        return flow_matching_loss(world.experts, name, batch, profile.model.shift, generator, *dropout, ranks)

    return _train_step(profile, stage, place, loss_of)


def _autoregressive(profile: Profile, phase: Phase, place: Place) -> Measured:
    from moworld.distillation.autoregressive import autoregressive_loss

    settings = profile.autoregressive

    def loss_of(world: WorldModel, name: str, batch: Any, generator: Any, ranks: Ranks) -> Tensor:
        return autoregressive_loss(world, name, batch, settings, generator, ranks)[0]

    return _train_step(profile, settings, place, loss_of)


def _distill(profile: Profile, phase: Phase, place: Place) -> Measured:
    """Measures one phase of `SelfForcing`. The seed makes the last denoising step the exit, so that both experts have run before it.

    A chunk takes only as many denoising steps as both experts need: those before the exit keep nothing, so more change no peak.
    """
    from moworld.distillation.phases import SelfForcing

    settings, model = profile.distill, profile.model
    shift, most = model.student_shift or model.shift, model.student_steps
    steps = next((n for n in range(2, most) if float(few_step_schedule(n, shift)[-1]) < model.boundary), most)
    profile = profile.model_copy(update={"model": model.model_copy(update={"student_steps": steps})})
    seed = next(s for s in itertools.count() if int(torch.randint(steps, (), generator=torch.Generator().manual_seed(s))) == steps - 1)
    ranks = join_ranks(settings.parallel)
    with fake_tensors() as tracker:
        student, teacher = _unread(profile), _unread(profile, dtype=ranks.dtype)
        for _, expert in teacher.experts.named_experts():
            ranks.place(expert)
        forcing = SelfForcing(student, teacher, settings, seed, ranks)
        batch = _batch(profile, 1 + settings.chunks * profile.model.chunk_latents, settings.batch // ranks.data_size)
        _start(tracker, [forcing.student.experts, forcing.teacher, forcing.fake], forcing.learners, forcing.monitor.weights.values())
        forcing.fake_phase(batch) if phase.kind == "fake" else forcing.student_phase(batch)
        return tracker.peak(), tracker.placing


def _quantize(profile: Profile, phase: Phase, place: Place) -> Measured:
    """Measures the conversion of an expert to INT8, from bfloat16 weights; the other one is not on the device then."""
    from moworld.inference.quantization import convert

    with fake_tensors() as tracker, named(attention="sdpa"), ascend_shapes():
        world = _world(profile, ("high",), torch.bfloat16)
        tracker.start_step([world.experts])
        settings = profile.quantize.model_copy(update={"max_layer_error": 1.0})  # fake errors are 1
        convert([("high", world.experts.high)], _config(profile), settings)
        return tracker.peak(), tracker.placing


def _serve(profile: Profile, phase: Phase, place: Place) -> Measured:
    """Measures one chunk of an INT8 world under full history: denoised, then decoded, all on one device; other weights are bfloat16."""
    from moworld.inference.session import to_bytes
    from moworld.model.codec import StreamingCodec
    from moworld.model.int8 import quantize_structure
    from moworld.model.latent_cameras import LatentCameras
    from moworld.model.rollout import Rollout
    from moworld.model.wan_vae import WanCodec

    model = profile.model
    wan_vae: Any = None
    if profile.codec is None:  # imported before torch_npu's stand-in exists, which Diffusers would ask for its version
        from diffusers import AutoencoderKLWan

        wan_vae = AutoencoderKLWan
    with fake_tensors() as tracker, torch.inference_mode(), named(attention="sdpa"), ascend_shapes():
        world = _world(profile, dtype=torch.bfloat16)
        for _, expert in world.experts.named_experts():
            quantize_structure(expert)
        codec: Any = StreamingCodec() if wan_vae is None else WanCodec(wan_vae())
        batch = _batch(profile, 2 * model.history.num_frames, 1)
        latents, cameras = batch["latents"], LatentCameras.from_frames(batch["intrinsics"], batch["c2w"])
        rollout = Rollout(
            world.experts, latents[:, :, :1], batch["text"], batch["intrinsics"][:, 0], schedule=world.config.schedule,
            policy=model.history, chunk_latents=model.chunk_latents, generator=torch.Generator().manual_seed(0), denoise=world.denoiser.denoise,
        )  # fmt: skip
        rollout.bank.append(latents[:, :, 1:], cameras[1:])
        tracker.start_step([world.experts, codec])
        chunk = rollout.next_chunk(batch["c2w"][:, : 4 * model.chunk_latents])
        to_bytes(codec.decode_chunk(chunk, None)[0])
        return tracker.peak(), tracker.placing


PHASES: dict[str, Callable[[Profile, Phase, Place], Measured]] = {
    "stage": _stage, "autoregressive": _autoregressive, "fake": _distill, "student": _distill, "quantize": _quantize, "serve": _serve,
}  # fmt: skip


def _start(tracker: MemoryTracker, experts: list[nn.Module], learners: dict[str, Learner], copies: Iterable[Tensor] = ()) -> None:
    """Starts measuring a step of learners that have taken steps before. copies: of weights, which count as parameters."""
    copies = [*copies, *(average for learner in learners.values() for average in learner.averages)]
    for learner in learners.values():
        learner.state()  # creates the moments
    tracker.start_step(experts, [learner.optimizer for learner in learners.values()], copies)


def _world(profile: Profile, names: tuple[str, ...] = ("high", "low"), dtype: torch.dtype = torch.float32) -> WorldModel:
    """Returns a model without values, of the profile's sizes."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # fake parameters cannot be converted
    try:
        high, *low = (MoWorldTransformer3DModel(**profile.model.transformer()) for _ in names)
    finally:
        torch.set_default_dtype(default)
    return WorldModel(_config(profile), Experts(high, low[0] if low else None, profile.model.boundary))


def _unread(profile: Profile, names: tuple[str, ...] = ("high", "low"), dtype: torch.dtype = torch.float32) -> WorldModel:
    """Returns a model as `WorldModel.load` passes it to `Ranks.place`: with parameters on the meta device."""
    with unset_fake_temporarily():
        high, *low = (expert_structure(profile.model.transformer()) for _ in names)
        for expert in (high, *low):
            cast_parameters(expert, dtype)
    return WorldModel(_config(profile), Experts(high, low[0] if low else None, profile.model.boundary))


def _config(profile: Profile) -> WorldConfig:
    return WorldConfig(model=profile.model, text=profile.text, height=profile.data.height, width=profile.data.width, fps=16.0)


def _batch(profile: Profile, num_latents: int, batch: int) -> dict[str, Tensor]:
    """Returns a batch of `num_latents` latent frames. Its cameras have values: a camera that does not move."""
    frames, model = 4 * (num_latents - 1) + 1, profile.model
    with unset_fake_temporarily():
        cameras = {
            "c2w": torch.eye(4).expand(batch, frames, 4, 4),
            "intrinsics": torch.tensor([0.5, 0.9, 0.5, 0.5]).expand(batch, frames, 4),
            "first_latent": torch.zeros(batch, dtype=torch.long),
        }
    latents = torch.empty(batch, model.latent_channels, num_latents, profile.data.height // 8, profile.data.width // 8)
    return {"latents": latents, "text": torch.empty(batch, profile.text.length, model.text_dim), **cameras}
