"""Arithmetic of the distillation: memory and time of a fake and of a student step (paper 4.4), in the terms of `moworld.training.plan`.

Three models of two experts are sharded over the devices: student and fake model with moments, the teacher without.
"""

from moworld.distillation.settings import AutoregressiveSettings, DistillSettings
from moworld.model.costs import forward_flops, parameter_counts
from moworld.model.settings import Device, ModelSettings
from moworld.training.plan import StagePlan, communication, gathered_bytes, memory_of, plan_stage, step_phases


def plan_autoregressive(model: ModelSettings, settings: AutoregressiveSettings, height: int, width: int, text: int, devices: int,
                        device: Device, per_node: int = 8) -> StagePlan:  # fmt: skip
    """Returns the plan of autoregressive flow matching: both experts in turn, on windows of one chunk and its history."""
    return plan_stage(model, settings, height, width, text, devices, device, experts=2, per_node=per_node, window=window_latents(model))


def window_latents(model: ModelSettings) -> int:
    """Returns the latent frames of a chunk's window: history, anchor and new frames."""
    return model.history.num_frames + 1 + model.chunk_latents


def plan_distillation(model: ModelSettings, settings: DistillSettings, height: int, width: int, text: int, devices: int, device: Device,
                      per_node: int = 8) -> dict[str, StagePlan]:  # fmt: skip
    """Returns the plans of the fake and of the student steps by name; days count all steps of a kind.

    The exit step of a rollout is in the middle on average; memory is that of the last one, after which both experts have run.
    """
    parallel, share = settings.parallel, settings.parallel.ulysses * settings.parallel.ring
    parameters, _ = parameter_counts(model)
    samples, per_frame = settings.batch * share / devices, model.tokens_per_frame(height, width)
    whole, window = 1 + settings.chunks * model.chunk_latents, window_latents(model)
    shard = 4 * parameters / devices
    averages = 2 * (bool(settings.student.average) + bool(settings.fake.average)) * shard
    teacher_shard = 0 if settings.offload_teacher else shard / 2 if parallel.dtype == "bfloat16" else shard
    weights, moments = 2 * (3 * shard + teacher_shard) + averages, 2 * 4 * shard  # student, fake, and the monitor's copy of the student
    forward = {frames: forward_flops(model, frames, frames * per_frame, text) for frames in (whole, window)}
    recompute = parallel.checkpoint_activations
    learning = 4 if recompute else 3
    steps = (model.student_steps + 1) / 2  # of a chunk, on average
    teacher = 1 if settings.guidance == 1 else 2
    passes = {  # forward passes on one chunk's window and on the whole rollout; those of the backward pass count as forward ones
        "fake": (settings.chunks * steps, learning, whole, False, 1, 3),
        # a student step that saves memory predicts each chunk again, in a backward pass of its own (`chunkwise`)
        "student": (settings.chunks * (steps - 1 + learning + recompute), teacher + 1, window, True, 1 if recompute else settings.chunks, 4),
    }
    plans = {}
    for kind, (of_window, of_whole, kept, history, windows, experts) in passes.items():
        local = -(-kept * per_frame // share)
        phases = step_phases(model, parallel, local, per_frame, text, samples, devices, history=history, windows=windows)
        memory = memory_of(weights, moments, gathered_bytes(model, parallel, devices, experts), phases, device)
        flops = settings.batch * (of_window * forward[window] + of_whole * forward[whole])
        compute = flops / devices / (device.flops * device.utilization) if device.flops else 0.0
        tokens = samples * per_frame / share * (of_window * window + of_whole * whole) / learning  # of one step with its backward pass
        sharding, exchange = communication(model, parallel, tokens, devices, device, per_node)
        sharding *= (of_window + of_whole) / 3
        step = max(compute, sharding) + exchange
        days = settings.steps * (settings.fake_steps if kind == "fake" else 1) * step / 86400
        plans[kind] = StagePlan(
            4 * (whole - 1) + 1, whole * per_frame, local, devices, parameters, **memory, device_bytes=device.memory_bytes, flops=flops,
            compute_seconds=compute, communication_seconds=sharding + exchange, step_seconds=step, days=days,
            cost=days * 24 * devices * device.price_per_hour,
        )  # fmt: skip
    return plans
