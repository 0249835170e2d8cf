"""The guided start: its targets, gradients and noise levels."""

import copy
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from moworld.distillation.autoregressive import random_window
from moworld.distillation.settings import GuidanceSettings
from moworld.distillation.starts import guidance_loss, guided_step, train_guidance
from moworld.errors import InputError
from moworld.model.experts import Experts
from moworld.model.rollout import sample_window
from moworld.training.parallel import Ranks
from moworld.training.settings import OptimizerSettings
from moworld.training.trainer import Run
from tests.moworld.ranks import joined, run_ranks
from tests.moworld.worlds import batches_from, tiny_batch, tiny_world


class Seeing(torch.nn.Module):
    """Predicts velocity `seen` with cameras and 1 without."""

    config = SimpleNamespace(block_causal=False)

    def __init__(self) -> None:
        super().__init__()
        self.seen = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, hidden_states, timestep, *, camera, **_):
        seen = camera.motion.flatten(1).abs().sum(1) > 0
        return (torch.where(seen, self.seen, 1.0)[:, None, None, None, None].expand_as(hidden_states[:, :16]),)

    def prepare(self, hidden_states, *, camera, **_):
        return camera

    def denoise(self, hidden_states, timestep, prepared):
        return self(hidden_states, timestep, camera=prepared)[0]

    def share_sequence(self, mesh):
        assert mesh is None


def settings_of(camera: float, substeps: int = 1) -> GuidanceSettings:
    return GuidanceSettings(steps=100, camera=camera, substeps=substeps)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_amplifies_the_effect_of_the_cameras_except_on_the_anchor(scale):
    world, batch = tiny_world(), tiny_batch(7)
    window, clean = random_window(batch, world.config.model, torch.Generator().manual_seed(1))
    made = guided_step(Experts(Seeing(), None, 0.0), clean, [0.5, 0.4, 0.25], window, scale)
    torch.testing.assert_close(made[:, :, :1], torch.full_like(made[:, :, :1], 3.0))
    torch.testing.assert_close(made[:, :, 1:], torch.full_like(made[:, :, 1:], 1 + 2 * scale))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_rescaling_removes_its_share_of_the_added_standard_deviation(share):
    world, batch, level = tiny_world(1), tiny_batch(7), 0.75
    window, noisy = random_window(batch, world.config.model, torch.Generator().manual_seed(1))

    def step(camera: float, rescale: float = 0.0) -> torch.Tensor:
        return guided_step(world.experts, noisy, [level, 0.5], window, camera, rescale)

    def spreads(made: torch.Tensor) -> torch.Tensor:
        return (noisy - level * made)[:, :, 1:].flatten(1).std(1)

    plain, rich, made = spreads(step(1.0)), spreads(step(40.0)), step(40.0, share)
    assert not torch.isclose(rich, plain, rtol=0.05).any()
    torch.testing.assert_close(spreads(made), share * plain + (1 - share) * rich, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(made[:, :, :1], step(1.0)[:, :, :1])


def test_the_loss_of_a_student_equal_to_its_teacher_is_the_added_guidance():
    world = tiny_world(1)
    teacher = copy.deepcopy(world.experts)
    for name in ("high", "low"):
        losses = [
            guidance_loss(world, teacher, name, tiny_batch(7), settings_of(scale), torch.Generator().manual_seed(2))[0].item()
            for scale in (1.0, 2.0, 3.0)
        ]
        assert losses[0] < 1e-10 and losses[1] > 1e-6
        assert losses[2] == pytest.approx(4 * losses[1], rel=1e-3)  # squared


def test_the_student_is_evaluated_at_the_levels_of_its_schedule_only():
    world, levels = tiny_world(1), set()
    for name, expert in world.experts.named_experts():
        expert.register_forward_pre_hook(lambda _, given, name=name: levels.add((name, round(given[1].flatten()[-1].item() / 1000, 4))))
    teacher = tiny_world(1).experts
    for seed in range(12):
        for name in ("high", "low"):
            guidance_loss(world, teacher, name, tiny_batch(7), settings_of(2.0), torch.Generator().manual_seed(seed))
    assert levels == {("high", 1.0), ("high", 0.9375), ("low", 0.8333), ("low", 0.625)}


def test_training_converges_to_the_guided_velocity_of_the_initial_weights():
    """The teacher does not move with the student, which would diverge; an expert without a level is unchanged."""
    world = tiny_world(boundary=0.5)  # all levels of the schedule are the high expert's
    world.experts = Experts(Seeing(), Seeing(), 0.5)
    rate = OptimizerSettings(lr=0.1, final_lr=0.01, weight_decay=0.0)
    curves = train_guidance(world, settings_of(2.0), rate, Run(batches_from, 5))
    assert set(curves) == {"high guidance"}
    assert world.experts.high.seen.item() == pytest.approx((3 * 5.0 + 1 * 3.0) / 4, abs=0.05)  # three frames guided, the anchor not
    assert world.experts.low.seen.item() == 3.0


@torch.no_grad()
def test_unguided_substeps_equal_the_euler_sampler():
    """Four steps of three substeps each end where twelve steps of the teacher end."""
    world = tiny_world(1, sampler="euler", student_shift=1.0)
    window, clean = random_window(tiny_batch(7), world.config.model, torch.Generator().manual_seed(1))
    many = sample_window(world.experts, window, 12, 1.0, torch.Generator().manual_seed(3))
    noisy = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    for level, following in pairwise([1.0, 0.75, 0.5, 0.25, 0.0]):
        small = torch.linspace(level, following, 4, dtype=torch.float64).tolist()
        noisy = noisy + (following - level) * guided_step(world.experts, noisy, small, window, 1.0)
    torch.testing.assert_close(noisy, many, rtol=1e-3, atol=1e-4)


def test_substeps_require_the_euler_sampler():
    rate = OptimizerSettings(lr=1e-3)
    with pytest.raises(InputError, match=r"guidance_start.substeps: found 3 substeps for the sampler stochastic"):
        train_guidance(tiny_world(), settings_of(2.0, substeps=3), rate, Run(batches_from, 5))
    settings = GuidanceSettings(steps=1, substeps=3)
    assert train_guidance(tiny_world(sampler="euler"), settings, rate, Run(batches_from, 5))["low guidance"][0][1] > 0


def trained(ranks: Ranks) -> tuple[dict[str, torch.Tensor], dict[str, list[list[float]]]]:
    """Returns weights and curves of two steps on a model with four heads."""

    def from_number(start: int):
        for number in range(start, 10_000):
            batch = tiny_batch(7, seed=number)
            yield {key: ranks.of_global(value) for key, value in batch.items()}

    world = tiny_world(1, num_attention_heads=4, sampler="euler")
    settings = GuidanceSettings(steps=2, substeps=2)
    curves = train_guidance(world, settings, OptimizerSettings(lr=1e-3), Run(from_number, 5, ranks))
    state = world.experts.state_dict()
    return {key: value.full_tensor() if hasattr(value, "full_tensor") else value for key, value in state.items()}, curves


def on_ranks(rank: int, ulysses: int, ring: int) -> dict[str, torch.Tensor]:
    weights, curves = trained(joined(ulysses, ring))
    return {**weights, **{f"curve {name}": torch.tensor(values, dtype=torch.float64) for name, values in curves.items()}}


@pytest.mark.slow
def test_two_ranks_train_like_one():
    weights, curves = trained(Ranks())
    for found in run_ranks(2, on_ranks, 1, 1):
        for name, values in curves.items():
            torch.testing.assert_close(found[f"curve {name}"], torch.tensor(values, dtype=torch.float64), rtol=1e-4, atol=2e-5)
        for name, weight in weights.items():
            # AdamW divides by the gradient's magnitude: a gradient that is only rounding may flip a step, but rarely.
            error = (found[name] - weight).abs()
            assert error.mean() <= 5e-6 and error.max() <= 2 * 1e-3, name
