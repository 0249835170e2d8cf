"""The one training loop: experts in turn, sharded over ranks, resumable at any step. What is learned is the loss that is handed in."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from moworld.model.world import WorldModel
from moworld.training.checkpoint import Checkpoints
from moworld.training.loop import Learner, OptimizerSettings
from moworld.training.parallel import Ranks

Batch = dict[str, Tensor]
Loss = Callable[[str, Batch, torch.Generator], tuple[Tensor, dict[str, float]]]
Curves = dict[str, list[list[float]]]


def train(
    world: WorldModel,
    batches_from: Callable[[int], Iterator[Batch]],
    loss_of: Loss,
    steps: int,
    optimizer: OptimizerSettings,
    seed: int,
    description: str,
    names: list[str] | None = None,
    ranks: Ranks | None = None,
    checkpoints: Checkpoints | None = None,
) -> Curves:
    """Train the experts of `world`, or those named, in place: a batch for the one and a batch for the other in turn.

    batches_from: the batches from a number on, this rank's samples of each
    loss_of:      (expert's name, batch, generator) -> the loss and its parts by name
    checkpoints:  where to go on from, and where to write; the result does not depend on where a run was cut
    returns:      curves {"high" or "high <part>": [[step, value], ...]}, means over ranks
    """
    ranks = ranks or Ranks()
    generator, curves = torch.Generator().manual_seed(seed), Curves()
    world.experts.train()
    experts = {name: expert for name, expert in world.experts.named_experts() if name in (names or ("high", "low"))}
    for expert in experts.values():
        ranks.place(expert)
    learners = {name: Learner(expert, optimizer, steps) for name, expert in experts.items()}
    done = _resume(checkpoints, learners, generator, curves) if checkpoints else 0
    batches = batches_from(done * len(learners))
    for step in tqdm(range(done, steps), desc=description, unit="step", initial=done, total=steps, disable=not ranks.is_first):
        for name, learner in learners.items():
            batch = {key: value.to(ranks.device) for key, value in next(batches).items()}
            loss, parts = loss_of(name, batch, generator)
            learner.step(loss)
            for part, value in parts.items():
                mean = float(ranks.mean(torch.tensor(value)))
                curves.setdefault(f"{name} {part}".strip(), []).append([step, round(mean, 5)])
        if checkpoints and checkpoints.is_due(step + 1, steps):
            checkpoints.save(step + 1, _state(learners, generator, curves, step + 1))
    for learner in learners.values():
        learner.use_average()
    if checkpoints:
        checkpoints.wait()
    world.experts.eval()
    return curves


def _state(learners: dict[str, Learner], generator: torch.Generator, curves: Curves, step: int) -> dict[str, Any]:
    told = json.dumps({"step": step, "curves": curves}).encode()
    state = {"experts": {name: learner.state() for name, learner in learners.items()}}
    return {**state, "generator": generator.get_state(), "told": torch.frombuffer(bytearray(told), dtype=torch.uint8)}


def _resume(checkpoints: Checkpoints, learners: dict[str, Learner], generator: torch.Generator, curves: Curves) -> int:
    """Read the newest checkpoint into learners, generator and curves; the number of steps that are done."""
    found = checkpoints.latest()
    if found is None:
        return 0
    step, path = found
    state = _state(learners, generator, curves, step)
    state["told"] = torch.zeros(checkpoints.size_of(path, "told"), dtype=torch.uint8)
    checkpoints.load(path, state)
    for name, learner in learners.items():
        learner.restore(state["experts"][name], step)
    generator.set_state(state["generator"])
    told = json.loads(bytes(state["told"].tolist()))
    curves.update(told["curves"])
    return step
