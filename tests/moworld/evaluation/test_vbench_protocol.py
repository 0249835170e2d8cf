"""The protocol on real video files: each score on its own videos, pooled like VBench, and a reason for each absence."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moworld.evaluation.vbench import DIMENSIONS, NEEDS
from moworld.evaluation.vbench_networks import DINO_CONFIG, Absent
from moworld.evaluation.vbench_protocol import SCORERS, evaluate_videos
from moworld.evaluation.vbench_suite import find_videos, read_suite
from moworld.video import write_video

LISTS = {"subject": ["i2v_subject", "subject_consistency", "motion_smoothness", "dynamic_degree", "aesthetic_quality", "imaging_quality"],
         "background": ["i2v_background", "background_consistency", "aesthetic_quality", "imaging_quality"]}  # fmt: skip


def moving_picture(frames, step, seed=0):
    """Returns a textured window that moves by `step` pixels per frame, (frames, 64, 96, 3)."""
    wide = np.repeat(np.repeat(np.random.default_rng(seed).integers(0, 256, (16, 80, 3), dtype=np.uint8), 4, 0), 4, 1)
    return np.stack([wide[:, step * t : step * t + 96] for t in range(frames)])


@pytest.fixture
def folder(tmp_path):
    """Returns a folder with two prompts, two videos each, of 5 and 9 frames, and their images."""
    rows = [{"prompt_en": name, "dimension": dimensions, "image_name": f"{name}.png"} for name, dimensions in LISTS.items()]
    (tmp_path / "suite.json").write_text(json.dumps(rows))
    for name in LISTS:
        Image.fromarray(moving_picture(1, 0)[0]).save(tmp_path / f"{name}.png")
        for index, count in enumerate((5, 9)):
            write_video(tmp_path / f"{name}-{index}.mp4", moving_picture(count, 4 * index), 8)
    return tmp_path


def found_in(folder):
    return find_videos(folder, read_suite(folder / "suite.json"), None, samples=2)


def test_without_weights_every_score_is_absent_with_a_reason(folder, tmp_path):
    result = evaluate_videos(found_in(folder), tmp_path / "no" / "weights")
    assert result["scores"] == {} and result["aggregates"] == {} and set(result["absent"]) == set(DIMENSIONS)
    assert all("weights of" in reason for reason in result["absent"].values())
    assert set(result["absent_aggregates"]) == set(NEEDS) and result["absent_aggregates"]["official_i2v"] == "needs I2V-S, I2V-B"
    assert all(values == {} for values in result["per_video"].values()) and len(result["per_video"]) == 4


def frame_count(weights: Path, device: str):
    """Scores each frame after the first as 1 / T."""
    return lambda case, frames: [1 / len(frames)] * (len(frames) - 1)


def test_consistency_is_pooled_over_frames_and_other_scores_over_videos(folder):
    result = evaluate_videos(found_in(folder), folder, scorers=dict.fromkeys(DIMENSIONS, frame_count))
    for name in ("SC", "BC"):
        assert result["scores"][name]["score"] == pytest.approx(100 * (4 / 5 + 8 / 9) / 12)
    assert result["scores"]["MS"]["score"] == pytest.approx(100 * (1 / 5 + 1 / 9) / 2)
    assert {name: row["videos"] for name, row in result["scores"].items()} == {
        name: 4 if name in ("AQ", "IQ") else 2 for name in DIMENSIONS
    }
    assert set(result["aggregates"]) == set(NEEDS) and result["absent"] == {}
    assert result["per_video"]["background-1.mp4"] == pytest.approx(dict.fromkeys(("I2V-B", "BC", "AQ", "IQ"), 100 / 9))


def test_an_unreadable_video_is_a_failure(folder):
    (folder / "subject-0.mp4").write_bytes(b"not a video")
    write_video(folder / "background-0.mp4", moving_picture(2, 1), 8)
    result = evaluate_videos(found_in(folder), folder, scorers=dict.fromkeys(DIMENSIONS, frame_count))
    assert result["scores"]["SC"]["videos"] == 1 and result["scores"]["SC"]["expected"] == 2
    assert result["scores"]["AQ"]["videos"] == 2 and result["scores"]["AQ"]["expected"] == 4
    failed = {(row["score"], row["video"]) for row in result["failures"]}
    assert {("SC", "subject-0.mp4"), ("AQ", "subject-0.mp4"), ("AQ", "background-0.mp4")} <= failed and len(failed) == len(
        result["failures"]
    ) == 10
    assert any("2 frames" in row["reason"] for row in result["failures"])


def test_a_score_without_readable_videos_is_absent(folder):
    for index in (0, 1):
        (folder / f"subject-{index}.mp4").write_bytes(b"not a video")
    result = evaluate_videos(found_in(folder), folder, scorers=dict.fromkeys(DIMENSIONS, frame_count))
    assert "none of its 2 videos could be scored" in result["absent"]["SC"] and "readable video" in result["absent"]["SC"]
    assert "quality" not in result["aggregates"] and result["absent_aggregates"]["quality"] == "needs SC, MS, DD"


def test_a_score_without_videos_is_absent(folder):
    for index in (0, 1):
        (folder / f"background-{index}.mp4").unlink()
    result = evaluate_videos(found_in(folder), folder, scorers=dict.fromkeys(DIMENSIONS, frame_count))
    assert result["absent"] == dict.fromkeys(("BC", "I2V-B"), "none of the suite's 2 videos for it exists")
    assert result["missing"] == ["background-0.mp4", "background-1.mp4"]


@pytest.mark.slow
def test_full_size_dino_scores_of_a_static_video_are_highest(folder):
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    ViTModel(ViTConfig(**DINO_CONFIG), add_pooling_layer=False).save_pretrained(folder / "weights" / "dino_model")
    Image.fromarray(moving_picture(1, 0, seed=5)[0]).save(folder / "subject.png")
    result = evaluate_videos(found_in(folder), folder / "weights")
    assert set(result["scores"]) == {"SC", "I2V-S"}
    still, sliding = (result["per_video"][f"subject-{index}.mp4"] for index in (0, 1))
    assert still["SC"] == pytest.approx(100, abs=0.1) and sliding["SC"] < still["SC"]
    assert 60 < still["I2V-S"] < 99.99  # it is static, but differs from this image
    (folder / "subject.png").unlink()
    result = evaluate_videos(found_in(folder), folder / "weights")
    assert "none of its 2 videos could be scored" in result["absent"]["I2V-S"] and "--images" in result["absent"]["I2V-S"]


def test_every_score_has_a_scorer_that_refuses_an_empty_folder(tmp_path):
    assert list(SCORERS) == list(DIMENSIONS)
    for scorer in SCORERS.values():
        with pytest.raises(Absent):
            scorer(tmp_path, "cpu")
