"""The guided start, an option of the profile: one step of the student learns what several guided ones make.

Classifier-free guidance asks a teacher with the cameras and without them, and exaggerates what the cameras change; a small model that was
trained for a short time follows its cameras much better so. And many small steps along the flow end in sharper pictures than few large
ones (progressive distillation, Salimans and Ho). The student's own copy before distillation is the teacher here, under ground-truth history
and from the levels of the few-step schedule alone: no chunk is sampled whole, and the bidirectional teacher is not asked.
"""

import copy
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor

from moworld.distillation.autoregressive import random_window
from moworld.distillation.consistency import steps_of
from moworld.errors import InputError
from moworld.model.experts import Experts
from moworld.model.flow import add_noise, clean_from_velocity
from moworld.model.rollout import seeded_noise
from moworld.model.window import PreparedWindow, Window, predict_velocity
from moworld.model.world import WorldModel
from moworld.settings import Settings
from moworld.training.checkpoint import Checkpoints
from moworld.training.loop import OptimizerSettings
from moworld.training.parallel import Ranks
from moworld.training.trainer import Batch, Curves, train


class GuidanceSettings(Settings):
    """`steps` steps of each expert, on the ranks of the distillation that they come before.

    camera:    weight of what the cameras change; 1 is none
    rescale:   share of the spread that the weight adds to a clean estimate which is taken back (Lin et al. 2024, phi): a higher weight then
               turns and walks better without ever richer contrast
    substeps:  guided Euler steps of the teacher that one step of the student learns; more than one wants `sampler: euler`
    batch:     over all ranks; 0: the distillation's
    frames:    length of the clips that chunks are drawn from; 0: as long as the distillation's rollouts
    optimizer: None takes that of the distillation's student
    """

    steps: int
    camera: float = 1.5
    rescale: float = Field(default=0.0, ge=0, le=1)
    substeps: int = Field(default=1, ge=1)
    batch: int = 0
    frames: int = 0
    optimizer: OptimizerSettings | None = None


@torch.no_grad()
def guided_step(experts: Experts, noisy: Tensor, levels: list[float], window: Window, camera: float, rescale: float = 0.0) -> Tensor:
    """Mean velocity (B, C, F, h, w) from the first of the levels, which `noisy` is at, to the last one, by an Euler step between each two.

    Each step goes along v(no camera) + camera * (v(camera) - v(no camera)); the anchor, which is given, along v(camera).
    camera, rescale: see `GuidanceSettings`
    """
    absent = torch.ones(noisy.shape[0], dtype=torch.bool, device=noisy.device)
    windows, prepared, start = (window, window.without(camera=absent)), dict[int, list[PreparedWindow]](), noisy
    for level, following in pairwise(levels):
        expert, at = experts.at(level), torch.full((noisy.shape[0],), level).to(noisy)
        if id(expert) not in prepared:
            prepared[id(expert)] = [PreparedWindow(expert, each) for each in windows]
        seen, unseen = (each.velocity(noisy, at) for each in prepared[id(expert)])
        made = unseen + camera * (seen - unseen)
        if rescale:
            plain, clean = (clean_from_velocity(noisy, v, level) for v in (seen, made))
            ratio = spread(plain) / spread(clean)
            made = (noisy - (rescale * ratio + 1 - rescale) * clean) / level
        guided = torch.cat([seen[:, :, :1], made[:, :, 1:]], dim=2)
        noisy = noisy + (following - level) * guided
    return (noisy - start) / (levels[-1] - levels[0])


def spread(latents: Tensor) -> Tensor:
    """Standard deviation of what follows the anchor, (B, C, F, h, w) -> (B, 1, 1, 1, 1)."""
    return latents[:, :, 1:].std((1, 2, 3, 4), keepdim=True)


def guidance_loss(
    world: WorldModel,
    teacher: Experts,
    name: str,
    batch: Batch,
    settings: GuidanceSettings,
    generator: torch.Generator,
    ranks: Ranks | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """|v(Z_t, t) - sg(v_guided)|^2 of one expert on one chunk: t is a level of the few-step schedule that the expert serves, and v_guided the
    mean velocity of the teacher's guided steps from there to the level after it, or to 0.

    batch: as for `autoregressive_loss`. Returns the loss and its parts by name
    """
    ranks, schedule = ranks or Ranks(), [*world.config.schedule.tolist(), 0.0]
    window, clean = random_window(batch, world.config.model, generator)
    served = steps_of(world, name)
    step = served[int(torch.randint(len(served), (), generator=generator))]
    level, following = schedule[step : step + 2]
    noisy = add_noise(clean, seeded_noise(tuple(clean.shape), ranks.noise(generator), clean), torch.tensor(level))
    levels = torch.full((clean.shape[0],), level).to(clean)
    small = torch.linspace(level, following, settings.substeps + 1, dtype=torch.float64).tolist()
    aim = guided_step(teacher, noisy, small, window, settings.camera, settings.rescale)
    loss = torch.nn.functional.mse_loss(predict_velocity(world.experts.at(level), noisy, levels, window), aim)
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
    """Train the experts of `world` that serve a level of its schedule, in place. Returns their loss curves (see `train`).

    Raises InputError where one step is to learn several and the sampler does not go on from where a step ends.
    """
    if settings.substeps > 1 and world.config.model.sampler != "euler":
        found = f"{settings.substeps} substeps for the sampler {world.config.model.sampler}"
        raise InputError("distill", "guidance_start.substeps", found, "the sampler euler", "set model.sampler=euler, or one substep")
    ranks = ranks or Ranks()
    teacher = copy.deepcopy(world.experts).requires_grad_(False).eval()
    for _, expert in teacher.named_experts():
        ranks.place(expert)

    def loss_of(name: str, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return guidance_loss(world, teacher, name, batch, settings, generator, ranks)

    names = [name for name, _ in world.experts.named_experts() if steps_of(world, name)]
    return train(world, batches_from, loss_of, settings.steps, optimizer, seed, "guided start", names, ranks, checkpoints)
