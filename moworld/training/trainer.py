"""The training loop of all stages but self-forcing: experts in turn, sharded over ranks, resumable at any step. The loss is an argument."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from moworld.data.features import FeatureStore
from moworld.data.loader import batches
from moworld.files import Pathlike
from moworld.model.world import WorldModel
from moworld.training.checkpoint import Checkpoints
from moworld.training.loop import Learner
from moworld.training.parallel import ONE_RANK, Ranks
from moworld.training.settings import OptimizerSettings

Batch = dict[str, Tensor]
Loss = Callable[[str, Batch, torch.Generator], tuple[Tensor, dict[str, float]]]
Curves = dict[str, list[list[float]]]
Report = Callable[[int, int, dict[str, float]], None]  # steps done, steps in all, the newest value of each curve
VALUES = "told"  # key of the plain values in a checkpoint; part of the file format


@dataclass(frozen=True)
class Run:
    """One training run: batches, seed, ranks and checkpoints. The result does not depend on where a run was interrupted.

    batches_from: returns the batches from a number on, each with this rank's samples
    checkpoints:  where to resume from and where to write; None writes none
    report:       called on the first rank after each step; None for no reports
    """

    batches_from: Callable[[int], Iterator[Batch]]
    seed: int
    ranks: Ranks = ONE_RANK
    checkpoints: Checkpoints | None = None
    report: Report | None = None

    @classmethod
    def on_features(
        cls,
        features: Pathlike,
        num_latents: int,
        batch: int,
        seed: int,
        ranks: Ranks,
        checkpoints: Checkpoints | None = None,
        report: Report | None = None,
    ) -> "Run":
        """Returns a run on windows of `num_latents` latent frames of the training split; `batch` counts samples over all ranks."""
        share = {"rank": ranks.data_rank, "world_size": ranks.data_size}
        return cls(partial(batches, FeatureStore(features), "train", num_latents, batch, seed, **share), seed, ranks, checkpoints, report)

    def batches_on_device(self, number: int) -> Iterator[Batch]:
        """Returns the batches from a number on, on this rank's device."""
        return ({key: value.to(self.ranks.device) for key, value in batch.items()} for batch in self.batches_from(number))

    def progress(self, description: str, done: int, steps: int, curves: Curves) -> Iterator[int]:
        """Yields the numbers of the steps that remain. The first rank has a progress bar and reports each step with the ends of `curves`."""
        for step in tqdm(range(done, steps), description, steps, initial=done, unit="step", disable=not self.ranks.is_first):
            yield step
            if self.report and self.ranks.is_first:
                self.report(step + 1, steps, {name: curve[-1][1] for name, curve in curves.items() if curve})


def train(
    world: WorldModel,
    run: Run,
    loss_of: Loss,
    steps: int,
    optimizer: OptimizerSettings,
    description: str,
    names: list[str] | None = None,
    extra: dict[str, Tensor] | None = None,
) -> Curves:
    """Trains the experts of `world`, or those in `names`, in place; the experts take batches in turn.

    loss_of: (expert's name, batch, generator) -> the loss and its parts by name
    extra:   further tensors that `loss_of` changes in place; checkpoints include them
    returns: curves {"high" or "high <part>": [[step, value], ...]}, means over ranks
    """
    ranks, checkpoints, generator = run.ranks, run.checkpoints, torch.Generator().manual_seed(run.seed)
    world.experts.train()
    experts = {name: expert for name, expert in world.experts.named_experts() if name in (names or ("high", "low"))}
    for expert in experts.values():
        ranks.place(expert)
    learners = {name: Learner(expert, optimizer, steps) for name, expert in experts.items()}
    values = resume(checkpoints, learners, generator, extra)
    done, curves = values.get("step", 0), Curves(values.get("curves", {}))
    numbered = run.batches_on_device(done * len(learners))
    for step in run.progress(description, done, steps, curves):
        for name, learner in learners.items():
            loss, parts = loss_of(name, next(numbered), generator)
            learner.step(loss)
            for part, value in parts.items():
                mean = float(ranks.mean(torch.tensor(value, device=ranks.device)))
                curves.setdefault(f"{name} {part}".strip(), []).append([step, round(mean, 5)])
        if checkpoints and checkpoints.is_due(step + 1, steps):
            checkpoints.save(step + 1, training_state(learners, generator, {"step": step + 1, "curves": curves}, extra))
    for learner in learners.values():
        learner.use_average()
    if checkpoints:
        checkpoints.wait()
    world.experts.eval()
    return curves


def training_state(
    learners: dict[str, Learner], generator: torch.Generator, values: dict[str, Any], extra: dict[str, Tensor] | None = None
) -> dict[str, Any]:
    """Returns the tensors of a checkpoint: learners by name, the generator, JSON-able `values`, and further tensors."""
    text = json.dumps({**values, "steps": {name: learner.steps for name, learner in learners.items()}}).encode()
    state = {"experts": {name: learner.state() for name, learner in learners.items()}, "kept": extra or {}}
    return {**state, "generator": generator.get_state(), VALUES: torch.frombuffer(bytearray(text), dtype=torch.uint8)}


def resume(
    checkpoints: Checkpoints | None, learners: dict[str, Learner], generator: torch.Generator, extra: dict[str, Tensor] | None = None
) -> dict[str, Any]:
    """Reads the newest checkpoint into learners, generator and `extra`; returns its values, or {} if there is none."""
    found = checkpoints.latest() if checkpoints else None
    if checkpoints is None or found is None:
        return {}
    state = training_state(learners, generator, {}, extra)
    state[VALUES] = torch.zeros(checkpoints.size_of(found[1], VALUES), dtype=torch.uint8)
    checkpoints.load(found[1], state)
    generator.set_state(state["generator"])
    values: dict[str, Any] = json.loads(bytes(state[VALUES].tolist()))
    for name, learner in learners.items():
        learner.restore(state["experts"][name], values["steps"][name])
    return values
