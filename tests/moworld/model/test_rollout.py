"""The rollout (eq. 13) and the window that feeds it."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from moworld.evaluation.protocol import student_rollout
from moworld.model.flow import few_step_schedule
from moworld.model.history import HistoryPolicy
from moworld.model.latent_cameras import LatentCameras
from moworld.model.rollout import KeptSpread, NoisePerWorld, Rollout, denoise_few_steps, roll_out, sample_window
from moworld.model.window import PreparedWindow, make_window, predict_velocity
from moworld.model.world import WorldModel
from tests.moworld.worlds import tiny_batch, tiny_world


def make_rollout(world: WorldModel, batch: dict[str, torch.Tensor], seed: int = 0) -> Rollout:
    config = world.config
    return Rollout(
        world.experts,
        batch["latents"][:, :, :1],
        batch["text"],
        batch["intrinsics"][:, 0],
        schedule=config.schedule,
        policy=config.model.history,
        chunk_latents=config.model.chunk_latents,
        generator=torch.Generator().manual_seed(seed),
    )


@torch.no_grad()
def test_the_noise_of_a_world_does_not_depend_on_the_other_worlds_of_its_batch() -> None:
    world, batch = tiny_world(), tiny_batch(7)

    def noise(*seeds: int) -> NoisePerWorld:
        return NoisePerWorld(tuple(torch.Generator().manual_seed(seed) for seed in seeds))

    both = student_rollout(world, batch, noise(5, 6))
    second = student_rollout(world, {key: value[1:] for key, value in batch.items()}, noise(6))
    assert torch.allclose(both[1:], second, atol=1e-5)
    alike = {key: value[:1].expand(2, *value.shape[1:]) for key, value in batch.items()}
    same, different = (student_rollout(world, alike, noise(5, seed)) for seed in (5, 6))
    assert torch.allclose(same[0], same[1], atol=1e-5) and not torch.allclose(different[0], different[1], atol=0.01)


@torch.no_grad()
def test_chunk_by_chunk_equals_the_whole_path_at_once() -> None:
    world, batch = tiny_world(), tiny_batch(10)
    whole = roll_out(make_rollout(world, batch), batch["c2w"][:, 1:])
    rollout = make_rollout(world, batch)
    chunks = [rollout.next_chunk(batch["c2w"][:, start : start + 12]) for start in (1, 13, 25)]
    assert whole.shape == (2, 16, 10, 2, 4)
    assert torch.equal(torch.cat([batch["latents"][:, :, :1], *chunks], dim=2), whole)
    assert torch.equal(rollout.bank.latents, whole)


@torch.no_grad()
def test_branches_continue_their_world_and_leave_it_as_it_was() -> None:
    world, batch = tiny_world(), tiny_batch(10)

    def noise(*seeds: int) -> NoisePerWorld:
        return NoisePerWorld(tuple(torch.Generator().manual_seed(seed) for seed in seeds))

    path = batch["c2w"][:, 1:]
    rollout = make_rollout(world, batch)
    rollout.keep_spread = KeptSpread(2.0)
    rollout.next_chunk(path[:, :12])
    before = rollout.bank.latents.clone()
    branched = rollout.branch(torch.tensor([1, 0, 1]), noise(3, 4, 5))
    made = branched.next_chunk(path[[1, 0, 1], 12:24])
    assert torch.equal(rollout.bank.latents, before) and branched.bank.latents.shape[2] == before.shape[2] + 3
    assert torch.equal(branched.bank.latents[:, :, : before.shape[2]], before[[1, 0, 1]])
    rollout.generator = noise(4, 3)
    assert torch.allclose(rollout.next_chunk(path[:, 12:24]), made[[1, 0]], atol=1e-5)
    assert not torch.allclose(made[0], made[2], atol=0.01)  # another noise


@torch.no_grad()
def test_a_capacity_changes_nothing_until_the_bank_is_full_and_times_continue() -> None:
    policies, batch = [HistoryPolicy(recent=1, camera=0, capacity=capacity) for capacity in (0, 16)], tiny_batch(22)
    whole, thinned = (make_rollout(tiny_world(history=policy), batch) for policy in policies)
    for start in range(1, batch["c2w"].shape[1] - 11, 12):
        c2w, intrinsics = (batch[name][:, start : start + 12] for name in ("c2w", "intrinsics"))
        one, other = (rollout.window(LatentCameras.from_chunk(intrinsics, c2w)) for rollout in (whole, thinned))
        assert torch.equal(one.frame_ids, other.frame_ids)
        assert torch.equal(whole.next_chunk(c2w), thinned.next_chunk(c2w))  # the first frame and the latest are in both banks
    assert len(whole.bank) == 22 and len(thinned.bank) <= 16 and thinned.bank.time == 22


@torch.no_grad()
def test_the_future_of_the_camera_path_does_not_change_the_past() -> None:
    world, batch = tiny_world(), tiny_batch(7)
    turned = batch["c2w"].clone()
    turned[:, 13:] = turned[:, 13:].flip(1)
    first, second = (roll_out(make_rollout(world, batch), c2w[:, 1:]) for c2w in (batch["c2w"], turned))
    assert torch.equal(first[:, :, :4], second[:, :, :4])
    assert not torch.allclose(first[:, :, 4:], second[:, :, 4:])


@torch.no_grad()
def test_a_rigid_motion_of_the_world_changes_nothing() -> None:
    world, batch = tiny_world(), tiny_batch(7)
    motion = batch["c2w"][:1, 9:10]
    plain = make_rollout(world, batch)
    moved = Rollout(
        world.experts,
        batch["latents"][:, :, :1],
        batch["text"],
        batch["intrinsics"][:, 0],
        schedule=world.config.schedule,
        policy=world.config.model.history,
        chunk_latents=3,
        generator=torch.Generator().manual_seed(0),
        first_pose=(motion @ batch["c2w"])[:, 0],
    )
    torch.testing.assert_close(roll_out(plain, batch["c2w"][:, 1:]), roll_out(moved, (motion @ batch["c2w"])[:, 1:]), rtol=1e-3, atol=1e-3)


def test_gradients_pass_through_the_exit_step_alone() -> None:
    world, batch = tiny_world(), tiny_batch(4)
    for exit_step, expert in ((0, "high"), (1, "high"), (2, "low"), (3, "low")):
        world.experts.zero_grad()
        rollout = make_rollout(world, batch)
        rollout.next_chunk(batch["c2w"][:, 1:13], exit_step=exit_step).square().mean().backward()
        for name, module in world.experts.named_experts():
            touched = any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
            assert touched == (name == expert), f"exit step {exit_step}, expert {name}"


def test_four_steps_at_shift_five_are_two_for_each_expert() -> None:
    world = tiny_world()
    schedule = few_step_schedule(4, 5.0)
    torch.testing.assert_close(schedule, torch.tensor([1, 0.9375, 5 / 6, 0.625], dtype=torch.float64))
    assert [world.experts.at(float(level)) is world.experts.high for level in schedule] == [True, True, False, False]
    assert world.experts.at(world.experts.boundary) is world.experts.high


@torch.no_grad()
def test_history_is_attended_to_and_is_no_prediction_target() -> None:
    world, batch = tiny_world(), tiny_batch(7)
    cameras = LatentCameras.from_frames(batch["intrinsics"], batch["c2w"])
    indices = torch.tensor([[0, 1], [0, 1]])
    arguments = (batch["latents"][:, :, 3:4], cameras[3:], torch.tensor([3, 3]), batch["text"])
    noisy, level = torch.randn(2, 16, 4, 2, 4), torch.tensor([0.5, 0.5])

    def velocity(history: torch.Tensor) -> torch.Tensor:
        return predict_velocity(world.experts.low, noisy, level, make_window(*arguments, history, cameras.gather(indices), indices))

    seen = velocity(batch["latents"][:, :, :2])
    assert seen.shape == noisy.shape
    assert not torch.allclose(seen, velocity(torch.zeros_like(batch["latents"][:, :, :2])))


@torch.no_grad()
def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    world, batch = tiny_world(), tiny_batch(4)
    path = batch["c2w"][:, 1:]
    first = roll_out(make_rollout(world, batch, 3), path)
    assert torch.equal(first, roll_out(make_rollout(world, batch, 3), path))
    assert not torch.equal(first, roll_out(make_rollout(world, batch, 4), path))


@torch.no_grad()
def test_samplers_recover_the_data_when_the_velocity_is_exact() -> None:
    """With a velocity that points from a given clean window to the noise, every sampler must end at that window."""
    world, batch = tiny_world(), tiny_batch(4)
    cameras = LatentCameras.from_frames(batch["intrinsics"], batch["c2w"])
    window = make_window(batch["latents"][:, :, :1], cameras, torch.zeros(2, dtype=torch.long), batch["text"])
    clean = batch["latents"]

    class Exact(torch.nn.Module):
        def prepare(self, hidden_states, **conditions):
            return None

        def denoise(self, hidden_states, timestep, prepared):
            return (hidden_states[:, :16] - clean) / (timestep[:, None, None, None, None] / 1000)  # no history: (B,)

    world.experts.high = world.experts.low = Exact()
    generator = torch.Generator().manual_seed(0)
    torch.testing.assert_close(sample_window(world.experts, window, 7, 5.0, generator), clean, rtol=1e-4, atol=1e-4)
    for sampler in ("stochastic", "euler"):
        made = denoise_few_steps(world.experts, window, world.config.schedule, generator, sampler=sampler)
        torch.testing.assert_close(made, clean, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_students_euler_steps_are_the_teachers() -> None:
    """Equal levels and noise give equal latents; the stochastic sampler gives others."""
    world, batch = tiny_world(student_shift=2.0, sampler="euler"), tiny_batch(4)
    cameras = LatentCameras.from_frames(batch["intrinsics"], batch["c2w"])
    window = make_window(batch["latents"][:, :, :1], cameras, torch.zeros(2, dtype=torch.long), batch["text"])
    made, again = (world.denoiser.denoise(window, world.config.schedule, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(made, again)
    torch.testing.assert_close(made, sample_window(world.experts, window, 4, 2.0, torch.Generator().manual_seed(3)), rtol=1e-4, atol=1e-5)
    other = denoise_few_steps(world.experts, window, world.config.schedule, torch.Generator().manual_seed(3))
    assert (other - made).abs().max() > 0.1


@torch.no_grad()
def test_evaluated_rollouts_use_the_sampler_of_their_model() -> None:
    batch = tiny_batch(4)
    stochastic, euler = (student_rollout(tiny_world(sampler=sampler), batch, 0) for sampler in ("stochastic", "euler"))
    assert torch.equal(stochastic[:, :, :1], euler[:, :, :1]) and (stochastic - euler).abs().max() > 0.1


BLOCK_CAUSAL = {"num_layers": 2, "history_attention": "block_causal", "history": {"recent": 2, "camera": 1}}


def later_window(world: WorldModel, batch: dict[str, torch.Tensor], history: torch.Tensor | None = None):
    """The window of the third chunk, whose history holds frames of the two before, and noise for it."""
    rollout = make_rollout(world, batch)
    for start in (1, 13):
        frames = slice(start, start + 12)
        latents = batch["latents"][:, :, 1 + start // 4 : 4 + start // 4] if history is None else history
        rollout.bank.append(latents, LatentCameras.from_chunk(batch["intrinsics"][:, frames], batch["c2w"][:, frames]))
    window = rollout.window(LatentCameras.from_chunk(batch["intrinsics"][:, 25:37], batch["c2w"][:, 25:37]))
    return window, torch.randn(window.shape, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, BLOCK_CAUSAL], ids=["joint", "block-causal"])
def test_a_prepared_window_gives_the_velocities_of_separate_calls(settings) -> None:
    world, batch = tiny_world(**settings), tiny_batch(10)
    window, noisy = later_window(world, batch)
    assert window.history.shape[2] == 4 if settings else True
    prepared = PreparedWindow(world.experts.high, window)
    for level in (1.0, 0.9):
        levels = torch.full((2,), level)
        assert torch.equal(prepared.velocity(noisy, levels), predict_velocity(world.experts.high, noisy, levels, window))


@torch.no_grad()
def test_block_causal_history_attends_to_itself_and_the_chunk_to_it() -> None:
    world, batch = tiny_world(**BLOCK_CAUSAL), tiny_batch(10)
    window, noisy = later_window(world, batch)
    keys = [own.key for own in PreparedWindow(world.experts.high, window).prepared.past]
    other_chunk = replace(window, condition=window.condition.clone())
    other_chunk.condition[:, :, window.history.shape[2] :] += 1
    for before, after in zip(keys, PreparedWindow(world.experts.high, other_chunk).prepared.past, strict=True):
        assert torch.equal(before, after.key)  # whatever the chunk holds
    changed = replace(window, history=window.history + torch.randn(window.history.shape, generator=torch.Generator().manual_seed(3)))
    levels = torch.full((2,), 1.0)
    first, second = (predict_velocity(world.experts.high, noisy, levels, seen) for seen in (window, changed))
    assert (first - second).abs().max() > 1e-4
    assert not torch.equal(keys[1], PreparedWindow(world.experts.high, changed).prepared.past[1].key)


def test_block_causal_gradients_are_equal_with_gradient_checkpointing() -> None:
    gradients = []
    for again in (False, True):
        world, batch = tiny_world(**BLOCK_CAUSAL), tiny_batch(10)
        expert = world.experts.high.train()
        if again:
            expert.recompute = partial(checkpoint, use_reentrant=False)
        window, noisy = later_window(world, batch)
        predict_velocity(expert, noisy, torch.full((2,), 1.0), window).square().mean().backward()
        gradients.append({name: p.grad for name, p in expert.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and any("to_k" in name for name in gradients[0])
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-5, atol=1e-7)


def test_a_fading_rollout_keeps_its_spread_and_a_single_flat_chunk_stays_flat() -> None:
    keep, generator = KeptSpread(0.75), torch.Generator().manual_seed(0)
    mean = torch.linspace(-1, 1, 16)[None, :, None, None, None]
    texture, level, spreads = torch.randn(1, 16, 3, 8, 12, generator=generator), 1.0, list[float]()
    for _ in range(100):
        chunk = mean + 0.95 * level * texture  # every chunk has 5 % less contrast than the one before
        kept = keep(chunk)
        torch.testing.assert_close(kept.mean((2, 3, 4)), chunk.mean((2, 3, 4)))  # colours stay
        level = float((kept - kept.mean((2, 3, 4), keepdim=True)).std())
        spreads.append(level)
    assert min(spreads) > 0.55 and min(spreads[-30:]) > 0.7 and 0.95**100 < 0.01
    flat = 0.1 * texture
    assert float(KeptSpread(0.75)(flat).std()) == pytest.approx(float(flat.std()))
    assert KeptSpread(0.0)(flat) is flat


def test_gradients_pass_a_kept_spread_as_through_a_constant_gain() -> None:
    keep = KeptSpread(0.75)
    chunk = torch.randn(2, 4, 1, 4, 4).mul(0.1).requires_grad_(True)
    for _ in range(4):
        keep(chunk.detach())
    keep(chunk).sum().backward()
    torch.testing.assert_close(chunk.grad, torch.ones_like(chunk))  # a gain about the mean keeps the sum
