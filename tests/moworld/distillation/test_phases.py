"""Self-forcing over ranks and over interruptions, the order of its phases, and what it learns where the law is known."""

import pytest
import torch

from moworld.distillation.monitors import MonitorSettings
from moworld.distillation.phases import DistillSettings, SelfForcing, distill
from moworld.model.experts import Experts
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
