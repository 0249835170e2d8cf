"""Faces are blurred if a setting says so, in every frame around those in which they are found, and the manifest names the detector."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from moworld.data.clips import read_manifest
from moworld.data.privacy import DETECTOR, FaceBlur, blur, find_faces
from moworld.data.settings import DataSettings
from moworld.data.sources import collect_clips
from moworld.video import read_frames, write_video
from tests.moworld.data.folders import verified


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return cv2.resize(data.astronaut(), (240, 240), interpolation=cv2.INTER_AREA)[:120, 60:180].copy()


def detail(picture: np.ndarray) -> float:
    return float(cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.CV_64F).std())


def test_a_frontal_face_is_found_and_nothing_where_there_is_none(astronaut):
    boxes = find_faces(astronaut)
    assert len(boxes) == 1
    top, bottom, left, right = boxes[0]
    assert top < 35 and bottom > 70 and left < 35 and right > 60
    assert find_faces(np.zeros((20, 90, 3), np.uint8)) == [] == find_faces(cv2.resize(data.coffee(), (150, 100)))


def test_a_blurred_box_keeps_no_detail_and_the_rest_is_as_before(astronaut):
    box = (10, 80, 10, 80)
    changed = blur(astronaut, {box})
    assert detail(changed[14:76, 14:76]) < 0.2 * detail(astronaut[14:76, 14:76])
    assert (changed[80:] == astronaut[80:]).all() and (changed[:, 80:] == astronaut[:, 80:]).all()


def test_frames_before_and_after_a_face_that_is_found_are_blurred_too(astronaut):
    frames = [np.zeros_like(astronaut) + np.uint8(90)] * 20 + [astronaut] + [astronaut[:, ::-1].copy() * 0 + np.uint8(90)] * 20
    faces = FaceBlur(fps=8)  # looks at every frame, and holds four
    shown = list(faces.apply(iter(frames)))
    assert len(shown) == 41 and faces.blurred == 9 and faces.num_frames == 41 and detail(shown[20]) < detail(astronaut)
    assert [np.array_equal(a, b) for a, b in zip(shown, frames, strict=True)].count(False) == 1  # a grey box in grey stays grey


def test_the_setting_changes_the_clip_and_the_manifest_says_so(tmp_path: Path, astronaut):
    write_video(tmp_path / "videos/a.mp4", [np.roll(astronaut, t, axis=1) for t in range(16)], fps=24)
    off = DataSettings(videos=str(tmp_path / "videos"), min_frames=9)
    collect_clips(tmp_path / "off", off, 0, tmp_path / "kept")
    on = DataSettings.model_validate(off.model_dump() | {"privacy": {"faces": True}})
    collect_clips(tmp_path / "on", on, 0, tmp_path / "kept")
    plain, private = read_manifest(tmp_path / "off")[0], verified(tmp_path / "on")[0]
    assert private.source_changes == f"faces blurred in 16 of 16 frames ({DETECTOR})" and not plain.source_changes
    assert private.clip_id == plain.clip_id and private.video_sha256 != plain.video_sha256
    assert find_faces(read_frames(tmp_path / "off" / plain.video)[8]) and not find_faces(read_frames(tmp_path / "on" / private.video)[8])


def test_what_no_detector_finds_is_no_setting():
    with pytest.raises(Exception, match="plates"):
        DataSettings.model_validate({"videos": "x", "privacy": {"plates": True}})
