"""Two optional starts of the student before self-forcing; the paper goes from autoregressive flow matching to self-forcing directly.

Guided start: one student step learns the result of several guided teacher steps. Classifier-free guidance evaluates a teacher with and
without cameras and amplifies the difference, so a briefly trained model follows its cameras better. Many small steps along the flow give
sharper images than few large ones (progressive distillation, Salimans and Ho). The teacher here is the student before distillation, under
ground-truth history and at the levels of the few-step schedule only. No chunk is sampled completely, and the bidirectional teacher is not
evaluated.

Consistency start: Causal-Forcing trains such a stage before distribution matching, on ground truth only. On one path from recorded latents
to noise, the student's clean prediction at a level of its schedule learns that of its moving average at the next lower level; at the lowest
level it learns the recorded latents. It needs neither teacher nor rollout.
"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from moworld.distillation.autoregressive import random_window
from moworld.distillation.settings import ConsistencySettings, GuidanceSettings
from moworld.errors import InputError
from moworld.model.experts import Experts
from moworld.model.flow import clean_from_velocity
from moworld.model.rollout import seeded_noise
from moworld.model.window import PreparedWindow, Window, predict_velocity
from moworld.model.world import WorldModel
from moworld.training.objective import noised
from moworld.training.parallel import ONE_RANK, Ranks, local
from moworld.training.settings import OptimizerSettings
from moworld.training.trainer import Batch, Curves, Run, train


@torch.no_grad()
def guided_step(experts: Experts, noisy: Tensor, levels: list[float], window: Window, camera: float, rescale: float = 0.0) -> Tensor:
    """Returns the mean velocity (B, C, F, h, w) of guided Euler steps through the levels; `noisy` is at the first of them.

    Each step follows v(no camera) + camera * (v(camera) - v(no camera)); the anchor, which is given, follows v(camera).
    camera, rescale: see `GuidanceSettings`
    """
    absent = torch.ones(noisy.shape[0], dtype=torch.bool, device=noisy.device)
    windows, prepared, start = (window, window.without(camera=absent)), dict[int, list[PreparedWindow]](), noisy
    for level, following in pairwise(levels):
        expert, at = experts.at(level), torch.full((noisy.shape[0],), level).to(noisy)
        if id(expert) not in prepared:
            prepared[id(expert)] = [PreparedWindow(expert, each) for each in windows]
        conditional, unconditional = (each.velocity(noisy, at) for each in prepared[id(expert)])
        guided = unconditional + camera * (conditional - unconditional)
        if rescale:
            plain, clean = (clean_from_velocity(noisy, v, level) for v in (conditional, guided))
            ratio = spread(plain) / spread(clean)
            guided = (noisy - (rescale * ratio + 1 - rescale) * clean) / level
        noisy = noisy + (following - level) * torch.cat([conditional[:, :, :1], guided[:, :, 1:]], dim=2)
    return (noisy - start) / (levels[-1] - levels[0])


def spread(latents: Tensor) -> Tensor:
    """Returns the standard deviation of the frames after the anchor, (B, C, F, h, w) -> (B, 1, 1, 1, 1)."""
    return latents[:, :, 1:].std((1, 2, 3, 4), keepdim=True)


def guidance_loss(
    world: WorldModel,
    teacher: Experts,
    name: str,
    batch: Batch,
    settings: GuidanceSettings,
    generator: torch.Generator,
    ranks: Ranks = ONE_RANK,
) -> tuple[Tensor, dict[str, float]]:
    """Returns |v(Z_t, t) - sg(v_guided)|^2 of one expert on a random chunk, and the loss by name.

    The level t is a random level of the schedule that the expert denoises; v_guided is the mean velocity of the teacher's guided steps from
    t to the next level of the schedule, or to 0.
    batch: as for `autoregressive_loss`
    """
    window, clean = random_window(batch, world.config.model, generator)
    index = draw_step(world, name, generator)
    level, following = [*world.config.schedule.tolist(), 0.0][index : index + 2]
    noisy, levels = noised(clean, seeded_noise(tuple(clean.shape), ranks.noise(generator), clean), level)
    substeps = torch.linspace(level, following, settings.substeps + 1, dtype=torch.float64).tolist()
    aim = guided_step(teacher, noisy, substeps, window, settings.camera, settings.rescale)
    loss = functional.mse_loss(predict_velocity(world.experts.at(level), noisy, levels, window), aim)
    return loss, {"guidance": loss.item()}


def train_guidance(world: WorldModel, settings: GuidanceSettings, optimizer: OptimizerSettings, run: Run) -> Curves:
    """Trains the experts of `world` that denoise a level of its schedule, in place; returns their loss curves (see `train`).

    Raises InputError if `substeps` exceeds 1 and the sampler does not continue from the end of a step.
    """
    if settings.substeps > 1 and world.config.model.sampler != "euler":
        found = f"{settings.substeps} substeps for the sampler {world.config.model.sampler}"
        raise InputError("distill", "guidance_start.substeps", found, "the sampler euler", "set model.sampler=euler, or one substep")
    teacher = frozen_copy(world.experts, run.ranks)

    def loss_of(name: str, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return guidance_loss(world, teacher, name, batch, settings, generator, run.ranks)

    return train(world, run, loss_of, settings.steps, optimizer, "guided start", experts_with_steps(world))


class Target:
    """The student's moving average, frozen."""

    def __init__(self, experts: Experts, decay: float, ranks: Ranks) -> None:
        self.experts, self.decay = frozen_copy(experts, ranks), decay
        # Stored here, because named_parameters() of a sharded module returns gathered weights during a forward pass.
        self.weights = {name: dict(expert.named_parameters()) for name, expert in self.experts.named_experts()}

    def follow(self, name: str, student: Experts) -> None:
        """Moves the average of one expert by one step towards the student's weights."""
        expert, current = dict(self.experts.named_experts())[name], dict(dict(student.named_experts())[name].named_parameters())
        with torch.no_grad():
            for key, weight in self.weights[name].items():
                local(weight).lerp_(local(current[key]), 1 - self.decay)
        if hasattr(expert, "reshard"):  # sharded: the weights that the last forward pass gathered are outdated
            expert.reshard()  # type: ignore[operator]

    def state(self) -> dict[str, Tensor]:
        """Returns the tensors of a checkpoint; loading into them restores the average."""
        return {f"{name}.{key}": weight.detach() for name, weights in self.weights.items() for key, weight in weights.items()}


def consistency_loss(
    world: WorldModel, target: Experts, name: str, batch: Batch, generator: torch.Generator, ranks: Ranks = ONE_RANK
) -> tuple[Tensor, dict[str, float]]:
    """Returns |x(Z_t, t) - sg(x'(Z_s, s))|^2 of one expert on the new frames of a random chunk, and the loss by name.

    x is the student's clean prediction and x' the target's. Z_t and Z_s share clean latents and noise (eq. 14). The level t is a random
    level of the schedule that the expert denoises, s is the level after it; after the last level x' is the ground truth.
    batch: as for `autoregressive_loss`
    """
    window, clean = random_window(batch, world.config.model, generator)
    index, schedule = draw_step(world, name, generator), world.config.schedule.tolist()
    noise = seeded_noise(tuple(clean.shape), ranks.noise(generator), clean)
    aim = clean
    if index + 1 < len(schedule):
        with torch.no_grad():
            aim = predict_clean(target, clean, noise, schedule[index + 1], window)
    predicted = predict_clean(world.experts, clean, noise, schedule[index], window)
    loss = functional.mse_loss(predicted[:, :, 1:], aim[:, :, 1:])  # the anchor is given
    return loss, {"consistency": loss.item()}


def predict_clean(experts: Experts, clean: Tensor, noise: Tensor, level: float, window: Window) -> Tensor:
    """Returns the clean latents (B, C, F, h, w) that the expert of `level` predicts from the mixture of `clean` and `noise`."""
    noisy, levels = noised(clean, noise, level)
    return clean_from_velocity(noisy, predict_velocity(experts.at(level), noisy, levels, window), level)


def train_consistency(world: WorldModel, settings: ConsistencySettings, optimizer: OptimizerSettings, run: Run) -> Curves:
    """Trains the experts of `world` that denoise a level of its schedule, in place; returns their loss curves (see `train`)."""
    target = Target(world.experts, settings.target_average, run.ranks)

    def loss_of(name: str, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        target.follow(name, world.experts)  # after the expert's last step; before the first one the two are equal
        return consistency_loss(world, target.experts, name, batch, generator, run.ranks)

    return train(world, run, loss_of, settings.steps, optimizer, "consistency start", experts_with_steps(world), target.state())


def steps_of(world: WorldModel, name: str) -> list[int]:
    """Returns the indices of the schedule's levels that the expert `name` denoises."""
    return [index for index, level in enumerate(world.config.schedule.tolist()) if world.experts.name_at(level) == name]


def experts_with_steps(world: WorldModel) -> list[str]:
    """Returns the names of the experts that denoise at least one level of the schedule."""
    return [name for name, _ in world.experts.named_experts() if steps_of(world, name)]


def draw_step(world: WorldModel, name: str, generator: torch.Generator) -> int:
    """Returns a uniformly random index of `steps_of`, one for all samples."""
    steps = steps_of(world, name)
    return steps[int(torch.randint(len(steps), (), generator=generator))]


def frozen_copy(experts: Experts, ranks: Ranks) -> Experts:
    """Returns a copy without gradients, placed on the ranks as `experts` are then, too."""
    return ranks.copy(experts).requires_grad_(False).eval()
