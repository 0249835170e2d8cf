"""The causal consistency start, an option for comparison: the paper's own way goes from autoregressive flow matching to self-forcing at once.

Causal-Forcing has such a stage before distribution matching. It needs ground truth alone: along one path from recorded latents to noise,
the clean latents that a student predicts at a level of its few-step schedule are drawn to those that its moving average predicts at the
next lower level, and from the lowest level to the recorded ones. No teacher is asked, and nothing is rolled out.
"""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from moworld.distillation.autoregressive import random_window
from moworld.model.experts import Experts
from moworld.model.flow import add_noise, clean_from_velocity
from moworld.model.rollout import seeded_noise
from moworld.model.window import Window, predict_velocity
from moworld.model.world import WorldModel
from moworld.settings import Settings
from moworld.training.checkpoint import Checkpoints
from moworld.training.loop import OptimizerSettings
from moworld.training.parallel import Ranks, local
from moworld.training.trainer import Batch, Curves, train


class ConsistencySettings(Settings):
    """`steps` steps of each expert, with the batch and the ranks of the distillation that they come before.

    frames:         length of the clips that chunks are drawn from; 0: as long as the distillation's rollouts
    optimizer:      None takes that of the distillation's student
    target_average: decay of the moving average of the weights that makes the targets
    """

    steps: int
    frames: int = 0
    optimizer: OptimizerSettings | None = None
    target_average: float = 0.95


class Target:
    """The student's moving average, frozen. It has its own place on the ranks, so it is made before the student is placed."""

    def __init__(self, experts: Experts, decay: float, ranks: Ranks) -> None:
        self.experts, self.decay = copy.deepcopy(experts).requires_grad_(False).eval(), decay
        for _, expert in self.experts.named_experts():
            ranks.place(expert)
        # Kept here: while a forward pass holds gathered weights, a sharded module names those as its parameters.
        self.weights = {name: dict(expert.named_parameters()) for name, expert in self.experts.named_experts()}

    def follow(self, name: str, student: Experts) -> None:
        """Move the average of one expert by one step towards the student's weights."""
        expert, weights = dict(self.experts.named_experts())[name], self.weights[name]
        now = dict(dict(student.named_experts())[name].named_parameters())
        with torch.no_grad():
            for key, weight in weights.items():
                local(weight).lerp_(local(now[key]), 1 - self.decay)
        if hasattr(expert, "reshard"):  # sharded: what the last forward pass gathered is out of date
            expert.reshard()

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps; reading into these tensors takes it up again."""
        return {f"{name}.{key}": weight.detach() for name, weights in self.weights.items() for key, weight in weights.items()}


def steps_of(world: WorldModel, name: str) -> list[int]:
    """Indices of the few-step schedule's levels that belong to an expert."""
    return [index for index, level in enumerate(world.config.schedule.tolist()) if world.experts.name_at(level) == name]


def consistency_loss(
    world: WorldModel, target: Experts, name: str, batch: Batch, generator: torch.Generator, ranks: Ranks | None = None
) -> tuple[Tensor, dict[str, float]]:
    """|x(Z_t, t) - sg(x'(Z_s, s))|^2 of one expert, on the new frames of one chunk under ground-truth history.

    x is the student's clean prediction and x' the target's, Z_t and Z_s lie on the path of the same clean latents and noise (eq. 14), t is a
    level of the schedule that the expert serves, drawn once for all samples, s the level after it; after the last one x' is the ground truth.
    batch: as for `autoregressive_loss`. Returns the loss and its parts by name
    """
    ranks = ranks or Ranks()
    window, clean = random_window(batch, world.config.model, generator)
    served, schedule = steps_of(world, name), world.config.schedule.tolist()
    index = served[int(torch.randint(len(served), (), generator=generator))]
    noise = seeded_noise(tuple(clean.shape), ranks.noise(generator), clean)
    aim = clean
    if index + 1 < len(schedule):
        with torch.no_grad():
            aim = predict_clean(target, clean, noise, schedule[index + 1], window)
    predicted = predict_clean(world.experts, clean, noise, schedule[index], window)
    loss = torch.nn.functional.mse_loss(predicted[:, :, 1:], aim[:, :, 1:])  # the anchor is given
    return loss, {"consistency": loss.item()}


def predict_clean(experts: Experts, clean: Tensor, noise: Tensor, level: float, window: Window) -> Tensor:
    """The clean latents (B, C, F, h, w) that the expert of `level` sees in the mixture of `clean` and `noise` at that level."""
    levels = torch.full((clean.shape[0],), level, dtype=clean.dtype, device=clean.device)
    noisy = add_noise(clean, noise, levels[:, None, None, None, None])
    return clean_from_velocity(noisy, predict_velocity(experts.at(level), noisy, levels, window), level)


def train_consistency(
    world: WorldModel,
    batches_from: Callable[[int], Iterator[Batch]],
    settings: ConsistencySettings,
    optimizer: OptimizerSettings,
    seed: int,
    ranks: Ranks | None = None,
    checkpoints: Checkpoints | None = None,
) -> Curves:
    """Train the experts of `world` that serve a level of its schedule, in place. Returns their loss curves (see `train`)."""
    ranks = ranks or Ranks()
    target = Target(world.experts, settings.target_average, ranks)

    def loss_of(name: str, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        target.follow(name, world.experts)  # after the expert's last step; before the first one the two are equal
        return consistency_loss(world, target.experts, name, batch, generator, ranks)

    names = [name for name, _ in world.experts.named_experts() if steps_of(world, name)]
    return train(
        world, batches_from, loss_of, settings.steps, optimizer, seed, "consistency start", names, ranks, checkpoints, target.state()
    )
