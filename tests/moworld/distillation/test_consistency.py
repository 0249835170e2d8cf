"""The consistency start: gradients, the result on Gaussian latents, several ranks, and interruption."""

import copy
from types import SimpleNamespace

import pytest
import torch

from moworld.distillation.settings import ConsistencySettings, GuidanceSettings
from moworld.distillation.starts import Target, consistency_loss, steps_of, train_consistency, train_guidance
from moworld.model.experts import Experts
from moworld.model.settings import HistoryPolicy
from moworld.training.checkpoint import Checkpoints
from moworld.training.parallel import Ranks
from moworld.training.settings import OptimizerSettings
from moworld.training.trainer import Run
from tests.moworld.ranks import joined, run_ranks
from tests.moworld.worlds import tiny_batch, tiny_world

LEVELS = [1.0, 0.9375, 5 / 6, 0.625]
RATE = OptimizerSettings(lr=1e-3, average=0.9)
SETTINGS = ConsistencySettings(steps=4, target_average=0.8)


class Lines(torch.nn.Module):
    """Predicts clean latents as a linear function of the noisy ones, with a slope and an offset for each level of the schedule."""

    config = SimpleNamespace(block_causal=False)

    def __init__(self, slopes: list[float], offset: float) -> None:
        super().__init__()
        self.slopes, self.offsets = torch.nn.Parameter(torch.tensor(slopes)), torch.nn.Parameter(torch.full((4,), offset))

    def forward(self, hidden_states, timestep, **_):
        noisy, level = hidden_states[:, :16], timestep[:, -1] / 1000
        at = (torch.tensor(LEVELS) - level[:, None]).abs().argmin(1)
        slope, offset, level = (value[:, None, None, None, None] for value in (self.slopes[at], self.offsets[at], level))
        return ((noisy - offset - slope * noisy) / level,)

    def share_sequence(self, mesh):
        assert mesh is None


def world_of(slopes: list[float], offset: float):
    made = tiny_world(history=HistoryPolicy(recent=0, camera=0))
    made.experts = Experts(Lines(slopes, offset), Lines(slopes, offset), 0.9)
    return made


def test_each_level_of_the_schedule_belongs_to_one_expert():
    world = tiny_world()
    assert [steps_of(world, name) for name in ("high", "low")] == [[0, 1], [2, 3]]
    world.experts = Experts(world.experts.high, None, 0.0)
    assert steps_of(world, "high") == [0, 1, 2, 3]


def test_the_loss_is_zero_for_exact_predictions_only():
    batch = tiny_batch(7)
    batch["latents"] = torch.full_like(batch["latents"], 2.0)
    for offset, low, high in ((2.0, 0.0, 1e-10), (2.5, 0.2, 0.3)):
        right, made = world_of([0.0] * 4, 2.0), world_of([0.0] * 4, offset)
        for name in ("high", "low"):
            for seed in range(6):
                loss, _ = consistency_loss(made, right.experts, name, batch, torch.Generator().manual_seed(seed))
                assert low <= loss.item() <= high


def draws_the_first_level(seed: int) -> bool:
    """Returns whether a loss on one chunk draws the first of an expert's two levels."""
    generator = torch.Generator().manual_seed(seed)
    return int(torch.randint(1, (), generator=generator)) + int(torch.randint(2, (), generator=generator)) == 0


@pytest.mark.parametrize("name", ["high", "low"])
def test_gradients_reach_the_student_and_not_the_target(name):
    """With equal weights, the gradient is that of the prediction with a fixed target, not that of both together."""
    batch = {key: value.double() if value.is_floating_point() else value for key, value in tiny_batch(4).items()}
    world, held = tiny_world(1), tiny_world(1)
    for each in (world, held):
        each.experts.double()
    seed = next(seed for seed in range(99) if draws_the_first_level(seed))  # the same expert predicts the target

    def loss_with(target):
        return consistency_loss(world, target, name, batch, torch.Generator().manual_seed(seed))[0]

    loss_with(world.experts).backward()
    weight, step = getattr(world.experts, name).proj_out.bias, 1e-5
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[0] += sign * step
            values.append([loss_with(target).item() for target in (held.experts, world.experts)])
            weight[0] -= sign * step
    fixed, moving = ((up - down) / (2 * step) for up, down in zip(*values, strict=True))
    assert weight.grad[0].item() == pytest.approx(fixed, rel=1e-4)
    assert abs(moving - fixed) > 0.01 * abs(fixed)


def test_the_target_averages_the_student_and_has_no_gradients():
    world = tiny_world(1)
    target, start = Target(world.experts, 0.75, Ranks()), copy.deepcopy(world.experts.state_dict())
    assert not any(p.requires_grad for p in target.experts.parameters())
    with torch.no_grad():
        for parameter in world.experts.parameters():
            parameter += 1.0
    target.follow("high", world.experts)
    for key, weight in target.experts.state_dict().items():
        moved = 0.25 if key.startswith("high") else 0.0
        torch.testing.assert_close(weight, start[key] + moved, rtol=0, atol=1e-6)
    assert set(target.state()) == {key for key, _ in target.experts.named_parameters()}


def test_on_gaussian_latents_it_converges_to_regression_along_the_path():
    """Latents N(m, s^2): the last level learns E[x | z]; each level above learns the regression of the next one on its own mixture.

    All are linear, so slopes and offsets are known. At pure noise the prediction keeps a spread.
    """
    mean, spread = 0.7, 0.6

    def variance(one, other):
        return (1 - one) * (1 - other) * spread**2 + one * other

    slopes = [(1 - LEVELS[3]) * spread**2 / variance(LEVELS[3], LEVELS[3])]
    for level, below in ((LEVELS[2], LEVELS[3]), (LEVELS[1], LEVELS[2]), (LEVELS[0], LEVELS[1])):
        slopes.insert(0, slopes[0] * variance(below, level) / variance(level, level))
    offsets = [mean - slope * (1 - level) * mean for slope, level in zip(slopes, LEVELS, strict=True)]

    def batches(start):
        for number in range(start, 10_000):
            batch = tiny_batch(4, batch=8, seed=number)
            yield {**batch, "latents": mean + spread * batch["latents"]}

    world = world_of([0.0] * 4, 0.0)
    optimizer = OptimizerSettings(lr=0.05, weight_decay=0.0, final_lr=0.02, average=0.95)
    train_consistency(world, ConsistencySettings(steps=200, target_average=0.8), optimizer, Run(batches, 3))
    for name, own in (("high", [0, 1]), ("low", [2, 3])):
        learned = getattr(world.experts, name)
        for index in own:
            assert learned.slopes[index].item() == pytest.approx(slopes[index], abs=0.02)
            assert learned.offsets[index].item() == pytest.approx(offsets[index], abs=0.02)
    assert slopes[0] > 0.1


def trained(ranks: Ranks, checkpoints: Checkpoints | None = None, until: int | None = None):
    """Returns weights and curves after the start; `until` ends the batches early, like a kill."""

    def from_number(start: int):
        for number in range(start, 10_000):
            if until is not None and number >= 2 * until:
                raise KeyboardInterrupt
            yield {key: ranks.of_global(value) for key, value in tiny_batch(7, 4, seed=number).items()}

    world = tiny_world(1, num_attention_heads=4)
    curves = train_consistency(world, SETTINGS, RATE, Run(from_number, 5, ranks, checkpoints))
    state = world.experts.state_dict()
    return {key: value.full_tensor() if hasattr(value, "full_tensor") else value for key, value in state.items()}, curves


def on_ranks(rank: int, ulysses: int, ring: int) -> dict[str, torch.Tensor]:
    weights, curves = trained(joined(ulysses, ring))
    return {**weights, **{f"curve {name}": torch.tensor(values, dtype=torch.float64) for name, values in curves.items()}}


@pytest.fixture(scope="module")
def alone():
    return trained(Ranks())


@pytest.mark.parametrize(
    ("world", "ulysses", "ring"),
    [(2, 1, 1), pytest.param(4, 1, 2, marks=pytest.mark.slow)],
    ids=["fsdp2", "ring2-data2"],
)
def test_ranks_train_like_one(alone, world, ulysses, ring):
    weights, curves = alone
    for found in run_ranks(world, on_ranks, ulysses, ring):
        for name, values in curves.items():
            torch.testing.assert_close(found[f"curve {name}"], torch.tensor(values, dtype=torch.float64), rtol=1e-4, atol=2e-5)
        for name, weight in weights.items():
            # AdamW divides by the gradient's magnitude: a gradient that is only rounding may flip a step, but rarely.
            error = (found[name] - weight).abs()
            assert error.mean() <= 5e-6 and error.max() <= SETTINGS.steps * RATE.lr, name


def test_interruptions_do_not_change_the_weights(alone, tmp_path):
    for cut in (1, 3):
        checkpoints = Checkpoints(tmp_path / "kept", 1, {"seed": 5})
        with pytest.raises(KeyboardInterrupt):
            trained(Ranks(), checkpoints, cut)
        checkpoints.wait()
        assert checkpoints.latest()[0] == cut
    weights, curves = trained(Ranks(), Checkpoints(tmp_path / "kept", 1, {"seed": 5}))
    assert curves == alone[1]
    assert all(torch.equal(weights[name], weight) for name, weight in alone[0].items())


def both_starts(rank: int) -> dict[str, torch.Tensor]:
    """Returns the weights after a guided start and a consistency start of the same student, whose experts are sharded by the first."""
    ranks, world = joined(), tiny_world(1, num_attention_heads=4)

    def from_number(start: int):
        return ({key: ranks.of_global(value) for key, value in tiny_batch(7, 4, seed=n).items()} for n in range(start, 10_000))

    run = Run(from_number, 5, ranks)
    train_guidance(world, GuidanceSettings(steps=1), RATE, run)
    train_consistency(world, ConsistencySettings(steps=1), RATE, run)
    state = world.experts.state_dict()
    return {key: value.full_tensor() if hasattr(value, "full_tensor") else value for key, value in state.items()}


def test_both_starts_run_one_after_the_other_on_ranks():
    alone = both_starts(0)
    for found in run_ranks(2, both_starts):
        for name, weight in alone.items():
            error = (found[name] - weight).abs()
            assert error.mean() <= 5e-6 and error.max() <= 2 * RATE.lr, name
