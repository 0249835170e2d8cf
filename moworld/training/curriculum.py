"""Curriculum cross-frame training (paper 3.3): stages of growing clip length, each initialised with the weights of the last."""

import torch
from torch import Tensor

from moworld.model.world import WorldModel
from moworld.training.objective import flow_matching_loss
from moworld.training.settings import Stage
from moworld.training.trainer import Batch, Curves, Run, train


def train_stage(world: WorldModel, stage: Stage, run: Run, names: list[str] | None = None) -> Curves:
    """Trains both experts of `world`, or those in `names`, in place on one stage; returns a loss curve for each (see `train`)."""
    shift = world.config.model.shift

    def loss_of(name: str, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        loss = flow_matching_loss(world.experts, name, batch, shift, generator, stage.camera_dropout, stage.text_dropout, run.ranks)
        return loss, {"": loss.item()}

    return train(world, run, loss_of, stage.steps, stage.optimizer, f"curriculum {stage.frames} frames", names)
