"""The rollout (eq. 13) and the window that feeds it."""

import torch

from moworld.model.flow import few_step_schedule
from moworld.model.latent_cameras import LatentCameras
from moworld.model.rollout import Rollout, denoise_few_steps, roll_out, sample_window
from moworld.model.window import make_window, predict_velocity
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
def test_chunk_by_chunk_equals_the_whole_path_at_once() -> None:
    world, batch = tiny_world(), tiny_batch(10)
    whole = roll_out(make_rollout(world, batch), batch["c2w"][:, 1:])
    rollout = make_rollout(world, batch)
    chunks = [rollout.next_chunk(batch["c2w"][:, start : start + 12]) for start in (1, 13, 25)]
    assert whole.shape == (2, 16, 10, 2, 4)
    assert torch.equal(torch.cat([batch["latents"][:, :, :1], *chunks], dim=2), whole)
    assert torch.equal(rollout.bank.latents, whole)


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
def test_history_is_no_prediction_target_yet_it_is_seen() -> None:
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
    """With a transformer whose velocity points from a known clean window to the noise, any sampler must end at that window."""
    world, batch = tiny_world(), tiny_batch(4)
    cameras = LatentCameras.from_frames(batch["intrinsics"], batch["c2w"])
    window = make_window(batch["latents"][:, :, :1], cameras, torch.zeros(2, dtype=torch.long), batch["text"])
    clean = batch["latents"]

    class Exact(torch.nn.Module):
        def forward(self, hidden_states, timestep, text, camera, frame_ids):
            return (hidden_states[:, :16] - clean) / (timestep[:, None, None, None, None] / 1000)  # no history: (B,)

    world.experts.high = world.experts.low = Exact()
    generator = torch.Generator().manual_seed(0)
    torch.testing.assert_close(sample_window(world.experts, window, 7, 5.0, generator), clean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(denoise_few_steps(world.experts, window, world.config.schedule, generator), clean, rtol=1e-4, atol=1e-4)
