"""Flow-matching pretraining: the objective (eq. 1), noise levels and a stage."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moworld.model.flow import add_noise, clean_from_velocity, draw_noise_levels, shift_noise_level, unshift_noise_level, velocity
from moworld.training.curriculum import train_stage
from moworld.training.loop import Learner
from moworld.training.objective import flow_matching_loss
from moworld.training.settings import OptimizerSettings, Stage
from moworld.training.trainer import Run
from tests.moworld.worlds import tiny_batch, tiny_world


@given(level=st.floats(0, 1), shift=st.floats(1, 12))
def test_shift_and_unshift_are_inverse_and_keep_0_and_1(level: float, shift: float) -> None:
    value = torch.tensor(level, dtype=torch.float64)
    torch.testing.assert_close(unshift_noise_level(shift_noise_level(value, shift), shift), value)
    ends = shift_noise_level(torch.tensor([0.0, 1.0], dtype=torch.float64), shift)
    torch.testing.assert_close(ends, torch.tensor([0.0, 1.0], dtype=torch.float64))


def test_noise_clean_and_velocity_agree() -> None:
    clean, noise = torch.randn(2, 3), torch.randn(2, 3)
    noisy = add_noise(clean, noise, torch.tensor(0.3))
    torch.testing.assert_close(clean_from_velocity(noisy, velocity(clean, noise), 0.3), clean)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.9), (0.9, 1.0)])
def test_noise_levels_are_in_the_experts_range_and_follow_the_shifted_schedule(low: float, high: float) -> None:
    levels = draw_noise_levels(20000, low, high, 5.0, torch.Generator().manual_seed(0)).double()
    assert levels.min() >= low and levels.max() <= high
    middle = shift_noise_level(unshift_noise_level(torch.tensor([low, high], dtype=torch.float64), 5.0).mean(), 5.0)
    assert abs((levels < middle).double().mean().item() - 0.5) < 0.02


def test_the_loss_has_gradients_in_the_named_expert_only() -> None:
    world, batch = tiny_world(), tiny_batch(4)
    flow_matching_loss(world.experts, "high", batch, 5.0, torch.Generator().manual_seed(0)).backward()
    assert world.experts.high.proj_out.weight.grad is not None and world.experts.low.proj_out.weight.grad is None


def test_a_stage_is_deterministic_and_lowers_the_loss() -> None:
    stage = Stage(frames=13, batch=2, steps=30, optimizer=OptimizerSettings(lr=1e-2, average=0.9), camera_dropout=0, text_dropout=0)
    batch = tiny_batch(4)
    batch["latents"] = batch["latents"][:, :, :1].expand(-1, -1, 4, -1, -1).clone()

    def run():
        world = tiny_world()
        return train_stage(world, stage, Run(lambda start: iter(lambda: batch, None), seed=1)), world.experts.state_dict()

    (curves, weights), (curves_again, weights_again) = run(), run()
    assert curves == curves_again and all(torch.equal(weights[k], weights_again[k]) for k in weights)
    values = [value for _, value in curves["low"]]
    assert sum(values[-10:]) < 0.8 * sum(values[:10])


def test_the_learning_rate_warms_up_and_decays() -> None:
    learner = Learner(torch.nn.Linear(1, 1), OptimizerSettings(lr=1.0, warmup=4, final_lr=0.1), total_steps=104)
    assert [learner.rate(step) for step in (0, 3)] == [0.25, 1.0]
    assert learner.rate(104) == pytest.approx(0.1) and learner.rate(54) == pytest.approx(0.55)


def test_a_loss_that_is_not_finite_raises_and_keeps_the_weights() -> None:
    module = torch.nn.Linear(1, 1)
    before = module.weight.clone()
    with pytest.raises(FloatingPointError, match="step 0"):
        Learner(module, OptimizerSettings(lr=1.0), 1).step(module(torch.ones(1)).sum() * float("nan"))
    assert torch.equal(module.weight, before)
