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
    kept: dict[str, Tensor] | None = None,
) -> Curves:
    """Train the experts of `world`, or those named, in place: a batch for the one and a batch for the other in turn.

    batches_from: the batches from a number on, this rank's samples of each
    loss_of:      (expert's name, batch, generator) -> the loss and its parts by name
    checkpoints:  where to go on from, and where to write; the result does not depend on where a run was cut
    kept:         further tensors that `loss_of` changes in place, so that checkpoints hold them
    returns:      curves {"high" or "high <part>": [[step, value], ...]}, means over ranks
    """
    ranks = ranks or Ranks()
    generator = torch.Generator().manual_seed(seed)
    world.experts.train()
    experts = {name: expert for name, expert in world.experts.named_experts() if name in (names or ("high", "low"))}
    for expert in experts.values():
        ranks.place(expert)
    learners = {name: Learner(expert, optimizer, steps) for name, expert in experts.items()}
    told = resume(checkpoints, learners, generator, kept)
    done, curves = told.get("step", 0), Curves(told.get("curves", {}))
    batches = batches_from(done * len(learners))
    for step in tqdm(range(done, steps), desc=description, unit="step", initial=done, total=steps, disable=not ranks.is_first):
        for name, learner in learners.items():
            batch = {key: value.to(ranks.device) for key, value in next(batches).items()}
            loss, parts = loss_of(name, batch, generator)
            learner.step(loss)
            for part, value in parts.items():
                mean = float(ranks.mean(torch.tensor(value, device=ranks.device)))
                curves.setdefault(f"{name} {part}".strip(), []).append([step, round(mean, 5)])
        if checkpoints and checkpoints.is_due(step + 1, steps):
            checkpoints.save(step + 1, training_state(learners, generator, {"step": step + 1, "curves": curves}, kept))
    for learner in learners.values():
        learner.use_average()
    if checkpoints:
        checkpoints.wait()
    world.experts.eval()
    return curves


def training_state(
    learners: dict[str, Learner], generator: torch.Generator, told: dict[str, Any], kept: dict[str, Tensor] | None = None
) -> dict[str, Any]:
    """What a checkpoint holds: learners by name, the generator, `told` of plain values, and further tensors."""
    text = json.dumps({**told, "steps": {name: learner.steps for name, learner in learners.items()}}).encode()
    state = {"experts": {name: learner.state() for name, learner in learners.items()}, "kept": kept or {}}
    return {**state, "generator": generator.get_state(), "told": torch.frombuffer(bytearray(text), dtype=torch.uint8)}


def resume(
    checkpoints: Checkpoints | None, learners: dict[str, Learner], generator: torch.Generator, kept: dict[str, Tensor] | None = None
) -> dict[str, Any]:
    """Read the newest checkpoint into learners, generator and `kept`; returns what was told then, {} where there is none."""
    found = checkpoints.latest() if checkpoints else None
    if checkpoints is None or found is None:
        return {}
    state = training_state(learners, generator, {}, kept)
    state["told"] = torch.zeros(checkpoints.size_of(found[1], "told"), dtype=torch.uint8)
    checkpoints.load(found[1], state)
    generator.set_state(state["generator"])
    told: dict[str, Any] = json.loads(bytes(state["told"].tolist()))
    for name, learner in learners.items():
        learner.restore(state["experts"][name], told["steps"][name])
    return told
