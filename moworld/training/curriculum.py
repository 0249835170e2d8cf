"""Curriculum cross-frame training (paper 3.3): stages of growing clip length, each inheriting the weights of the last."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from moworld.model.world import WorldModel
from moworld.settings import Settings
from moworld.training.checkpoint import Checkpoints
from moworld.training.loop import OptimizerSettings
from moworld.training.objective import flow_matching_loss
from moworld.training.parallel import ParallelSettings, Ranks
from moworld.training.trainer import Curves, train


class Stage(Settings):
    """One stage: clip length in video frames (4k + 1), global batch and number of optimizer steps of each expert.

    checkpoint_every: steps between two checkpoints; 0 writes none
    """

    frames: int
    batch: int
    steps: int
    optimizer: OptimizerSettings
    camera_dropout: float = 0.1
    text_dropout: float = 0.1
    checkpoint_every: int = 0
    parallel: ParallelSettings = ParallelSettings()

    @property
    def num_latents(self) -> int:
        return (self.frames - 1) // 4 + 1


def train_stage(
    world: WorldModel,
    batches_from: Callable[[int], Iterator[dict[str, Tensor]]],
    stage: Stage,
    seed: int,
    names: list[str] | None = None,
    ranks: Ranks | None = None,
    checkpoints: Checkpoints | None = None,
) -> Curves:
    """Train both experts of `world`, or those named, in place on one stage (see `train`). Returns a loss curve for each."""
    shift = world.config.model.shift

    def loss_of(name: str, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        loss = flow_matching_loss(world.experts, name, batch, shift, generator, stage.camera_dropout, stage.text_dropout, ranks)
        return loss, {"": loss.item()}

    description = f"curriculum {stage.frames} frames"
    return train(world, batches_from, loss_of, stage.steps, stage.optimizer, seed, description, names, ranks, checkpoints)
