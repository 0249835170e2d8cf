"""The losses of paper 3 and 4 against slow derivations from their definitions, in float64 and by autograd.

The derivations share only the transformer with the product: no noising, velocity, window layout or loss code.
"""

import pytest
import torch

from moworld.distillation.autoregressive import autoregressive_loss
from moworld.distillation.dmd import dmd_direction, fake_loss, student_loss
from moworld.distillation.phases import score_windows, student_rollout
from moworld.distillation.settings import AutoregressiveSettings
from moworld.distillation.starts import consistency_loss
from moworld.model.latent_cameras import LatentCameras
from moworld.model.settings import HistoryPolicy
from moworld.model.window import make_window
from moworld.training.objective import flow_matching_loss
from moworld.training.settings import OptimizerSettings
from tests.moworld.worlds import tiny_batch, tiny_world

SHIFT, BOUNDARY = 5.0, 0.9
SETTINGS = AutoregressiveSettings(frames=25, batch=2, steps=1, optimizer=OptimizerSettings(lr=1.0), camera_dropout=0.0, text_dropout=0.0)


@pytest.fixture(scope="module")
def world():
    made = tiny_world(history=HistoryPolicy(recent=1, camera=0))
    made.experts.double()
    for parameter in made.experts.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(parameter)))
    return made


@pytest.fixture
def batch():
    return {key: value.double() if value.is_floating_point() else value for key, value in tiny_batch(7).items()}


def rays_of(batch, frames, about):
    """Returns the grouped rays of latent frames, with poses relative to latent frame `about`."""
    cameras = LatentCameras.from_frames(batch["intrinsics"], batch["c2w"])
    return cameras.gather(torch.tensor(frames).expand(2, -1)).relative_to(cameras.last_pose(about)).rays(16, 32).to(batch["latents"])


def field(expert, batch, noisy, level, given, about, history=()):
    """Returns v(z_t, t) of latent frames about .. about + F, with Wan's input layout assembled by hand.

    noisy: (B, 16, F, h, w); level: (B,); given: (B, 16, 1, h, w), the known first frame; history: ids of ground-truth latent frames
    """
    known = [batch["latents"][:, :, i] for i in history]
    frames = noisy.shape[2]
    columns = []
    for clean in known:  # history: clean latents, mask 1, and the latents again as the condition
        columns.append(torch.cat([clean, torch.ones_like(clean[:, :4]), clean], dim=1))
    for index in range(frames):
        first = given[:, :, 0] if index == 0 else torch.zeros_like(given[:, :, 0])
        columns.append(torch.cat([noisy[:, :, index], torch.full_like(first[:, :4], float(index == 0)), first], dim=1))
    timestep = torch.stack([torch.zeros_like(level)] * len(known) + [1000 * level] * frames, dim=1)
    ids = [*history, *range(about, about + frames)]
    answer = expert(
        torch.stack(columns, dim=2),
        timestep if known else 1000 * level,
        encoder_hidden_states=batch["text"],
        camera=rays_of(batch, ids, about),
        frame_ids=torch.tensor(ids).expand(2, -1),
        return_dict=False,
    )[0]
    return answer[:, :, len(known) :]


def path(clean, noise):
    """Returns z_t as a function of t: the straight line from data to noise (eq. 14); its derivative is the velocity."""
    return lambda t: clean + t * (noise - clean)


def target_of(clean, noise, level):
    """Returns v_t = dz_t / dt by forward differentiation."""
    return torch.func.jvp(path(clean, noise), (level,), (torch.ones_like(level),))[1]


def level_of(uniform, low, high):
    """Returns shifted levels between two levels of uniform variables, by bisection of t -> u instead of the closed inverse."""

    def before(level):
        a, b = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
        for _ in range(80):
            middle = (a + b) / 2
            a, b = (middle, b) if SHIFT * middle / (1 + (SHIFT - 1) * middle) < level else (a, middle)
        return (a + b) / 2

    u = before(low) + (before(high) - before(low)) * uniform
    return SHIFT * u / (1 + (SHIFT - 1) * u)


def drawn(seed, shape, low, high, skipped):
    """Returns the levels and the noise that the loss draws after `skipped` (integers or uniforms)."""
    generator = torch.Generator().manual_seed(seed)
    for draw in skipped:
        draw(generator)
    level = level_of(torch.rand(2, generator=generator, dtype=torch.float64), low, high).float().double()
    return level, torch.randn(shape, generator=generator).double()


def gradients(loss, experts):
    found = torch.autograd.grad(loss, list(experts.parameters()), allow_unused=True)
    return [torch.zeros(()) if one is None else one for one in found]


def assert_same(found, derived, experts):
    torch.testing.assert_close(found, derived, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(gradients(found, experts), gradients(derived, experts), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def dropping(generator):
    torch.rand(2, 2, generator=generator)


@pytest.mark.parametrize(("name", "low", "high"), [("high", BOUNDARY, 1.0), ("low", 0.0, BOUNDARY)])
def test_flow_matching_is_eq_1(world, batch, name, low, high):
    clean = batch["latents"]
    level, noise = drawn(3, clean.shape, low, high, [dropping])
    at = level[:, None, None, None, None]
    error = field(getattr(world.experts, name), batch, path(clean, noise)(at), level, clean[:, :, :1], 0) - target_of(clean, noise, at)
    derived = torch.stack([error[:, :, i].square().mean() for i in range(1, 7)]).mean()  # the first frame is given
    found = flow_matching_loss(world.experts, name, batch, SHIFT, torch.Generator().manual_seed(3))
    assert_same(found, derived, world.experts)


@pytest.mark.parametrize(("seed", "weight"), [(0, 1.0), (1, 1.0), (2, 0.0)])
def test_autoregressive_matching_is_eq_7_to_12(world, batch, seed, weight):
    chunk = int(torch.randint(2, (), generator=torch.Generator().manual_seed(seed)))  # i_max = 6 / 3 - 1
    start = 3 * chunk
    clean = batch["latents"][:, :, start : start + 4]
    level, noise = drawn(seed, clean.shape, 0.0, BOUNDARY, [lambda g: torch.randint(2, (), generator=g), dropping])
    at = level[:, None, None, None, None]
    history = [0, start - 1] if chunk else [0, 0]  # the first frame and the one before the anchor; the first chunk has the first frame only
    noisy = path(clean, noise)(at)
    predicted = field(world.experts.low, batch, noisy, level, clean[:, :, :1], start, history)
    flow = (predicted - target_of(clean, noise, at))[:, :, 1:].square().mean()
    anchor = (noisy - at * predicted - clean)[:, :, 0].square().mean()
    settings = SETTINGS.model_copy(update={"anchor_weight": weight})
    found, parts = autoregressive_loss(world, "low", batch, settings, torch.Generator().manual_seed(seed))
    assert parts == pytest.approx({"flow": flow.item(), "anchor": anchor.item()}, rel=1e-9)
    assert_same(found, flow + weight * anchor, world.experts)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("name", "served"), [("high", [0, 1]), ("low", [2, 3])])
def test_the_consistency_loss_compares_a_prediction_with_the_targets_at_the_next_level(world, batch, name, served, seed):
    """Four levels at shift 5, two per expert: the target of level 1 is the low-noise expert, the target of level 3 the data."""
    levels = [5 * u / (1 + 4 * u) for u in (1, 0.75, 0.5, 0.25)]
    target = tiny_world(5, history=HistoryPolicy(recent=1, camera=0)).experts.double()
    generator = torch.Generator().manual_seed(seed)
    start = 3 * int(torch.randint(2, (), generator=generator))
    index = served[int(torch.randint(2, (), generator=generator))]
    clean = batch["latents"][:, :, start : start + 4]
    noise = torch.randn(clean.shape, generator=generator).double()
    history = [0, start - 1] if start else [0, 0]

    def seen(experts, at):
        level = torch.full((2,), levels[at], dtype=torch.float64)
        noisy = path(clean, noise)(level[:, None, None, None, None])
        expert = experts.high if levels[at] >= BOUNDARY else experts.low
        return noisy - levels[at] * field(expert, batch, noisy, level, clean[:, :, :1], start, history)

    aim = seen(target, index + 1).detach() if index < 3 else clean
    derived = (seen(world.experts, index) - aim)[:, :, 1:].square().mean()
    found, parts = consistency_loss(world, target, name, batch, torch.Generator().manual_seed(seed))
    assert parts == {"consistency": pytest.approx(derived.item(), rel=1e-9)}
    assert_same(found, derived, world.experts)


def bidirectional(batch):
    cameras = LatentCameras.from_frames(batch["intrinsics"], batch["c2w"])
    return make_window(batch["latents"][:, :, :1], cameras, batch["first_latent"], batch["text"])


@pytest.mark.parametrize("level", [0.4, 0.95])
def test_the_fake_phase_is_eq_14_and_15(world, batch, level):
    rollout = torch.randn(batch["latents"].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rollout[:, :, 0] = batch["latents"][:, :, 0]
    noise = torch.randn(rollout.shape, generator=torch.Generator().manual_seed(2)).double()
    expert, levels = world.experts.high if level >= BOUNDARY else world.experts.low, torch.full((2,), level, dtype=torch.float64)
    at = levels[:, None, None, None, None]
    predicted = field(expert, batch, path(rollout, noise)(at), levels, batch["latents"][:, :, :1], 0)
    derived = (predicted - target_of(rollout, noise, at))[:, :, 1:].square().mean()
    found = fake_loss(world.experts, rollout, bidirectional(batch), level, torch.Generator().manual_seed(2))
    torch.testing.assert_close(found, derived, rtol=1e-6, atol=0)


def test_the_student_phase_is_eq_16_to_18_and_its_gradient_reaches_the_rollout_alone(world):
    """By finite differences, the gradient in a weight is g times the rollout's with g fixed, and differs with g moving."""
    batch = {key: value.double() if value.is_floating_point() else value for key, value in tiny_batch(4).items()}
    # A seed whose exit step is the first: then gradients pass through the whole rollout, and finite differences apply.
    seed = next(seed for seed in range(99) if int(torch.randint(4, (), generator=torch.Generator().manual_seed(seed))) == 0)
    teacher, fake = tiny_world(3), tiny_world(4)
    for other in (teacher, fake):
        other.experts.double()
    first, level = batch["latents"][:, :, :1], 0.5
    noise = torch.randn(batch["latents"].shape, generator=torch.Generator().manual_seed(2)).double()
    at = torch.full((2, 1, 1, 1, 1), level, dtype=torch.float64)

    def rolled():
        return student_rollout(world, batch, torch.Generator().manual_seed(seed))

    ((window, _),) = score_windows(rolled()[0], batch, world.config.model, "bidirectional")

    @torch.no_grad()
    def derived(rollout):
        noisy = path(rollout, noise)(at)
        real, made = (field(experts.low, batch, noisy, at.flatten(), first, 0) for experts in (teacher.experts, fake.experts))
        distance = (rollout - (noisy - at * real))[:, :, 1:].abs().mean(dim=(1, 2, 3, 4), keepdim=True)
        direction = level * (real - made) / distance
        direction[:, :, 0] = 0
        return direction

    rollout, name = rolled()
    held = derived(rollout)
    direction = dmd_direction(teacher.experts, fake.experts, rollout, window, level, 1.0, torch.Generator().manual_seed(2))
    torch.testing.assert_close(direction, held, rtol=1e-6, atol=1e-9)
    world.experts.zero_grad()
    loss = student_loss(rollout, direction)
    torch.testing.assert_close(loss, (held * rollout).sum() / rollout.numel(), rtol=1e-6, atol=1e-9)
    loss.backward()
    assert all(p.grad is None for other in (teacher, fake) for p in other.experts.parameters())

    weight, step = getattr(world.experts, name).proj_out.bias, 1e-5
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[0] += sign * step
            moved = rolled()[0]
            values.append([float((g * moved).sum()) / rollout.numel() for g in (held, derived(moved))])
            weight[0] -= sign * step
    fixed, moving = ((up - down) / (2 * step) for up, down in zip(*values, strict=True))
    assert weight.grad[0].item() == pytest.approx(fixed, rel=1e-3)
    assert abs(moving - fixed) > 0.01 * abs(fixed)
    world.experts.zero_grad()


def test_the_loss_of_a_chunk_does_not_depend_on_later_frames(world, batch):
    """Changed frames after the first chunk change the loss of later chunks only (eq. 8)."""
    changed = {**batch, "latents": batch["latents"].clone()}
    changed["latents"][:, :, 4:] = 100.0
    for seed in range(8):
        first = int(torch.randint(2, (), generator=torch.Generator().manual_seed(seed))) == 0
        one, other = (
            autoregressive_loss(world, "high", each, SETTINGS, torch.Generator().manual_seed(seed))[0].item() for each in (batch, changed)
        )
        assert (one == other) is first
