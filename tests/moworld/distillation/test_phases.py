"""Self-forcing over ranks and over interruptions, the order of its phases, and what it learns where the law is known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from moworld.distillation.monitors import MonitorSettings
from moworld.distillation.phases import DistillSettings, SelfForcing, distill
from moworld.model.experts import Experts
from moworld.model.history import HistoryPolicy
from moworld.model.world import WorldModel
from moworld.training.checkpoint import Checkpoints
from moworld.training.loop import OptimizerSettings
from moworld.training.parallel import Ranks
from tests.moworld.ranks import joined, run_ranks
from tests.moworld.worlds import batches_from, tiny_batch, tiny_world

RATE = OptimizerSettings(lr=5e-4, betas=(0.0, 0.999), average=0.9)
LOOSE = MonitorSettings(window=2, least_motion=0.0, contrast=(0.0, 1e6), chunk_drift=(0.0, 1e6))
SETTINGS = DistillSettings(
    chunks=2, batch=4, steps=4, fake_steps=2, student=RATE, fake=RATE, guidance=2.0, monitor=LOOSE, checkpoint_every=1
)


def whole(experts: Experts) -> dict[str, torch.Tensor]:
    state = experts.state_dict()
    return {key: value.full_tensor() if hasattr(value, "full_tensor") else value for key, value in state.items()}


def distilled(ranks: Ranks, checkpoints: Checkpoints | None = None, until: int | None = None) -> tuple[dict[str, torch.Tensor], dict]:
    """The student's weights and the curves; `until` ends the batches early, as a kill would."""

    def from_number(start: int):
        for number in range(start, 10_000):
            if until is not None and number >= until * (SETTINGS.fake_steps + 1):
                raise KeyboardInterrupt
            yield {key: ranks.of_global(value) for key, value in tiny_batch(7, 4, seed=number).items()}

    student = tiny_world(1, num_attention_heads=4)
    curves, reason = distill(student, tiny_world(0, num_attention_heads=4), from_number, SETTINGS, 5, ranks, checkpoints)
    assert reason == ""
    return whole(student.experts), curves


def on_ranks(rank: int, ulysses: int, ring: int) -> dict[str, torch.Tensor]:
    weights, curves = distilled(joined(ulysses, ring))
    return {**weights, **{f"curve {name}": torch.tensor(values, dtype=torch.float64) for name, values in curves.items()}}


@pytest.fixture(scope="module")
def alone() -> tuple[dict[str, torch.Tensor], dict]:
    return distilled(Ranks())


@pytest.mark.parametrize(
    ("world", "ulysses", "ring"),
    [(2, 1, 1), (2, 2, 1), pytest.param(2, 1, 2, marks=pytest.mark.slow), pytest.param(4, 2, 1, marks=pytest.mark.slow)],
    ids=["fsdp2", "ulysses2", "ring2", "ulysses2-data2"],
)
def test_ranks_distil_what_one_does(alone, world, ulysses, ring):
    weights, curves = alone
    for found in run_ranks(world, on_ranks, ulysses, ring):
        for name, values in curves.items():
            torch.testing.assert_close(found[f"curve {name}"], torch.tensor(values, dtype=torch.float64), rtol=1e-3, atol=1e-4)
        for name, weight in weights.items():
            # The first moment is 0, so a step is the gradient's sign: where that is rounding alone, it may differ by whole steps, but not often.
            apart = (found[name] - weight).abs()
            assert apart.mean() <= 5e-6 and apart.max() <= SETTINGS.steps * RATE.lr, name


@pytest.mark.parametrize("cuts", [(1,), (2, 3)])
def test_a_distillation_that_was_cut_ends_with_the_weights_of_one_that_was_not(alone, tmp_path, cuts):
    for cut in cuts:
        checkpoints = Checkpoints(tmp_path / "kept", SETTINGS.checkpoint_every, {"seed": 5})
        with pytest.raises(KeyboardInterrupt):
            distilled(Ranks(), checkpoints, cut)
        checkpoints.wait()
        assert checkpoints.latest()[0] == cut
    weights, curves = distilled(Ranks(), Checkpoints(tmp_path / "kept", SETTINGS.checkpoint_every, {"seed": 5}))
    assert curves == alone[1]
    assert all(torch.equal(weights[name], weight) for name, weight in alone[0].items())


def test_the_teacher_is_first_asked_in_the_first_student_phase():
    student, teacher = tiny_world(1), tiny_world(0)
    forcing = SelfForcing(student, teacher, SETTINGS, 5, Ranks())
    asked: list[str] = []
    for name, expert in teacher.experts.named_experts():
        expert.register_forward_hook(lambda *_, name=name: asked.append(name))
    batches = batches_from(0)
    for _ in range(SETTINGS.fake_steps):
        forcing.fake_phase(next(batches))
    assert asked == []
    forcing.student_phase(next(batches))
    assert len(asked) == 2  # with text and without, for guidance; not one sampling step


# A law that can be sampled: each pair of latent channels is a point of the plane, drawn from a Gaussian.

CENTRE, SPREAD = torch.tensor([-1.0, 0.5]), 0.35


class Plane(torch.nn.Module):
    """The exact velocity field of a Gaussian in the plane whose place and width are learned, and a small network added to it.

    The field alone makes one point of pure noise, so the network starts away from zero: something to spread.
    """

    config = SimpleNamespace(block_causal=False)

    def __init__(self, centre: torch.Tensor, spread: float, added: float) -> None:
        super().__init__()
        self.centre, self.log_spread = torch.nn.Parameter(centre.clone()), torch.nn.Parameter(torch.tensor(spread).log())
        self.added = torch.nn.Sequential(
            torch.nn.Linear(3, 48), torch.nn.SiLU(), torch.nn.Linear(48, 48), torch.nn.SiLU(), torch.nn.Linear(48, 2)
        )
        torch.nn.init.normal_(self.added[-1].weight, std=added)
        torch.nn.init.zeros_(self.added[-1].bias)

    def forward(self, hidden_states, timestep, **_):
        spread = self.log_spread.exp()
        noisy = hidden_states[:, :16].unflatten(1, (8, 2)).movedim(2, -1)  # (B, 8, F, h, w, 2)
        level = (timestep if timestep.ndim == 2 else timestep[:, None].expand(-1, noisy.shape[2])) / 1000
        level = level[:, None, :, None, None, None].clamp_min(1e-3)
        variance = ((1 - level) * spread) ** 2 + level**2
        clean = self.centre + (1 - level) * spread**2 / variance * (noisy - (1 - level) * self.centre)
        velocity = (noisy - clean) / level + self.added(torch.cat([noisy, level.expand_as(noisy[..., :1])], dim=-1))
        return velocity.movedim(-1, 2).flatten(1, 2)

    def prepare(self, hidden_states, **_):
        return None

    def denoise(self, hidden_states, timestep, prepared):
        return self(hidden_states, timestep)

    def share_sequence(self, mesh):
        assert mesh is None


def world_of(centre: torch.Tensor, spread: float, added: float) -> WorldModel:
    """One step, because what meets the teacher's law is the student's law over all its exit steps together."""
    made = tiny_world(history=HistoryPolicy(recent=0, camera=0), shift=1.0, student_steps=1)
    made.experts = Experts(Plane(centre, spread, added), Plane(centre, spread, added), 0.9)
    return made


def plane_batch(number: int) -> dict[str, torch.Tensor]:
    batch = tiny_batch(4, batch=8, seed=number)
    return {**batch, "latents": batch["latents"][..., :2, :2]}


def points_of(world: WorldModel, seed: int) -> np.ndarray:
    """Points of the plane that the student makes, (768, 2)."""
    from moworld.evaluation.protocol import student_rollout

    made = student_rollout(world, plane_batch(seed), seed)[:, :, 1:]
    return made.unflatten(1, (8, 2)).movedim(2, -1).reshape(-1, 2).numpy()


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Szekely and Rizzo's distance of two samples of the plane: 0 for one law."""
    apart = lambda x, y: np.linalg.norm(x[:, None] - y[None], axis=-1).mean()  # noqa: E731
    return float(2 * apart(a, b) - apart(a, a) - apart(b, b))


def p_value(a: np.ndarray, b: np.ndarray, rounds: int = 60) -> float:
    """Share of random splits of both samples that are at least as far apart."""
    generator, both, found = np.random.default_rng(0), np.concatenate([a, b]), energy_distance(a, b)
    splits = (generator.permutation(both) for _ in range(rounds))
    return (1 + sum(energy_distance(split[: len(a)], split[len(a) :]) >= found for split in splits)) / (rounds + 1)


@pytest.mark.slow
def test_on_a_law_of_the_plane_the_student_comes_to_the_teachers():
    torch.manual_seed(0)
    drawn = (CENTRE + SPREAD * torch.randn(768, 2)).numpy()
    teacher, student = world_of(CENTRE, SPREAD, 0.0), world_of(torch.zeros(2), 0.8, 0.3)
    before = points_of(student, 1)
    assert p_value(before[:100], drawn[:100]) < 0.02  # the test tells them apart
    settings = DistillSettings(
        chunks=1, batch=8, steps=600, fake_steps=5, monitor=LOOSE,
        student=OptimizerSettings(lr=5e-3, betas=(0.0, 0.99), final_lr=0.05, average=0.98, weight_decay=0.0),
        fake=OptimizerSettings(lr=5e-3, betas=(0.0, 0.99), final_lr=0.1, weight_decay=0.0),
    )  # fmt: skip
    _, reason = distill(student, teacher, lambda start: map(plane_batch, range(start, 10_000)), settings, 3)
    assert reason == ""
    after = points_of(student, 1)
    assert energy_distance(after, drawn) < 0.03 * energy_distance(before, drawn)
    assert p_value(after[:100], drawn[:100]) > 0.02
