"""Autoregressive flow matching (eq. 7 to 12)."""

import pytest
import torch

from moworld.distillation.autoregressive import (
    autoregressive_loss,
    continued,
    ground_truth_window,
    last_chunk,
    random_windows,
    rollout_of,
    train_autoregressive,
)
from moworld.distillation.settings import AutoregressiveSettings
from moworld.model.rollout import roll_out
from moworld.model.settings import HistoryPolicy
from moworld.training.settings import OptimizerSettings
from moworld.training.trainer import Run
from tests.moworld.worlds import tiny_batch, tiny_world


@pytest.mark.parametrize(("latents", "chunk", "expected"), [(4, 3, 0), (7, 3, 1), (9, 3, 1), (10, 3, 2), (49, 3, 15)])
def test_the_last_chunk_is_the_last_complete_one(latents: int, chunk: int, expected: int) -> None:
    assert last_chunk(latents, chunk) == expected


def test_a_window_has_ground_truth_history_and_the_anchor_but_no_future_frame() -> None:
    batch, policy = tiny_batch(10), HistoryPolicy(recent=2, camera=1)
    window, clean = ground_truth_window(batch, 2, 3, policy)
    assert torch.equal(clean, batch["latents"][:, :, 6:10])
    assert window.frame_ids[:, -4:].tolist() == [[6, 7, 8, 9]] * 2
    known = window.frame_ids[:, : policy.num_frames]
    assert (known < 6).all() and {0, 4, 5} <= set(known[0].tolist())
    for position, frame in enumerate(known[0].tolist()):
        assert torch.equal(window.history[0, :, position], batch["latents"][0, :, frame])
    anchor = window.condition[:, :, policy.num_frames]
    assert (anchor[:, :4] == 1).all() and torch.equal(anchor[:, 4:], batch["latents"][:, :, 6])
    assert (window.condition[:, :, policy.num_frames + 1 :] == 0).all()


def test_the_history_of_the_first_chunk_is_the_first_frame() -> None:
    batch, policy = tiny_batch(4), HistoryPolicy(recent=2, camera=2)
    window, _ = ground_truth_window(batch, 0, 3, policy)
    assert window.frame_ids[0].tolist() == [0] * 5 + [0, 1, 2, 3]
    assert torch.equal(window.history, batch["latents"][:, :, :1].expand(-1, -1, 5, -1, -1))


def test_the_loss_is_flow_loss_plus_weighted_anchor_loss() -> None:
    optimizer = OptimizerSettings(lr=1e-3)
    world, batch = tiny_world(), tiny_batch(7)
    for weight in (0.0, 1.0, 2.0):
        settings = AutoregressiveSettings(frames=25, batch=2, steps=1, optimizer=optimizer, anchor_weight=weight)
        loss, parts = autoregressive_loss(world, "low", batch, settings, torch.Generator().manual_seed(0))
        assert loss.item() == pytest.approx(parts["flow"] + weight * parts["anchor"], rel=1e-5)
        assert parts["anchor"] > 0


def test_exposure_trains_on_recorded_chunks_after_the_models_own() -> None:
    world, batch = tiny_world(), tiny_batch(13)
    windows = random_windows(world, batch, 3, torch.Generator().manual_seed(0), torch.Generator().manual_seed(1))
    assert len(windows) == 4  # a clip of four chunks: the first is number 0
    seen = continued(world, batch, 0, 3, torch.Generator().manual_seed(1))
    for chunk, (window, clean) in enumerate(windows):
        assert torch.equal(clean, batch["latents"][:, :, 3 * chunk : 3 * chunk + 4]), "the aim is what was recorded"
        anchor = window.condition[:, 4:, world.config.model.history.num_frames]
        assert torch.equal(anchor, seen[:, :, 3 * chunk]) and not window.history.requires_grad
        assert torch.equal(anchor, batch["latents"][:, :, 3 * chunk]) == (chunk == 0), "the first chunk continues the recording"


def test_a_continuation_from_the_first_frame_is_the_rollout_that_serves() -> None:
    world, batch = tiny_world(), tiny_batch(7)
    seen = continued(world, batch, 0, 2, torch.Generator().manual_seed(3))
    rollout = rollout_of(world, batch, torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = roll_out(rollout, batch["c2w"][:, 1:], batch["intrinsics"][:, 1:])
    torch.testing.assert_close(seen, expected)


def test_training_lowers_the_loss_of_both_experts_on_one_batch() -> None:
    optimizer = OptimizerSettings(lr=1e-2)
    settings = AutoregressiveSettings(frames=13, batch=2, steps=30, optimizer=optimizer, camera_dropout=0, text_dropout=0)
    batch = tiny_batch(4)
    batch["latents"] = batch["latents"][:, :, :1].expand(-1, -1, 4, -1, -1).clone()  # a static clip is learned in few steps
    world = tiny_world()
    curves = train_autoregressive(world, settings, Run(lambda start: iter(lambda: batch, None), seed=0))
    for name in ("high", "low"):
        values = [value for _, value in curves[f"{name} flow"]]
        assert sum(values[-10:]) < 0.8 * sum(values[:10])
