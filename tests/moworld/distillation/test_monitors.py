"""The monitor detects a collapsed student, and no other."""

import pytest
import torch

from moworld.distillation.monitors import CollapseMonitor, measures
from moworld.distillation.phases import distill
from moworld.distillation.settings import DistillSettings, MonitorSettings
from moworld.training.settings import OptimizerSettings
from moworld.training.trainer import Run
from tests.moworld.worlds import batches_from, tiny_world

RECORDED = torch.randn(2, 16, 7, 4, 4, generator=torch.Generator().manual_seed(0))
COLLAPSED = {
    "motion": RECORDED[:, :, :1].expand_as(RECORDED) * 1.0,  # a still
    "contrast": RECORDED * 0.1,
    "chunk_drift": torch.cat([RECORDED[:, :, :4], 4 * RECORDED[:, :, 4:]], dim=2),
}


def watch(rollout: torch.Tensor, steps: int = 3) -> str:
    monitor = CollapseMonitor(MonitorSettings(window=3, least_motion=0.05, contrast=(0.4, 9.0)), torch.nn.Linear(1, 1))
    return [monitor.watch(measures(rollout, RECORDED, 3)) for _ in range(steps)][-1]


@pytest.mark.parametrize("name", COLLAPSED)
def test_each_kind_of_collapse_is_reported(name: str) -> None:
    assert watch(COLLAPSED[name]).startswith(name)
    assert watch(COLLAPSED[name], steps=2) == ""  # fewer steps than the window


def test_recorded_footage_is_accepted_and_nan_is_a_collapse() -> None:
    assert measures(RECORDED, RECORDED, 3)["motion"] == 1.0 and watch(RECORDED) == ""
    assert watch(RECORDED * float("nan"))


def test_restore_resets_the_last_weights_within_bounds() -> None:
    module = torch.nn.Linear(2, 2)
    monitor, good = CollapseMonitor(MonitorSettings(window=1), module), module.weight.detach().clone()
    assert monitor.watch({"motion": 1.0, "contrast": 1.0, "chunk_drift": 1.0}) == ""
    with torch.no_grad():
        module.weight += 1
    assert monitor.watch({"motion": 0.0, "contrast": 1.0, "chunk_drift": 1.0}).startswith("motion 0 over 1 steps")
    monitor.restore()
    assert torch.equal(module.weight, good)


def test_a_collapsed_distillation_ends_with_the_weights_before_the_collapse() -> None:
    student, teacher = tiny_world(), tiny_world(1)
    rate = OptimizerSettings(lr=1e-3)
    settings = DistillSettings(
        chunks=2, batch=2, steps=6, fake_steps=1, student=rate, fake=rate, monitor=MonitorSettings(window=2, least_motion=50.0)
    )
    before = {name: value.clone() for name, value in student.experts.state_dict().items()}
    curves, reason = distill(student, teacher, settings, Run(batches_from, seed=5))
    assert reason.startswith("motion") and len(curves["motion"]) == 2
    assert all(torch.equal(value, before[name]) for name, value in student.experts.state_dict().items())
