"""VBench-I2V and its neighbours through the command line: published scores, folders of videos, a model, and bad input in one line."""

import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

from moworld.camera.cameras import Cameras
from moworld.camera.controls import controls_to_c2w
from moworld.camera.formats import write_cameras
from moworld.evaluation.vbench import DIMENSIONS
from moworld.video import read_frames, write_video
from moworld_ops.components.platform.registry import SHIPPED
from tests.moworld.evaluation.test_vbench import TABLES
from tests.moworld_ops.pipelines.command import Command


@pytest.fixture
def evaluate(tmp_path, monkeypatch, capsys):
    command = Command(tmp_path, monkeypatch, capsys, VBENCH_CACHE_DIR=str(tmp_path / "weights"))
    return partial(command, "evaluate")


@pytest.fixture
def vbench(evaluate):
    return partial(evaluate, "--protocol", "vbench-i2v")


@pytest.fixture
def videos(tmp_path):
    """A suite of two prompts, its pictures, and a folder with a video of each."""
    rows = [
        {"prompt_en": "a cat", "dimension": ["i2v_subject", "subject_consistency", "aesthetic_quality"], "image_name": "a cat.png"},
        {"prompt_en": "a street", "dimension": ["i2v_background", "background_consistency"], "image_name": "a street.png"},
    ]
    (tmp_path / "suite.json").write_text(json.dumps(rows))
    (tmp_path / "images").mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (5, 64, 96, 3), dtype=np.uint8)
    for name in ("a cat", "a street"):
        Image.fromarray(frames[0]).save(tmp_path / "images" / f"{name}.png")
        write_video(tmp_path / "videos" / f"{name}-0.mp4", frames, 8)
    return tmp_path / "videos"


def test_the_papers_tables_come_out_of_their_scores_side_by_side(tmp_path, vbench):
    (tmp_path / "tables.json").write_text(json.dumps({name: dict(zip(DIMENSIONS, row, strict=False)) for name, row in TABLES.items()}))
    done = vbench("--scores", "tables.json", "--require", "all", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == list(TABLES)
    for name, (*_, quality, average) in TABLES.items():
        assert found[name]["aggregates"]["quality"] == pytest.approx(quality, abs=0.0101)
        assert found[name]["aggregates"]["average"] == pytest.approx(average, abs=0.0101)
    assert "2 WorldPlay" in (tmp_path / "vbench" / "vbench.html").read_text()


def test_vbenchs_own_result_file_is_read_as_shares_and_what_it_lacks_is_absent(tmp_path, vbench):
    results = {"i2v_subject": [0.9383, [{"video_path": "a.mp4", "video_results": 0.9}]], "i2v_background": [0.9564, []]}
    (tmp_path / "seva.json").write_text(json.dumps(results))
    done = vbench("--scores", "seva.json", "--json")
    found = json.loads(done.stdout)["seva"]
    assert done.returncode == 0 and found["scores"]["I2V-S"]["score"] == pytest.approx(93.83)
    wanted = ((93.83 - 14.62) / (100 - 14.62) + (95.64 - 26.15) / (100 - 26.15)) * 50
    assert found["aggregates"] == {"official_i2v": pytest.approx(wanted)}
    assert found["absent_aggregates"]["quality"] == "needs SC, BC, MS, DD, AQ, IQ"


def test_a_folder_is_scored_and_absent_missing_and_unknown_videos_are_listed(tmp_path, videos, vbench):
    (videos / "a  cat-1.mp4").write_bytes((videos / "a cat-0.mp4").read_bytes())
    arguments = (videos, "--suite", "suite.json", "--images", "images", "--samples", "2")
    done = vbench(*arguments)
    assert done.returncode == 0, done.stderr
    for words in (
        "weights of DINO ViT-B/16",
        "none of the suite's 0 videos for it",
        "a cat-1.mp4",
        "a  cat-1.mp4",
        "missing: 2, in the suite",
        "unknown: 1, not in the suite",
    ):
        assert words in done.stdout, words
    found = json.loads((tmp_path / "vbench" / "vbench.json").read_text())["videos"]
    assert found["scores"] == {} and found["aggregates"] == {} and found["missing"] == ["a cat-1.mp4", "a street-1.mp4"]
    done = vbench(*arguments, "--require", "official_i2v", "--json")
    assert done.returncode == 1 and "I2V-S, weights of DINO" in done.stderr and "SC" not in done.stderr
    assert json.loads(done.stdout)["videos"]["absent"].keys() == DIMENSIONS.keys()


def test_ours_theirs_and_published_scores_are_side_by_side(tmp_path, videos, vbench):
    other = tmp_path / "theirs"
    other.mkdir()
    (other / "take.mp4").write_bytes((videos / "a cat-0.mp4").read_bytes())
    row = {"prompt_en": "a cat", "dimension": ["i2v_subject"], "video_list": ["take.mp4"], "custom_image_path": "../images/a cat.png"}
    (other / "vbench_suite.json").write_text(json.dumps([row]))
    (videos / "vbench_suite.json").write_text((tmp_path / "suite.json").read_text())
    (tmp_path / "table.json").write_text(json.dumps({"SEVA": dict(zip(DIMENSIONS, TABLES["1 SEVA"], strict=False))}))
    done = vbench(videos, other, "--scores", "table.json", "--samples", "1", "--limit", "1", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == ["videos", "theirs", "SEVA"]
    assert (found["videos"]["prompts"], found["videos"]["sampled"]) == (1, True) and found["theirs"]["sampled"] is False
    assert found["videos"]["unknown"] == ["a street-0.mp4"] and found["theirs"]["missing"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "a model, a directory of videos, or --scores"),
        (("videos",), "--suite: found none"),
        (("videos", "--suite", "nowhere.json"), "no such file"),
        (("videos", "--suite", "images"), "images"),
        (("empty", "--suite", "suite.json"), "no video"),
        (("images", "--suite", "suite.json"), "2 other files"),
        (("no/such", "--suite", "suite.json"), "no such folder"),
        (("videos", "--suite", "suite.json", "--require", "SX"), "correct the name"),
        (("videos", "--suite", "suite.json", "--device", "tpu9"), "--device"),
        (("--scores", "nowhere.json"), "no such file"),
        (("--scores", "suite.json"), "scores by name"),
        (("--scores", "bad.json"), "a raw score in percent"),
        (("--scores", "long.json"), "a number within"),
        (("--scores", "endless.json"), "a number within"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(tmp_path, videos, arguments, words, vbench):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text('{"SC": 9500.0}')
    (tmp_path / "long.json").write_text('{"SC": [1' + "0" * 400 + ", []]}")
    (tmp_path / "endless.json").write_text('{"SC": 1e999}')
    done = vbench(*arguments)
    assert done.returncode == 2, done.stderr + done.stdout
    assert words in done.stderr and len(done.stderr.strip().splitlines()) == 1 and done.stdout == ""


def test_a_model_generates_its_videos_once_and_resumes(tmp_path, videos, vbench):
    arguments = (SHIPPED, "--suite", "suite.json", "--images", "images", "--samples", "2", "--actions", "w*6,l*4", "--json")
    done = vbench(*arguments)
    assert done.returncode == 0, done.stderr
    made = tmp_path / "vbench" / "videos" / SHIPPED.name
    names = [f"{prompt}-{seed}.mp4" for prompt in ("a cat", "a street") for seed in (0, 1)]
    assert sorted(path.name for path in made.iterdir()) == sorted([*names, "generation.json"])
    frames = [read_frames(made / name) for name in names]
    assert all(len(each) == 11 for each in frames)
    assert not np.array_equal(frames[0][-1], frames[1][-1])  # another seed is another video
    found = json.loads(done.stdout)[SHIPPED.name]
    assert (found["generation"]["frames"], found["generation"]["actions"], found["missing"]) == (11, "w*6,l*4", [])
    kept = {name: (made / name).stat().st_mtime_ns for name in names[1:]}
    before = (made / names[0]).read_bytes()
    (made / names[0]).unlink()
    assert vbench(*arguments).returncode == 0
    assert (made / names[0]).read_bytes() == before  # the same seed is the same video
    assert {name: (made / name).stat().st_mtime_ns for name in names[1:]} == kept
    done = vbench(SHIPPED, "--suite", "suite.json", "--images", "images", "--actions", "w*4")
    assert done.returncode == 2 and "actions" in done.stderr and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(("change", "words"), [(("--images", "empty"), "no such picture"), ((), "--images: found none")])
def test_a_model_without_the_suites_pictures_makes_nothing(tmp_path, videos, change, words, vbench):
    (tmp_path / "empty").mkdir()
    done = vbench(SHIPPED, "--suite", "suite.json", *change)
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "vbench").exists()


def test_camera_failures_are_counted_and_printed(tmp_path, videos, evaluate):
    cameras = Cameras.from_c2w(np.tile([0.5, 0.75, 0.5, 0.5], (5, 1)), controls_to_c2w("l*4"))
    write_cameras(videos / "a cat-0.txt", cameras)
    (videos / "broken.mp4").write_bytes(b"not a video")
    write_cameras(videos / "broken.txt", cameras)
    (videos / "scribble.mp4").write_bytes((videos / "a cat-0.mp4").read_bytes())
    (videos / "scribble.txt").write_text("no cameras")
    done = evaluate(videos, "--protocol", "camera")
    assert done.returncode == 0, done.stderr
    assert "failures: 3 of 4 videos, not measured" in done.stdout
    for name in ("a street-0.mp4", "broken.mp4", "scribble.mp4"):
        assert name in done.stdout
    found = json.loads(evaluate(videos, "--protocol", "camera", "--json").stdout)
    assert (found["videos"], found["measured"], found["failed"]) == (4, 1, 3)


def test_speed_prints_frames_memory_and_the_cost_of_1000_frames_as_an_assumption(tmp_path, evaluate):
    done = evaluate(SHIPPED, "--protocol", "speed", "--price-per-hour", "3.6", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["cost_per_1000_frames"] == pytest.approx(1.0 / found["frames_per_second"])  # 3.6 an hour is 0.001 a second
    assert found["peak_bytes"] > 1e7 and "assumed 3.6 an hour" in found["cost"]
    done = evaluate(SHIPPED, "--protocol", "speed")
    assert "cost: absent" in done.stdout and "cost_per_1000_frames" not in done.stdout
