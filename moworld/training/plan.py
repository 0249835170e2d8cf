"""What a stage of training needs, by arithmetic: floating-point operations, bytes on each device, bytes between devices, time, cost.

The formulas follow the code term by term. Tests hold the operations against PyTorch's own counter, the bytes kept for the backward pass
against what autograd keeps, and the peak against the measured peak of small runs.
"""

from dataclasses import asdict, dataclass
from typing import Any

from moworld.model.camera_adapter import RAYS_PER_TOKEN, factors_are_smaller
from moworld.model.costs import Device, forward_flops, parameter_counts
from moworld.model.world import ModelSettings
from moworld.training.curriculum import Stage
from moworld.training.parallel import ParallelSettings


@dataclass(frozen=True)
class StagePlan:
    """One stage of one expert (or of `experts` of them in one process) on `devices`. Bytes and seconds are per device and per step."""

    frames: int
    tokens: int
    tokens_per_device: int
    devices: int
    parameters: int
    state_bytes: float  # weights, moments, averages
    gathered_bytes: float
    step_bytes: float  # activations, and gradients where they are there
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

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "fits": self.fits}


def kept_bytes(model: ModelSettings, tokens: int, text: int, parallel: ParallelSettings) -> tuple[float, float]:
    """Bytes that the forward pass keeps for the backward pass on a device with `tokens` of a sample: outside the blocks, and in one block.

    Norms and residuals are computed in float32 whatever the dtype; of a block's inputs to products and norms, 12 stay in float32, 10 in the
    dtype, and two MLP activations.
    """
    width, low = model.num_attention_heads * model.attention_head_dim, 2 if parallel.dtype == "bfloat16" else 4
    block = tokens * (width * (12 * 4 + 10 * low) + 2 * low * model.ffn_dim + 8 * model.num_attention_heads) + 18 * text * width
    patch = model.patch_size[1] * model.patch_size[2] * (2 * model.latent_channels + 4)
    rays = 0 if factors_are_smaller(width) else RAYS_PER_TOKEN
    outside = tokens * (rays * low + patch * low + width * (2 * 4 + 4 * low) + 4 * model.attention_head_dim)
    return float(outside), float(block)


def plan_stage(model: ModelSettings, stage: Stage, height: int, width: int, text: int, devices: int, device: Device, *,
               experts: int = 1, per_node: int = 8) -> StagePlan:  # fmt: skip
    """The plan of a stage on `devices`, of `experts` experts that one process trains in turn.

    height, width: of the video in pixels; text: tokens of the prompt; per_node: devices that share the fast link
    """
    frames = stage.num_latents
    per_frame = model.tokens_per_frame(height, width)
    share = stage.parallel.ulysses * stage.parallel.ring
    tokens = frames * per_frame
    local = -(-tokens // share)
    samples = stage.batch * share / devices  # of which this device holds its tokens
    parameters, block_parameters = parameter_counts(model)
    memory = _memory(model, stage, local, text, samples, devices, experts, parameters, block_parameters)
    passes = 4 if stage.parallel.checkpoint_activations else 3
    flops = passes * forward_flops(model, frames, tokens, text) * stage.batch
    compute = flops / devices / (device.flops * device.utilization) if device.flops else 0.0
    sharding, exchange = _communication(model, stage, local * samples, devices, device, per_node, parameters)
    step = max(compute, sharding) + exchange
    days = stage.steps * step * experts / 86400
    total = memory["state_bytes"] + memory["gathered_bytes"] + memory["step_bytes"] + device.runtime_bytes
    return StagePlan(
        stage.frames, tokens, local, devices, parameters, **memory, total_bytes=total, device_bytes=device.memory_bytes, flops=flops,
        compute_seconds=compute, communication_seconds=sharding + exchange, step_seconds=step, days=days,
        cost=days * 24 * devices * device.price_per_hour,
    )  # fmt: skip


def _memory(
    model: ModelSettings,
    stage: Stage,
    local: int,
    text: int,
    samples: float,
    devices: int,
    experts: int,
    parameters: int,
    block: int,
) -> dict[str, Any]:
    """Bytes on one device at the peak: sharded state, gathered weights, and the largest of what the phases of a step hold."""
    low = 2 if stage.parallel.dtype == "bfloat16" else 4
    width, again = model.num_attention_heads * model.attention_head_dim, stage.parallel.checkpoint_activations
    copies = 3 + bool(stage.optimizer.average)  # float32 weights and two moments, and their moving average
    gathered = (
        0.0 if devices == 1 else low * (parameters - model.num_layers * block + 2 * block)
    )  # what is outside the blocks, and two of them
    outside, inside = (samples * kept for kept in kept_bytes(model, local, text, stage.parallel))
    rays = 0.0 if factors_are_smaller(width) else RAYS_PER_TOKEN * local * samples
    blocks = model.num_layers * (low * local * samples * width if again else inside)  # their inputs alone where they are computed again
    working = samples * local * (low * 2 * model.ffn_dim + 4 * 4 * width)  # gradients of the MLP's activations and of the residual
    recomputing = 9 * 4 * width * local * samples  # measured beside what is kept; where it comes from was not found
    phases = {
        "camera adapter": rays * (4 + low + low + (low if low != 4 else 0)),  # the rays, regrouped by frame, by pixel, and in the dtype
        "end of forward": outside + 4 * rays + blocks,
        "start of backward": outside + blocks + again * (inside + recomputing) + working,
        "end of backward": outside + inside + 4 * parameters / devices,  # with nearly all gradients
    }
    phase = max(phases, key=phases.__getitem__)
    state = experts * copies * 4 * parameters / devices
    return {"state_bytes": state, "gathered_bytes": gathered, "step_bytes": phases[phase], "peak_phase": phase}


def _communication(
    model: ModelSettings, stage: Stage, tokens: float, devices: int, device: Device, per_node: int, parameters: int
) -> tuple[float, float]:
    """Seconds a step: of gathering and reducing shards, which overlaps with computing, and of exchanging tokens, which does not."""
    low, width = 2 if stage.parallel.dtype == "bfloat16" else 4, model.num_attention_heads * model.attention_head_dim
    ulysses, ring = stage.parallel.ulysses, stage.parallel.ring

    def seconds(size: float, ranks: int) -> float:
        rate = device.link_bytes_per_second if ranks <= per_node else device.network_bytes_per_second
        return size / rate if rate and ranks > 1 else 0.0

    sharding = seconds((2 * low + 4) * parameters * (devices - 1) / devices, devices)  # gathered twice, gradients reduced in float32
    passes = 3 if stage.parallel.checkpoint_activations else 2
    heads = passes * 4 * low * tokens * width * (ulysses - 1) / ulysses
    blocks = 2 * tokens * width * (ring - 1) * ((passes - 1) * low + low + 4)  # keys and values; backward their gradients in float32, too
    return sharding, model.num_layers * (seconds(heads, ulysses) + seconds(blocks, ulysses * ring if ring > 1 else 1))
