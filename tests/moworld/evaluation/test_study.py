"""The study's measurements on known footage, its table and its targets."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from moworld.data.features import FeatureStore, FeatureWriter
from moworld.errors import InputError
from moworld.evaluation.study import (
    SHEET,
    WALK_SHEET,
    Material,
    StudySettings,
    Variant,
    by_chunk,
    long_walk,
    looks,
    measure,
    run_study,
    write_film,
    write_sheet,
)
from moworld.evaluation.study_report import Spread, spread_of, table, targets, write_study
from moworld.model.codec import StreamingCodec
from tests.moworld.worlds import tiny_batch, tiny_world


def textured(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 24, 32, 3), dtype=np.uint8)


def test_the_error_of_a_chunk_is_separate():
    real = [textured(25), textured(25, 1)]
    made = [video.copy() for video in real]
    for video in made:
        video[13:] = np.clip(video[13:].astype(int) ^ 16, 0, 255)  # 16 grey levels away, in the second chunk alone
    first, second = by_chunk(made, real, 12)
    assert first > 60 and second == pytest.approx(20 * np.log10(255 / 16), abs=0.01)


def test_looks_decrease_with_the_removed_property():
    frames = textured(6)
    whole = looks(frames)
    grey = np.repeat(frames.mean(-1, keepdims=True).astype(np.uint8), 3, axis=-1)
    flat = (frames // 2 + 64).astype(np.uint8)
    smooth = frames.astype(float)
    for axis in (1, 2):
        smooth = (smooth + np.roll(smooth, 1, axis)) / 2
    assert looks(grey)["saturation"] == 0 < whole["saturation"]
    assert looks(flat)["contrast"] == pytest.approx(whole["contrast"] / 2, rel=0.05)
    assert looks(smooth.astype(np.uint8))["sharpness"] < 0.3 * whole["sharpness"]
    assert looks(frames[:1].repeat(6, 0))["motion"] == 0 < whole["motion"]


def seed_of(psnr: float, turning: float, revisit: float, look: float) -> dict:
    at = dict.fromkeys(("contrast", "saturation", "sharpness", "motion"), look)
    return {"first_psnr": psnr, "chunk_psnr": [psnr, psnr - 2], "still_psnr": [20.0, 18.0], "turning_correlation": turning, "walking_correlation": None,
            "swapped_turns": 0.0, "revisit_psnr": revisit, "revisit_self_psnr": 30.0, "looks": {"1000": at}, "seconds_per_frame": 0.01}  # fmt: skip


RESULTS = {
    "teacher, 50 steps": [{"first_psnr": 24.5, "chunk_psnr": [24.0], "still_psnr": [20.0], "seconds_per_frame": 0.1}] * 2,
    "student": [seed_of(24.0, 0.95, 22.0, 0.9), seed_of(25.0, 0.93, 22.2, 1.0)],
    "student, recent history": [seed_of(24.0, 0.9, 21.0, 0.9), seed_of(25.0, 0.9, 21.2, 0.5)],
}


def test_the_table_has_means_and_deviations_without_incomplete_values():
    found = table(RESULTS)
    assert found["student"]["first chunk, dB"] == Spread(24.5, 0.5)
    assert found["student"]["walking"] is None and found["teacher, 50 steps"]["turning"] is None
    assert found["student, recent history"]["contrast at 1000"] == Spread(pytest.approx(0.7), pytest.approx(0.2))
    assert spread_of([]) is None


def test_targets_are_met_missed_or_not_measured():
    rows = {row["name"]: row for row in targets(RESULTS, 25.0, 90.0)}
    verdicts = {name.split(",")[0]: row["met"] for name, row in rows.items()}
    assert verdicts["turning follows the command"] is True
    assert verdicts["walking follows the command"] is None
    assert verdicts["codec alone"] is False and verdicts["decoding 12 frames of 96x160"] is False
    assert rows["first chunk over the repeated last frame, dB"]["found"].mean == pytest.approx(4.5)
    assert rows["first chunk, student under the teacher at 50 steps, dB"]["met"] is True
    assert rows["first chunk, student over the teacher at 4 steps, dB"]["met"] is None
    assert verdicts["a place seen again"] is True
    assert verdicts["contrast at frame 1"] is True
    assert verdicts["teacher evaluations before the first student phase"] is None
    for evaluations, met in ((0, True), (3, False)):
        assert targets(RESULTS, 25.0, 90.0, evaluations)[-1]["met"] is met


def test_the_page_is_complete_and_loads_nothing(tmp_path):
    rows = targets(RESULTS, None, 10.0)
    frames = textured(30)
    write_film(tmp_path / "recorded.mp4", frames, 10.0)
    write_film(tmp_path / "student-recent-history-0.mp4", frames, 10.0)
    write_sheet(tmp_path / "student-recent-history-0-walk.png", frames, WALK_SHEET)
    write_study(tmp_path / "study.html", RESULTS, rows, tmp_path, {"runs": "<one>"})
    page = (tmp_path / "study.html").read_text()
    assert "24.50 ± 0.50" in page and "not measured" in page and page.count("<svg") == 4
    assert "&lt;one&gt;" in page and 'src="http' not in page
    assert page.count("<video") == 2 and page.count("data:image/png") == 3


def write_features(folder, split):
    batch = tiny_batch(13, batch=2)
    folder.mkdir()
    writer = FeatureWriter(folder)
    for index in range(2):
        row = {"clip_id": f"c{index}", "split": split, "scene": "", "source": "", "video_sha256": "", "caption": "", "num_frames": 49}
        writer.add(row, {name: batch[name][index] for name in ("latents", "text", "c2w", "intrinsics")})
    writer.close()


def test_the_study_measures_no_training_clips(tmp_path):
    write_features(tmp_path / "features", "train")
    settings, world = StudySettings(), tiny_world()
    material = Material(FeatureStore(tmp_path / "features"), "", None, settings)
    variant = SimpleNamespace(load=lambda: world)
    for measurement in (lambda: measure(variant, material, 0), lambda: long_walk(variant, world, material, 0)):
        with pytest.raises(InputError, match=r"split held_out: found no clip \(train 2\)"):
            measurement()


def test_each_variant_is_measured_once(tmp_path):
    write_features(tmp_path / "features", "held_out")
    StreamingCodec(16, hidden=8, blocks=1).save_pretrained(tmp_path / "codec")
    world = tiny_world()
    world.codec_folder = tmp_path / "codec"
    world.save(tmp_path / "model")
    model, features = str(tmp_path / "model"), str(tmp_path / "features")
    compared = [Variant("teacher", model, 2), Variant("student", model), Variant("blind", model, camera=False)]
    settings = StudySettings(episodes=1, chunks=2, walks=1, frames=100, loop_chunks=1, seeds=1)
    found = {name: seeds[0] for name, seeds in run_study(tmp_path, compared, features, "", settings).items()}
    for values in found.values():
        assert len(values["chunk_psnr"]) == len(values["still_psnr"]) == 2 and np.isfinite(values["turning_error"])
    assert found["student"]["first_psnr"] == found["student"]["chunk_psnr"][0]
    assert found["teacher"]["first_psnr"] != found["teacher"]["chunk_psnr"][0]  # generated in a separate window
    assert ["looks" in found[name] for name in found] == ["revisit_psnr" in found[name] for name in found] == [False, True, False]
    sheets = {path.name for path in (tmp_path / "videos").glob("*.png")}
    assert sheets == {"recorded.png", "teacher-0.png", "student-0.png", "student-0-walk.png", "blind-0.png"}
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "measured").iterdir()}
    run_study(tmp_path, compared, features, "", settings)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_drift_is_relative_to_the_recording_of_the_same_path(tmp_path):
    """A walk equal to the recording has no drift, although other clips differ."""
    writer, batch = FeatureWriter(tmp_path), tiny_batch(13)
    for index, loudness in enumerate((1.0, 0.1)):
        row = {"clip_id": f"c{index}", "split": "held_out", "scene": "", "source": "", "video_sha256": "", "caption": "", "num_frames": 49}
        tensors = {name: batch[name][index] for name in ("text", "c2w", "intrinsics")}
        writer.add(row, {**tensors, "latents": loudness * batch["latents"][0]})
    writer.close()
    torch.manual_seed(0)
    codec, store = StreamingCodec(16, hidden=8, blocks=1), FeatureStore(tmp_path)
    again = SimpleNamespace(generate=lambda world, batch, seed: torch.cat([batch["latents"]] * 2, dim=2))
    settings = StudySettings(walks=1, frames=100)
    with torch.inference_mode():
        found = [long_walk(again, tiny_world(), Material(store, "", codec, settings), seed)["100"] for seed in range(6)]
    for look in ("contrast", "saturation", "sharpness", "motion"):
        assert all(shares[look] == pytest.approx(1, abs=0.15) for shares in found), look


def test_a_sheet_has_the_listed_frames_before_the_end(tmp_path):
    from PIL import Image

    frames = textured(30)
    write_sheet(tmp_path / "sheet.png", frames, SHEET)
    shown = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert shown.shape == (24, 5 * 32, 3)
    for place, index in enumerate((0, 4, 8, 12, 24)):
        assert np.array_equal(shown[:, 32 * place : 32 * (place + 1)], frames[index])
