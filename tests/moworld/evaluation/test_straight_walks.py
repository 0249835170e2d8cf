"""Long straight walks from features alone: the metrics that release gates judge fading worlds by."""

import numpy as np
import pytest
import torch

from moworld.data.features import FeatureStore, FeatureWriter
from moworld.evaluation.metrics import METRICS
from moworld.evaluation.settings import BenchmarkSettings
from moworld.evaluation.straight_walks import drift, measure_straight_walks, separation, straight_actions
from tests.moworld.inference.worlds import served_world
from tests.moworld.worlds import tiny_batch

SIZE = (32, 48)


def noise(frames: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, *SIZE, 3), dtype=np.uint8)


def test_worlds_that_became_one_picture_differ_from_separate_ones() -> None:
    grey = [np.full((400, *SIZE, 3), 128, np.uint8) for _ in range(3)]
    assert separation(grey, 300) > 100
    assert separation([noise(400, seed) for seed in range(3)], 300) == pytest.approx(7.78, abs=0.1)  # of uniform noise: 1/6


def test_a_fading_video_drifts_and_a_steady_one_does_not() -> None:
    steady = [noise(200, 1)]
    fade = np.linspace(1, 0.1, 200)[:, None, None, None]
    fading = [(128 + (steady[0] - 128.0) * fade).astype(np.uint8)]
    assert drift(steady)["drift_contrast"] < 0.02 and abs(drift(steady)["late_drop"]) < 0.02
    assert drift(fading)["drift_contrast"] > 0.2 and drift(fading)["late_drop"] > 0.8


def test_the_keys_of_a_straight_walk_are_the_same_everywhere_and_mostly_w() -> None:
    actions = straight_actions(np.random.default_rng([5, 1]), 300)
    assert actions == straight_actions(np.random.default_rng([5, 1]), 300) and len(actions) == 300
    assert all("w" in action for action in actions) and 0.7 < np.mean([action == "w" for action in actions]) < 0.95


def store(folder, clips: int) -> FeatureStore:
    folder.mkdir()
    writer = FeatureWriter(folder)
    for index in range(clips):
        batch = tiny_batch(13, batch=1, seed=index)
        row = {"clip_id": f"c{index}", "split": "held_out", "scene": "s", "source": "v", "video_sha256": "0", "caption": "", "num_frames": 49}
        writer.add(row, {name: batch[name][0] for name in ("latents", "text", "c2w", "intrinsics")})
    writer.close()
    return FeatureStore(folder)


def test_a_model_that_shows_one_picture_has_excess_separation_and_no_contrast(tmp_path, monkeypatch) -> None:
    world, settings = served_world(tmp_path / "codec"), BenchmarkSettings(walk_starts=6, walk_frames=48)
    features = store(tmp_path / "features", 3)
    sane = measure_straight_walks(world, features, settings, 0)
    assert sane.keys() <= METRICS.keys() and sane["separation_excess"] == pytest.approx(sane["separation"] - sane["real_separation"])

    def one_picture(_, batch, *__, **___) -> torch.Tensor:
        return torch.zeros(len(batch["latents"]), 16, 1 + (batch["c2w"].shape[1] - 1) // 4, *batch["latents"].shape[3:])

    monkeypatch.setattr("moworld.evaluation.straight_walks.student_rollout", one_picture)
    grey = measure_straight_walks(world, features, settings, 0)
    assert grey["separation"] > 100 and grey["separation_excess"] > 60 > sane["separation_excess"]
    assert grey["walk_contrast"] < 0.5 * sane["walk_contrast"] and grey["real_separation"] == sane["real_separation"]


def test_one_held_out_clip_has_nothing_to_be_separate_from(tmp_path) -> None:
    assert measure_straight_walks(served_world(tmp_path / "codec"), store(tmp_path / "features", 1), BenchmarkSettings(), 0) == {}
