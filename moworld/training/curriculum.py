"""Curriculum cross-frame training (paper 3.3): stages of growing clip length, each inheriting the weights of the last."""

from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from moworld.model.world import WorldModel
from moworld.settings import Settings
from moworld.training.loop import Learner, OptimizerSettings
from moworld.training.objective import flow_matching_loss


class Stage(Settings):
    """One stage: clip length in video frames (4k + 1), batch and number of optimizer steps of each expert."""

    frames: int
    batch: int
    steps: int
    optimizer: OptimizerSettings
    camera_dropout: float = 0.1
    text_dropout: float = 0.1

    @property
    def num_latents(self) -> int:
        return (self.frames - 1) // 4 + 1


def train_stage(
    world: WorldModel, batches: Iterator[dict[str, Tensor]], stage: Stage, seed: int, experts: list[str] | None = None
) -> dict[str, list[list[float]]]:
    """Train both experts of `world`, or those named, in place on one stage, a batch for the one and a batch for the other in turn.

    returns: loss curves {"high": [[step, loss], ...], "low": ...}
    """
    generator = torch.Generator().manual_seed(seed)
    world.experts.train()
    learners = {
        name: Learner(expert, stage.optimizer, stage.steps)
        for name, expert in world.experts.named_experts()
        if name in (experts or ("high", "low"))
    }
    curves: dict[str, list[list[float]]] = {name: [] for name in learners}
    for step in tqdm(range(stage.steps), desc=f"curriculum {stage.frames} frames", unit="step"):
        for name, learner in learners.items():
            loss = flow_matching_loss(
                world.experts, name, next(batches), world.config.model.shift, generator, stage.camera_dropout, stage.text_dropout
            )
            learner.step(loss)
            curves[name].append([step, round(loss.item(), 5)])
    for learner in learners.values():
        learner.use_average()
    world.experts.eval()
    return curves
