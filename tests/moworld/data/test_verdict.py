"""Verdicts on known cameras: right ones pass, each mistake of a camera export is found and named, and what is open is reported."""

from functools import cache

import numpy as np
import pytest

from moworld.camera.cameras import Cameras
from moworld.data.readings import OPENGL, with_lens
from moworld.data.verdict import Verdict, judge_windows
from moworld.data.windows import Window, windows
from tests.moworld.data.room import render, walk

SIZE, LENS = (144, 256), [205.0, 205.0, 128.0, 72.0]
MIRROR = np.diag([-1.0, 1, 1, 1])


@cache
def seen(kind: str) -> list[Window]:
    return list(windows(render(walk(kind), LENS, SIZE)))


def given(kind: str, change=lambda w2c: w2c) -> Cameras:
    w2c = change(np.linalg.inv(walk(kind)))
    return Cameras(np.tile(np.array(LENS) / [256, 144, 256, 144], (len(w2c), 1)), w2c)


def judge(kind: str, cameras: Cameras) -> Verdict:
    return judge_windows(seen(kind), cameras, SIZE)


def late(w2c: np.ndarray) -> np.ndarray:
    return np.concatenate([w2c[:1]] * 3 + [w2c[:-3]])


def without_translation(w2c: np.ndarray) -> np.ndarray:
    return w2c * np.where(np.arange(4) == 3, 0, 1) + np.eye(4) * [0, 0, 0, 1]


@pytest.mark.parametrize("kind", ["forward", "strafe", "turn", "curve"])
def test_right_cameras_pass(kind: str):
    verdict = judge(kind, given(kind))
    assert verdict.mistake is None
    assert verdict.error_px is not None and verdict.error_px < 0.7
    assert verdict.tested > 0.9
    if kind in ("turn", "curve"):
        assert verdict.lens == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("kind", ["forward", "strafe", "turn", "curve"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (np.linalg.inv, "camera-to-world matrices given as world-to-camera"),
        (lambda w2c: w2c[::-1], "time reversed"),
        (late, "cameras 3 frames too late"),
    ],
    ids=["c2w", "reversed", "late"],
)
def test_mistakes_are_named_on_every_motion(kind: str, change, words: str):
    verdict = judge(kind, given(kind, change))
    assert verdict.mistake is not None and words in verdict.mistake


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("curve", lambda w2c: OPENGL @ w2c, "OpenGL camera axes"),
        ("forward", lambda w2c: OPENGL @ w2c, "OpenGL camera axes"),
        ("curve", lambda w2c: MIRROR @ w2c @ MIRROR, "a world mirrored in x"),
        ("forward", without_translation, "all camera centres are equal, but the pictures show parallax"),
        ("curve", lambda w2c: np.concatenate([w2c[:15], w2c[15:][::-1]]), "no other reading of the file fits"),
    ],
    ids=["OpenGL, curve", "OpenGL, forward", "mirrored", "no translation", "last half"],
)
def test_other_mistakes_are_named(kind: str, change, words: str):
    mistake = judge(kind, given(kind, change)).mistake
    assert mistake is not None and words in mistake


def test_the_frames_that_are_wrong_are_named():
    mistake = judge("curve", given("curve", lambda w2c: np.concatenate([w2c[:15], np.repeat(w2c[15:16], 18, axis=0)]))).mistake
    assert mistake is not None
    first = int(mistake.split()[1])
    assert 9 <= first <= 15 and mistake.startswith(f"frames {first} to 32: the pictures contradict the cameras")


@pytest.mark.parametrize(("factor", "words"), [(1.3, "times too long"), (1 / 1.3, "times too short")])
def test_a_wrong_lens_is_measured_where_the_camera_turns(factor: float, words: str):
    mistake = judge("curve", with_lens(given("curve"), factor)).mistake
    assert mistake is not None and words in mistake
    found = float(mistake.split("the lens looks ")[1].split()[0])
    assert found == pytest.approx(1.3, abs=0.1)


def test_a_lens_that_a_straight_walk_does_not_show_is_undecided():
    verdict = judge("forward", with_lens(given("forward"), 1.3))
    assert (verdict.mistake, verdict.lens) == (None, None)
    assert verdict.undecided is not None and "times the focal length fit as well" in verdict.undecided


def test_time_on_a_straight_walk_without_parallax_is_undecided():
    """Everything is far away: the pictures stand still for each direction of motion."""
    c2w = walk("forward")
    c2w[:, :3, 3] *= 1e-4
    still = list(windows(render(c2w, LENS, SIZE)))
    verdict = judge_windows(still, given("forward"), SIZE)
    assert verdict.mistake is not None or "order and direction of motion" in (verdict.undecided or "")
    reversed_verdict = judge_windows(still, given("forward", lambda w2c: w2c[::-1]), SIZE)
    assert reversed_verdict.mistake is not None or "order and direction of motion" in (reversed_verdict.undecided or "")


def test_pictures_without_corners_decide_nothing():
    assert list(windows(np.zeros((9, 144, 256, 3), np.uint8))) == []
    verdict = judge_windows([], given("forward"), SIZE)
    assert (verdict.error_px, verdict.tested) == (None, 0.0) and "everything" in (verdict.undecided or "")
