"""The guided start, an option of the profile: one evaluation of the student learns what classifier-free guidance makes of two.

A teacher is asked with the cameras and without them, and what the cameras change is exaggerated; a small model that was trained for a short
time follows its cameras much better so. The student's own copy before distillation is the teacher here, under ground-truth history and at
the levels of the few-step schedule alone: nothing is rolled out, and the bidirectional teacher is not asked.
"""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from moworld.distillation.autoregressive import random_window
from moworld.distillation.consistency import steps_of
from moworld.model.experts import Experts
from moworld.model.flow import add_noise
from moworld.model.rollout import seeded_noise
from moworld.model.window import Window, predict_velocity
from moworld.model.world import WorldModel
from moworld.settings import Settings
from moworld.training.checkpoint import Checkpoints
from moworld.training.loop import OptimizerSettings
from moworld.training.parallel import Ranks
from moworld.training.trainer import Batch, Curves, train


class GuidanceSettings(Settings):
    """`steps` steps of each expert, with the batch and the ranks of the distillation that they come before.

    camera:    weight of what the cameras change; 1 is none
    frames:    length of the clips that chunks are drawn from; 0: as long as the distillation's rollouts
    optimizer: None takes that of the distillation's student
    """

    steps: int
    camera: float = 2.0
    frames: int = 0
    optimizer: OptimizerSettings | None = None


@torch.no_grad()
def guided_velocity(experts: Experts, noisy: Tensor, level: float, window: Window, camera: float) -> Tensor:
    """v(no camera) + w (v(camera) - v(no camera)), (B, C, F, h, w); the anchor, which is given, keeps v(camera)."""
    levels = torch.full((noisy.shape[0],), level).to(noisy)
    absent = torch.ones(noisy.shape[0], dtype=torch.bool, device=noisy.device)
    seen = predict_velocity(experts.at(level), noisy, levels, window)
    unseen = predict_velocity(experts.at(level), noisy, levels, window.without(camera=absent))
    guided = unseen + camera * (seen - unseen)
    guided[:, :, :1] = seen[:, :, :1]
    return guided


def guidance_loss(
    world: WorldModel, teacher: Experts, name: str, batch: Batch, camera: float, generator: torch.Generator, ranks: Ranks | None = None
) -> tuple[Tensor, dict[str, float]]:
    """|v(Z_t, t) - sg(v_guided(Z_t, t))|^2 of one expert on one chunk, at a level of the few-step schedule that the expert serves.

    batch: as for `autoregressive_loss`. Returns the loss and its parts by name
    """
    ranks = ranks or Ranks()
    window, clean = random_window(batch, world.config.model, generator)
    served = steps_of(world, name)
    level = float(world.config.schedule[served[int(torch.randint(len(served), (), generator=generator))]])
    noisy = add_noise(clean, seeded_noise(tuple(clean.shape), ranks.noise(generator), clean), torch.tensor(level))
    levels = torch.full((clean.shape[0],), level).to(clean)
    predicted = predict_velocity(world.experts.at(level), noisy, levels, window)
    loss = torch.nn.functional.mse_loss(predicted, guided_velocity(teacher, noisy, level, window, camera))
    return loss, {"guidance": loss.item()}


def train_guidance(
    world: WorldModel,
    batches_from: Callable[[int], Iterator[Batch]],
    settings: GuidanceSettings,
    optimizer: OptimizerSettings,
    seed: int,
    ranks: Ranks | None = None,
    checkpoints: Checkpoints | None = None,
) -> Curves:
    """Train the experts of `world` that serve a level of its schedule, in place. Returns their loss curves (see `train`)."""
    ranks = ranks or Ranks()
    teacher = copy.deepcopy(world.experts).requires_grad_(False).eval()
    for _, expert in teacher.named_experts():
        ranks.place(expert)

    def loss_of(name: str, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return guidance_loss(world, teacher, name, batch, settings.camera, generator, ranks)

    names = [name for name, _ in world.experts.named_experts() if steps_of(world, name)]
    return train(world, batches_from, loss_of, settings.steps, optimizer, seed, "guided start", names, ranks, checkpoints)
