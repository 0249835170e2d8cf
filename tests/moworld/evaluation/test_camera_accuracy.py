"""Turning measured by optical flow on exactly turned images."""

import cv2
import numpy as np
import pytest

from moworld.camera.cameras import Cameras
from moworld.camera.controls import controls_to_c2w
from moworld.camera.formats import write_cameras
from moworld.errors import InputError
from moworld.evaluation.camera_accuracy import commanded_yaw, correlation, evaluate_folder, flow_yaw, gain
from moworld.video import write_video

FOCAL, HEIGHT, WIDTH = 0.5, 64, 96


def turned_views(yaw_degrees):
    """Returns views of a textured sphere from a turning camera, sampled from a panorama along each pixel's ray."""
    panorama = cv2.resize(
        np.random.default_rng(0).uniform(0, 255, (40, 160, 3)).astype(np.float32), (1440, 360), interpolation=cv2.INTER_CUBIC
    )
    x = (np.arange(WIDTH) + 0.5) / WIDTH - 0.5
    y = ((np.arange(HEIGHT) + 0.5) / HEIGHT - 0.5) * HEIGHT / WIDTH
    longitude = np.degrees(np.arctan(x / FOCAL))[None, :] + 180
    latitude = np.degrees(np.arctan(y[:, None] / np.hypot(FOCAL, x)[None, :]))
    views = []
    for yaw in yaw_degrees:
        u, v = (longitude + yaw) * 4, (latitude + 45) * 4
        views.append(cv2.remap(panorama, np.broadcast_to(u, v.shape).astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR))
    return np.clip(views, 0, 255).astype(np.uint8)


def test_commanded_yaw_is_positive_to_the_right():
    assert commanded_yaw(controls_to_c2w("l*2,none*1,j*1", degrees=4.0)) == pytest.approx([4.0, 4.0, 0.0, -4.0])


def test_flow_yaw_has_the_sign_and_amount_of_the_turn():
    yaw = np.array([0.0, 3.0, 6.0, 6.0, 2.0, -2.0])
    measured = flow_yaw(turned_views(yaw), FOCAL)
    assert measured == pytest.approx(np.diff(yaw), abs=0.5)
    assert correlation(measured, np.diff(yaw)) > 0.98
    assert correlation(measured, -np.diff(yaw)) < -0.98


def test_a_path_without_turns_has_no_correlation():
    assert correlation([0.1, -0.2, 0.3], [0.0, 0.0, 0.0]) is None and gain([0.1, -0.2, 0.3], [0.0, 0.0, 0.0]) is None


def test_the_gain_of_half_a_turn_is_one_half():
    commanded = np.array([3.0, -1.0, 0.0, 2.0])
    assert correlation(commanded / 2 + 0.3, commanded) == pytest.approx(1) and gain(commanded / 2 + 0.3, commanded) == pytest.approx(0.5)


def test_a_folder_is_measured_and_its_failures_are_counted(tmp_path):
    yaw = np.array([0, 3, 6, 9, 9, 9, 5, 1, -3], dtype=float)
    rotations = np.stack([controls_to_c2w("l*1", degrees=angle)[-1] for angle in yaw])
    cameras = Cameras.from_c2w(np.tile([FOCAL, FOCAL * WIDTH / HEIGHT, 0.5, 0.5], (len(yaw), 1)), rotations)
    for name in ("good", "alone", "short"):
        write_video(tmp_path / f"{name}.mp4", turned_views(yaw), 16)
    write_cameras(tmp_path / "good.txt", cameras)
    write_cameras(tmp_path / "short.txt", cameras.slice(0, 3))
    found = evaluate_folder(tmp_path)
    assert found["yaw_correlation"] > 0.95 and (found["videos"], found["measured"]) == (3, 1)
    assert [failure["video"] for failure in found["failures"]] == ["alone.mp4", "short.mp4"]


def test_a_folder_without_videos_is_refused(tmp_path):
    with pytest.raises(InputError, match="no video"):
        evaluate_folder(tmp_path)
