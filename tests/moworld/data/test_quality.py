"""Visual measures, and that the contract's thresholds part good footage from bad."""

from dataclasses import asdict

import numpy as np
import pytest

from moworld.data.quality import measure_frames, measure_quality
from moworld.files import sha256_file
from moworld.video import write_video
from moworld_ops.data_contracts.check import check_rows
from moworld_ops.data_contracts.load import load_contract
from tests.moworld.data.test_frames import make_clip


def walk(count: int = 24, shift: int = 3) -> list[np.ndarray]:
    """A camera that slides along a textured wall."""
    import cv2

    noise = np.random.default_rng(0).uniform(30, 220, (30, 80, 3)).astype(np.uint8)
    wall = cv2.resize(noise, (640, 120), interpolation=cv2.INTER_CUBIC)
    return [np.ascontiguousarray(wall[:, shift * i : shift * i + 160]) for i in range(count)]


def with_subtitle(frame: np.ndarray) -> np.ndarray:
    import cv2

    frame = frame.copy()
    for line, text in enumerate(("THE TEXT OF A SUBTITLE", "STAYS WHERE IT IS")):
        for colour, width in (((0, 0, 0), 4), ((255, 255, 255), 1)):
            cv2.putText(frame, text, (6, 80 + 22 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, width, cv2.LINE_AA)
    return frame


def broken_rules(frames: list[np.ndarray]) -> set[str]:
    report = check_rows([{"clip_id": "a", "similarity": 0.0, **measure_frames(frames)}], load_contract("quality"))
    return {failure["rule"] for failure in report.failures}


def test_good_footage_breaks_no_rule():
    assert broken_rules(walk()) == set()


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda frames: [np.zeros_like(frame) for frame in frames], "neither-dark-nor-burnt"),
        (lambda frames: [np.full_like(frame, 250) for frame in frames], "neither-dark-nor-burnt"),
        (lambda frames: [np.full_like(frame, 120) for frame in frames], "something-to-see"),
        (lambda frames: [frames[0]] * 24, "not-frozen"),
        (lambda frames: [*frames[:12], *(255 - frame // 4 for frame in frames[12:])], "one-shot"),
        (lambda frames: [frame // (2 - i % 2) for i, frame in enumerate(frames)], "steady-light"),
        (lambda frames: [with_subtitle(frame) for frame in frames], "no-text-overlay"),
        (lambda frames: [frame[:40] for frame in frames], "neither-tower-nor-ribbon"),
    ],
    ids=["black", "burnt", "flat", "frozen", "cut", "flicker", "subtitle", "ribbon"],
)
def test_each_spoiled_clip_breaks_its_rule(spoil, rule):
    assert rule in broken_rules(spoil(walk()))


def test_a_fade_and_a_turn_do_not_flicker_and_a_wall_of_letters_that_moves_is_no_overlay():
    fade = [np.clip(frame * (1 - 0.03 * i), 0, 255).astype(np.uint8) for i, frame in enumerate(walk())]
    assert measure_frames(fade)["flicker"] < 1
    board = np.concatenate([with_subtitle(walk(1)[0]) for _ in range(4)], axis=1)
    assert measure_frames([board[:, 3 * i : 3 * i + 160] for i in range(24)])["text_share"] == 0


def test_blur_breaks_the_rule_of_sharpness_and_lowers_the_measure_step_by_step():
    import cv2

    blurred = [[cv2.GaussianBlur(frame, (0, 0), sigma) for frame in walk()] for sigma in (0.5, 2.0, 8.0)]
    values = [measure_frames(frames)["sharpness"] for frames in (walk(), *blurred)]
    assert values == sorted(values, reverse=True) and len(set(values)) == 4
    assert "not-blurred" in broken_rules(blurred[-1])


def test_measures_have_their_units():
    frames = [np.full((8, 8, 3), value, np.uint8) for value in (10, 20, 20, 20, 60)]
    found = measure_frames(frames)
    assert found["brightness"] == 26 and found["contrast"] == 0 and found["sharpness"] == 0
    assert found["motion"] == pytest.approx(50 / 4)
    assert found["frozen_share"] == pytest.approx(2 / 4)
    assert found["cut_score"] == 1.0  # every pixel left its bin of 16 levels


def test_a_clip_carries_the_measures_of_its_first_frames(tmp_path):
    clip = make_clip(tmp_path)
    write_video(tmp_path / clip.video, [*walk(12), *(np.zeros((120, 160, 3), np.uint8) for _ in range(12))], 16.0)
    clip = type(clip)(**{**asdict(clip), "num_frames": 24, "video_sha256": sha256_file(tmp_path / clip.video)})
    bright, all_of_it = measure_quality(clip, tmp_path, max_frames=12), measure_quality(clip, tmp_path)
    assert bright.brightness is not None and all_of_it.brightness is not None and bright.brightness > 1.8 * all_of_it.brightness
    assert bright.clip_id == clip.clip_id and bright.video_sha256 == clip.video_sha256
