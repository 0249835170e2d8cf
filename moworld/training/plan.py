"""Arithmetic of a training stage: floating-point operations, bytes on each device, bytes between devices, time and cost.

The formulas follow the code term by term. Tests compare the operations with PyTorch's counter, the bytes kept for the backward pass
with those that autograd keeps, and the peak with the measured peak of small runs.
"""

from dataclasses import asdict, dataclass
from typing import Any

from moworld.model.camera_adapter import factors_are_smaller
from moworld.model.costs import forward_flops, parameter_counts
from moworld.model.settings import Device, ModelSettings
from moworld.training.settings import ParallelSettings, Stage


@dataclass(frozen=True)
class StagePlan:
    """Needs of one stage of one expert (or of `experts` experts in one process). Bytes and seconds are per device and per step."""

    frames: int
    tokens: int
    tokens_per_device: int
    devices: int
    parameters: int
    state_bytes: float  # weights, moments, averages
    gathered_bytes: float
    step_bytes: float  # activations and gradients in the largest phase
    optimizer_bytes: float  # those of state_bytes that are moments
    gradient_bytes: float  # those of step_bytes that are reduced already
    peak_phase: str
    total_bytes: float
    device_bytes: float
    flops: float
    compute_seconds: float
    communication_seconds: float
    step_seconds: float
    days: float
    cost: float

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.device_bytes

    def peak(self) -> dict[str, float]:
        """Returns the bytes without the runtime's by the kinds of `moworld.training.dry_run.Peak`, and their total."""
        kinds = {"parameters": self.state_bytes - self.optimizer_bytes, "gradients": self.gradient_bytes}
        kinds |= {"optimizer": self.optimizer_bytes, "gathered": self.gathered_bytes}
        kinds["activations"] = self.step_bytes - self.gradient_bytes
        return {**kinds, "total": sum(kinds.values())}

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "fits": self.fits}


def plan_stage(model: ModelSettings, stage: Stage, height: int, width: int, text: int, devices: int, device: Device, *,
               experts: int = 1, per_node: int = 8, window: int = 0) -> StagePlan:  # fmt: skip
    """Returns the plan of a stage on `devices` devices.

    height, width: of the video in pixels; text: tokens of the prompt; experts: number that one process trains in turn;
    per_node:      devices that share the fast link
    window:        latent frames of a step's window, history included; 0: all of the stage's, without history
    """
    frames = window or stage.num_latents
    tokens = frames * model.tokens_per_frame(height, width)
    share = stage.parallel.ulysses * stage.parallel.ring
    local = -(-tokens // share)
    samples = stage.batch * share / devices  # this device holds its share of the tokens of so many samples
    parameters, _ = parameter_counts(model)
    state = experts * 4 * parameters / devices
    copies = 1 + bool(stage.optimizer.average)  # float32 weights and their moving average, beside two moments
    phases = step_phases(model, stage.parallel, local, tokens // frames, text, samples, devices, history=window > 0)
    passes = 4 if stage.parallel.checkpoint_activations else 3
    flops = passes * forward_flops(model, frames, tokens, text) * stage.batch
    compute = flops / devices / (device.flops * device.utilization) if device.flops else 0.0
    sharding, exchange = communication(model, stage.parallel, local * samples, devices, device, per_node)
    step = max(compute, sharding) + exchange
    days = stage.steps * step * experts / 86400
    memory = memory_of(copies * state, 2 * state, gathered_bytes(model, stage.parallel, devices), phases, device)
    return StagePlan(
        stage.frames, tokens, local, devices, parameters, **memory, device_bytes=device.memory_bytes, flops=flops,
        compute_seconds=compute, communication_seconds=sharding + exchange, step_seconds=step, days=days,
        cost=days * 24 * devices * device.price_per_hour,
    )  # fmt: skip


def memory_of(weights: float, moments: float, gathered: float, phases: dict[str, tuple[float, float]], device: Device) -> dict[str, Any]:
    """Returns the memory fields of a `StagePlan` for the largest of `phases` (see `step_phases`)."""
    phase = max(phases, key=lambda name: sum(phases[name]))
    step, state = sum(phases[phase]), weights + moments
    return {
        "state_bytes": state, "gathered_bytes": gathered, "step_bytes": step, "optimizer_bytes": moments, "gradient_bytes": phases[phase][1],
        "peak_phase": phase, "total_bytes": state + gathered + step + device.runtime_bytes,
    }  # fmt: skip


def gathered_bytes(model: ModelSettings, parallel: ParallelSettings, devices: int, experts: int = 1) -> float:
    """Returns the bytes of weights and gradients that are complete at once.

    These are the weights of two blocks, the gradients of one block for their sum in float32, and the weights outside the blocks of the
    `experts` that have run since the last step: FSDP keeps them until the backward pass.
    """
    parameters, block = parameter_counts(model)
    outside = parameters - model.num_layers * block
    return 0.0 if devices == 1 else float(_bytes(parallel) * (experts * outside + 2 * block) + 4 * block)


def kept_bytes(model: ModelSettings, tokens: int, text: int, parallel: ParallelSettings, history: bool = False) -> tuple[float, float]:
    """Returns the bytes that the forward pass keeps for the backward pass: outside the blocks, and in one block.

    tokens: of one sample on this device; history: whether each frame has its own noise level, as a window with history needs
    Norms and residuals are float32 in any dtype. A block keeps 12 inputs of products and norms in float32, 10 in the dtype, and two
    activations of the MLP.
    """
    width, low = _width(model), _bytes(parallel)
    block = tokens * (width * (12 * 4 + 10 * low) + 2 * low * model.ffn_dim + 8 * model.num_attention_heads) + 18 * text * width
    patch = model.patch_size[1] * model.patch_size[2] * (2 * model.latent_channels + 4)
    rays = 0 if factors_are_smaller(width, model.rays_per_token) else model.rays_per_token
    outside = tokens * (rays * low + patch * low + width * (2 * 4 + 4 * low) + 4 * model.attention_head_dim)
    if history:  # modulations of each token instead of each sample
        outside, block = outside + tokens * width * low, block + 32 * tokens * width
    return float(outside), float(block)


def _width(model: ModelSettings) -> int:
    return model.num_attention_heads * model.attention_head_dim


def _bytes(parallel: ParallelSettings) -> int:
    return 2 if parallel.dtype == "bfloat16" else 4


def step_phases(model: ModelSettings, parallel: ParallelSettings, local: int, per_frame: int, text: int, samples: float, devices: int,
                *, history: bool = False, windows: int = 1) -> dict[str, tuple[float, float]]:  # fmt: skip
    """Returns the bytes of activations, and of reduced gradients, at the moments of a step at which they can be largest.

    local:   tokens of a window on this device; per_frame: of a latent frame; samples: windows of this size per step, fractions allowed
    history: see `kept_bytes`; windows: forward passes whose activations are kept for one backward pass
    """
    low, width, recompute = _bytes(parallel), _width(model), parallel.checkpoint_activations
    parameters, block = parameter_counts(model)
    outside, inside = (samples * kept for kept in kept_bytes(model, local, text, parallel, history))
    rays = 0.0 if factors_are_smaller(width, model.rays_per_token) else model.rays_per_token * local * samples
    blocks = model.num_layers * (low * local * samples * width if recompute else inside)  # recomputed blocks keep their input only
    working = samples * local * (low * 2 * model.ffn_dim + 4 * 4 * width)  # gradients of the MLP's activations and of the residual
    if history:
        outside += recompute * samples * local * 6 * low * width  # the blocks' modulations, which a recomputed block takes as input
        working += samples * local * width * 6 * 4  # their gradients
    if local % per_frame:  # embeddings and cameras are computed for whole frames, of which the device then selects its tokens
        whole = (-(-local // per_frame) + 1) * per_frame / local
        outside, rays = outside * whole, rays * whole
    earlier = (windows - 1) * (outside + blocks)
    done, first = int(devices > 1), 4 * block / devices  # sharded, the second block takes more: the buffer for the first one's gradients
    others, all_gradients = 4 * (model.num_layers - 1) * block / devices, 4 * parameters / devices
    return {
        "camera adapter": (earlier + rays * (4 + low + low + (low if low != 4 else 0)), 0.0),  # rays, by frame, by pixel, in the dtype
        "end of forward": (earlier + outside + 4 * rays + blocks, 0.0),
        "start of backward": (earlier + outside + blocks * (1 - done / model.num_layers) + recompute * inside + working, done * first),
        "end of backward": (outside + inside + working, others),
        "embeddings": (outside, all_gradients),
    }


def communication(
    model: ModelSettings, parallel: ParallelSettings, tokens: float, devices: int, device: Device, per_node: int
) -> tuple[float, float]:
    """Returns the seconds per step of gathering and reducing shards, which overlaps with computing, and of exchanging tokens, which does not."""
    low, width, ulysses, ring = _bytes(parallel), _width(model), parallel.ulysses, parallel.ring

    def seconds(size: float, ranks: int) -> float:
        rate = device.link_bytes_per_second if ranks <= per_node else device.network_bytes_per_second
        return size / rate if rate and ranks > 1 else 0.0

    parameters, _ = parameter_counts(model)
    sharding = seconds((2 * low + 4) * parameters * (devices - 1) / devices, devices)  # gathered twice, gradients reduced in float32
    passes = 3 if parallel.checkpoint_activations else 2
    heads = passes * 4 * low * tokens * width * (ulysses - 1) / ulysses
    blocks = 2 * tokens * width * (ring - 1) * ((passes - 1) * low + low + 4)  # keys and values; their gradients in float32
    return sharding, model.num_layers * (seconds(heads, ulysses) + seconds(blocks, ulysses * ring if ring > 1 else 1))
