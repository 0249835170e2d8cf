"""Self-forcing on several ranks and with interruptions, the order of its phases, and its result on a known distribution."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from moworld.distillation.phases import SelfForcing, distill
from moworld.distillation.settings import DistillSettings, MonitorSettings
from moworld.errors import InputError
from moworld.model.experts import Experts
from moworld.model.settings import HistoryPolicy
from moworld.model.world import WorldModel
from moworld.training.checkpoint import Checkpoints
from moworld.training.parallel import Ranks
from moworld.training.settings import OptimizerSettings
from moworld.training.trainer import Run
from tests.moworld.ranks import joined, run_ranks
from tests.moworld.worlds import batches_from, tiny_batch, tiny_world

RATE = OptimizerSettings(lr=5e-4, betas=(0.0, 0.999), average=0.9)
LOOSE = MonitorSettings(window=2, least_motion=0.0, contrast=(0.0, 1e6), chunk_drift=(0.0, 1e6))
SETTINGS = DistillSettings(
    chunks=2, batch=4, steps=3, fake_steps=2, student=RATE, fake=RATE, guidance=2.0, monitor=LOOSE, checkpoint_every=1
)


def whole(experts: Experts) -> dict[str, torch.Tensor]:
    state = experts.state_dict()
    return {key: value.full_tensor() if hasattr(value, "full_tensor") else value for key, value in state.items()}


def distilled(
    ranks: Ranks, checkpoints: Checkpoints | None = None, until: int | None = None, settings: DistillSettings = SETTINGS
) -> tuple[dict[str, torch.Tensor], dict]:
    """Returns the student's weights and the curves; `until` ends the batches early, like a kill."""

    def from_number(start: int):
        for number in range(start, 10_000):
            if until is not None and number >= until * (SETTINGS.fake_steps + 1):
                raise KeyboardInterrupt
            yield {key: ranks.of_global(value) for key, value in tiny_batch(7, 4, seed=number).items()}

    student = tiny_world(1, num_attention_heads=4)
    curves, reason = distill(student, tiny_world(0, num_attention_heads=4), settings, Run(from_number, 5, ranks, checkpoints))
    assert reason == ""
    return whole(student.experts), curves


def on_ranks(rank: int, ulysses: int, ring: int, saving: bool) -> dict[str, torch.Tensor]:
    ranks = joined(ulysses, ring, checkpoint_activations=saving)
    weights, curves = distilled(ranks, settings=SETTINGS.model_copy(update={"offload_teacher": saving}))
    return {**weights, **{f"curve {name}": torch.tensor(values, dtype=torch.float64) for name, values in curves.items()}}


@pytest.fixture(scope="module")
def alone() -> tuple[dict[str, torch.Tensor], dict]:
    return distilled(Ranks())


@pytest.mark.parametrize(
    ("world", "ulysses", "ring", "saving"),
    [
        (2, 1, 1, False),
        (2, 1, 1, True),
        pytest.param(2, 1, 2, False, marks=pytest.mark.slow),
        pytest.param(4, 2, 1, True, marks=pytest.mark.slow),
    ],
    ids=["fsdp2", "fsdp2-saving-memory", "ring2", "ulysses2-data2"],
)
def test_ranks_distil_like_one(alone, world, ulysses, ring, saving):
    weights, curves = alone
    for found in run_ranks(world, on_ranks, ulysses, ring, saving):
        for name, values in curves.items():
            torch.testing.assert_close(found[f"curve {name}"], torch.tensor(values, dtype=torch.float64), rtol=1e-3, atol=1e-4)
        for name, weight in weights.items():
            # The first moment is 0, so a step is the gradient's sign: a gradient that is only rounding may flip a step, but rarely.
            error = (found[name] - weight).abs()
            assert error.mean() <= 5e-6 and error.max() <= SETTINGS.steps * RATE.lr, name


def test_a_teacher_that_is_not_sharded_cannot_stay_on_the_host():
    with pytest.raises(InputError, match="found one rank in float32, expected sharded weights"):
        distilled(Ranks(), settings=SETTINGS.model_copy(update={"offload_teacher": True}))


def test_interruptions_do_not_change_the_weights(alone, tmp_path):
    for cut in (1, 2):
        checkpoints = Checkpoints(tmp_path / "kept", SETTINGS.checkpoint_every, {"seed": 5})
        with pytest.raises(KeyboardInterrupt):
            distilled(Ranks(), checkpoints, cut)
        checkpoints.wait()
        assert checkpoints.latest()[0] == cut
    weights, curves = distilled(Ranks(), Checkpoints(tmp_path / "kept", SETTINGS.checkpoint_every, {"seed": 5}))
    assert curves == alone[1]
    assert all(torch.equal(weights[name], weight) for name, weight in alone[0].items())


def test_the_first_teacher_evaluation_is_in_the_first_student_phase():
    student, teacher = tiny_world(1), tiny_world(0)
    forcing = SelfForcing(student, teacher, SETTINGS, 5, Ranks())
    evaluated: list[str] = []
    for name, expert in teacher.experts.named_experts():
        expert.register_forward_hook(lambda *_, name=name: evaluated.append(name))
    batches = batches_from(0)
    for _ in range(SETTINGS.fake_steps):
        forcing.fake_phase(next(batches))
    assert evaluated == []
    forcing.student_phase(next(batches))
    assert len(evaluated) == 2  # with and without text, for guidance; no sampling step


def test_learning_rates_end_at_their_final_value_although_each_expert_learns_in_some_steps_only():
    rate = OptimizerSettings(lr=1e-3, final_lr=0.1)
    settings = SETTINGS.model_copy(update={"student": rate, "fake": rate, "steps": 4})
    forcing, batches, rates = SelfForcing(tiny_world(1), tiny_world(0), settings, 5, Ranks()), batches_from(0), {"student": [], "fake": []}
    for _ in range(settings.steps):
        for kind, phase in (("fake", forcing.fake_phase), ("fake", forcing.fake_phase), ("student", forcing.student_phase)):
            before = {name: learner.steps for name, learner in forcing.learners.items()}
            phase(next(batches))
            (moved,) = (learner for name, learner in forcing.learners.items() if learner.steps > before[name])
            rates[kind].append(moved.optimizer.param_groups[0]["lr"])
    for kind, count in (("student", 4), ("fake", 8)):
        assert rates[kind] == sorted(rates[kind], reverse=True) and len(rates[kind]) == count
        cosine = [1e-3 * (0.1 + 0.45 * (1 + np.cos(np.pi * step / count))) for step in range(count)]
        assert rates[kind] == pytest.approx(cosine)


# A known distribution: each pair of latent channels is a point of the plane, drawn from a Gaussian.

CENTRE, SPREAD = torch.tensor([-1.0, 0.5]), 0.35


class Plane(torch.nn.Module):
    """The exact velocity field of a Gaussian in the plane with learned centre and width, plus a small network.

    The field alone maps pure noise to one point, so the network is initialised with nonzero weights.
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
        return (velocity.movedim(-1, 2).flatten(1, 2),)

    def prepare(self, hidden_states, **_):
        return None

    def denoise(self, hidden_states, timestep, prepared):
        return self(hidden_states, timestep)[0]

    def share_sequence(self, mesh):
        assert mesh is None


def world_of(centre: torch.Tensor, spread: float, added: float) -> WorldModel:
    """Has one step, because only the student's mixture over all exit steps matches the teacher's distribution."""
    made = tiny_world(history=HistoryPolicy(recent=0, camera=0), shift=1.0, student_steps=1)
    made.experts = Experts(Plane(centre, spread, added), Plane(centre, spread, added), 0.9)
    return made


def plane_batch(number: int) -> dict[str, torch.Tensor]:
    batch = tiny_batch(4, batch=8, seed=number)
    return {**batch, "latents": batch["latents"][..., :2, :2]}


def points_of(world: WorldModel, seed: int) -> np.ndarray:
    """Returns the points of the plane that the student generates, (768, 2)."""
    from moworld.evaluation.protocol import student_rollout

    made = student_rollout(world, plane_batch(seed), seed)[:, :, 1:]
    return made.unflatten(1, (8, 2)).movedim(2, -1).reshape(-1, 2).numpy()


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Returns Szekely and Rizzo's energy distance of two samples of the plane: 0 for equal distributions."""
    apart = lambda x, y: np.linalg.norm(x[:, None] - y[None], axis=-1).mean()  # noqa: E731
    return float(2 * apart(a, b) - apart(a, a) - apart(b, b))


def p_value(a: np.ndarray, b: np.ndarray, rounds: int = 60) -> float:
    """Returns the share of random splits of both samples with at least this distance."""
    generator, both, found = np.random.default_rng(0), np.concatenate([a, b]), energy_distance(a, b)
    splits = (generator.permutation(both) for _ in range(rounds))
    return (1 + sum(energy_distance(split[: len(a)], split[len(a) :]) >= found for split in splits)) / (rounds + 1)


@pytest.mark.slow
def test_the_student_converges_to_the_teachers_distribution():
    torch.manual_seed(0)
    drawn = (CENTRE + SPREAD * torch.randn(768, 2)).numpy()
    teacher, student = world_of(CENTRE, SPREAD, 0.0), world_of(torch.zeros(2), 0.8, 0.3)
    before = points_of(student, 1)
    assert p_value(before[:100], drawn[:100]) < 0.02  # the test distinguishes them
    settings = DistillSettings(
        chunks=1, batch=8, steps=600, fake_steps=5, monitor=LOOSE,
        student=OptimizerSettings(lr=5e-3, betas=(0.0, 0.99), final_lr=0.05, average=0.98, weight_decay=0.0),
        fake=OptimizerSettings(lr=5e-3, betas=(0.0, 0.99), final_lr=0.1, weight_decay=0.0),
    )  # fmt: skip
    _, reason = distill(student, teacher, settings, Run(lambda start: map(plane_batch, range(start, 10_000)), 3))
    assert reason == ""
    after = points_of(student, 1)
    assert energy_distance(after, drawn) < 0.03 * energy_distance(before, drawn)
    assert p_value(after[:100], drawn[:100]) > 0.02
