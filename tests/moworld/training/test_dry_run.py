"""The dry run's tracker: bytes by kind of a real training step on fake tensors, and values that small tensors keep."""

import pytest
import torch

from moworld.model.experts import Experts
from moworld.model.settings import ModelSettings
from moworld.model.transformer import MoWorldTransformer3DModel
from moworld.training.dry_run import fake_tensors
from moworld.training.loop import Learner
from moworld.training.objective import flow_matching_loss
from moworld.training.settings import OptimizerSettings


def batch_of(frames: int, text_dim: int) -> dict[str, torch.Tensor]:
    cameras = {
        "c2w": torch.eye(4).expand(1, 4 * frames - 3, 4, 4),
        "intrinsics": torch.tensor([0.5, 0.9, 0.5, 0.5]).expand(1, 4 * frames - 3, 4),
    }
    return {"latents": torch.empty(1, 16, frames, 60, 104), "text": torch.empty(1, 512, text_dim), **cameras}


@pytest.mark.parametrize("frames", [2, 5])
def test_one_rank_holds_weights_gradients_and_two_moments_of_each_parameter(frames):
    sizes = {"num_layers": 2, "num_attention_heads": 8, "attention_head_dim": 128, "ffn_dim": 4096, "text_dim": 4096}
    model = ModelSettings(**sizes, camera_gate=1.0)
    with fake_tensors() as tracker:
        expert = MoWorldTransformer3DModel(**model.transformer())
        count = sum(parameter.numel() for parameter in expert.parameters())
        learner = Learner(expert, OptimizerSettings(lr=1e-4), 2)
        learner.state()
        tracker.start_step([expert], [learner.optimizer])
        loss = flow_matching_loss(Experts(expert, None, 0.9), "high", batch_of(frames, 4096), 5.0, torch.Generator())
        before = tracker.peak()
        learner.step(loss)
        peak = tracker.peak()
    assert before.gradients == 0 < before.activations
    assert peak.parameters == pytest.approx(4 * count, rel=0.01) and peak.optimizer == pytest.approx(8 * count, rel=0.01)
    assert peak.gradients <= 4 * count * 1.01 and peak.gathered == 0
    assert peak.total == peak.parameters + peak.gradients + peak.optimizer + peak.activations


def test_large_tensors_have_no_memory_and_small_ones_keep_their_values():
    with fake_tensors() as tracker:
        large = torch.empty(1000, 1000, 1000, 1000)
        draw = torch.rand((), generator=torch.Generator().manual_seed(3))
        assert torch.isfinite(large.mean()) and float(large.mean()) == 1.0
        tracker.start_step([])
        assert tracker.peak().activations >= 4e12
    assert float(draw) == float(torch.rand((), generator=torch.Generator().manual_seed(3)))
