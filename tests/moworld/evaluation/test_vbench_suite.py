"""The suite's list and a folder's videos: matching, missing and unknown ones."""

import json

import pytest

from moworld.errors import InputError
from moworld.evaluation.vbench_suite import find_videos, read_suite

SUBJECT = [
    "i2v_subject",
    "subject_consistency",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
    "temporal_flickering",
]
BACKGROUND = ["i2v_background", "background_consistency", "aesthetic_quality", "imaging_quality", "temporal_flickering"]


def rows(count=4):
    """Returns rows like the official list: backgrounds and subjects, each with camera prompts."""
    made = []
    for index in range(count):
        prompt = f"a scene, number {index}"
        made.append(
            {"prompt_en": prompt, "dimension": BACKGROUND if index % 2 else SUBJECT, "image_name": f"{prompt}.jpg", "image_type": "x"}
        )
        made.append({"prompt_en": f"{prompt}, camera pans left", "dimension": ["camera_motion"], "image_name": f"{prompt}.jpg"})
    return made


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "suite.json").write_text(json.dumps(rows()))
    return tmp_path / "suite.json"


def test_prompts_count_for_their_scores_and_camera_prompts_for_none(suite):
    entries = read_suite(suite)
    assert [entry.prompt for entry in entries] == [f"a scene, number {index}" for index in range(4)]
    assert set(entries[0].dimensions) == {"I2V-S", "SC", "MS", "DD", "AQ", "IQ"}
    assert set(entries[1].dimensions) == {"I2V-B", "BC", "AQ", "IQ"}


@pytest.mark.parametrize(("limit", "taken"), [(0, [0, 1, 2, 3]), (1, [0]), (2, [0, 2]), (3, [0, 1, 2]), (9, [0, 1, 2, 3])])
def test_a_limit_selects_evenly_spread_prompts(suite, limit, taken):
    assert [int(entry.prompt[-1]) for entry in read_suite(suite, limit)] == taken


def test_videos_are_found_by_name_and_others_are_reported(suite, tmp_path):
    videos, images = tmp_path / "videos", tmp_path / "images"
    videos.mkdir()
    images.mkdir()
    for name in (
        "a scene, number 0-0.mp4",
        "a scene, number 0-1.mp4",
        "a scene, number 1-0.mp4",
        "a scene number 2-0.mp4",
        "a scene, number 3-5.mp4",
        "notes.txt",
        ".hidden",
    ):
        (videos / name).touch()
    (images / "a scene, number 0.jpg").touch()
    found = find_videos(videos, read_suite(suite), images, samples=2)
    assert [case.video.name for case in found.cases] == ["a scene, number 0-0.mp4", "a scene, number 0-1.mp4", "a scene, number 1-0.mp4"]
    assert [case.image for case in found.cases] == [images / "a scene, number 0.jpg"] * 2 + [None]
    assert found.missing == ["a scene, number 1-1.mp4"] + [f"a scene, number {i}-{j}.mp4" for i in (2, 3) for j in (0, 1)]
    assert found.unknown == ["a scene number 2-0.mp4", "a scene, number 3-5.mp4"]
    assert found.expected == {"SC": 4, "BC": 4, "MS": 4, "DD": 4, "AQ": 8, "IQ": 8, "I2V-S": 4, "I2V-B": 4}


def test_a_list_may_have_its_own_videos_and_images(tmp_path):
    (tmp_path / "take1.mp4").touch()
    (tmp_path / "take1.png").touch()
    row = {
        "prompt_en": "a street",
        "dimension": ["i2v_subject"],
        "video_list": ["take1.mp4", "take2.mp4"],
        "custom_image_path": "take1.png",
    }
    (tmp_path / "suite.json").write_text(json.dumps([row]))
    found = find_videos(tmp_path, read_suite(tmp_path / "suite.json"), None)
    assert [(case.video.name, case.image) for case in found.cases] == [("take1.mp4", tmp_path / "take1.png")]
    assert found.missing == ["take2.mp4"] and found.unknown == ["take1.png"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "found dict"),
        ("[1]", "entry 0"),
        ("[]", "no prompt of any"),
        (json.dumps([{"prompt_en": "a", "dimension": ["camera_motion"]}]), "no prompt of any"),
        (json.dumps([{"prompt_en": "../a", "dimension": ["i2v_subject"]}]), "without folders"),
        (json.dumps([{"prompt_en": "a", "dimension": ["i2v_subject"], "video_list": ["/etc/x.mp4"]}]), "without folders"),
        (json.dumps([{"prompt_en": "a", "dimension": ["i2v_subject"]}] * 2), "twice"),
        ("[", "not JSON"),
    ],
)
def test_a_different_file_format_is_refused(tmp_path, text, words):
    (tmp_path / "suite.json").write_text(text)
    with pytest.raises(InputError, match=words):
        read_suite(tmp_path / "suite.json")


def test_a_folder_without_videos_of_the_suite_is_refused(suite, tmp_path):
    (tmp_path / "videos").mkdir()
    with pytest.raises(InputError, match="no video"):
        find_videos(tmp_path / "videos", read_suite(suite), None)
    (tmp_path / "videos" / "scene.mp4").touch()
    with pytest.raises(InputError, match=r"1 other files.*a scene, number 0-0\.mp4"):
        find_videos(tmp_path / "videos", read_suite(suite), None)
