"""What the experts see while INT8 errors are measured: the rays, history and noise levels of serving."""

import pytest
import torch

from moworld.inference.calibration import run_on_walk, served_levels, walk_window
from moworld.inference.quantization import QuantizeSettings, quantize_experts
from moworld.inference.session import WorldSession
from tests.moworld.inference.worlds import Letters, picture, served_world
from tests.moworld.worlds import tiny_world


def test_rays_are_unit_directions_with_perpendicular_moments_about_the_chunks_first_camera():
    world = tiny_world()
    window, clean = walk_window(world.experts.high, world.config)
    moment, direction = window.camera.maps()[0].unflatten(0, (4, 6)).split(3, dim=1)  # (4, 3, frames, H, W) each
    torch.testing.assert_close(direction.norm(dim=1), torch.ones_like(direction[:, 0]))
    torch.testing.assert_close((moment * direction).sum(1), torch.zeros_like(moment[:, 0]), atol=1e-5, rtol=0)
    known = world.config.model.history.num_frames
    torch.testing.assert_close(moment[3, :, known], torch.zeros_like(moment[3, :, known]), atol=1e-6, rtol=0)  # the anchor's last frame
    assert moment[3, :, -1].norm(dim=0).mean() > 0 and moment[3, :, :known].norm(dim=0).mean() > 0  # the walk moves
    assert clean.shape == window.shape and float(clean.std()) == pytest.approx(1, abs=0.1)


def test_the_window_is_like_that_of_a_session_that_walked_as_far(tmp_path):
    world = served_world(tmp_path)
    session, seen = WorldSession(world, Letters()), []
    session.open(picture(), "a hall")
    session.rollout.denoise = lambda window, *rest: seen.append(window) or world.denoiser.denoise(window, *rest)
    for _ in range(3):
        session.step("w*12")
    made, _ = walk_window(world.experts.high, world.config)
    for name in ("condition", "history", "frame_ids", "text"):
        assert getattr(made, name).shape == getattr(seen[-1], name).shape, name
    assert torch.equal(made.frame_ids[0, -4:], seen[-1].frame_ids[0, -4:])
    assert torch.equal(made.camera.directions, seen[-1].camera.directions)
    history = made.frame_ids[0, : made.history.shape[2]].tolist()
    assert len(set(history)) == len(history)  # no history frame is repeated to fill the context
    assert made.text[0, -1].abs().max() == 0 < made.text[0, 0].abs().max()


@pytest.mark.parametrize("name", ["high", "low"])
def test_each_expert_runs_at_the_noise_levels_that_it_serves(name):
    world, times = tiny_world(), list[float]()
    expert = dict(world.experts.named_experts())[name]
    embed_time = expert.condition_embedder.embed_time
    expert.condition_embedder.embed_time = lambda timestep: times.append(float(timestep.max())) or embed_time(timestep)
    run_on_walk(name, expert, world.config)
    schedule = [float(level) for level in world.config.schedule]
    expected = [1000 * level for level in schedule if world.experts.name_at(level) == name]
    assert times == pytest.approx(expected) and len(expected) == 2
    single = world.config.model_copy(update={"experts": ("high",)})
    assert served_levels("high", single) == pytest.approx(schedule)


def test_errors_depend_on_the_walk_that_the_config_describes():
    """A gate of zero hides the camera; with the gate open, larger steps change rays and so the errors."""

    def errors(move_units: float, gate: float) -> list[float]:
        world = tiny_world(camera_gate=gate)
        world.config = world.config.model_copy(update={"move_units": move_units})
        return [layer["error"] for layer in quantize_experts(world, QuantizeSettings())["layers"]]

    assert errors(0.02, 1.0) != errors(1.0, 1.0) and errors(0.02, 0.0) == errors(1.0, 0.0)
