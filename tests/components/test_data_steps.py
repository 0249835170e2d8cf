"""The data steps on small clips: trajectories are split at jumps, duplicates and bad captions are put aside with reasons, refusals keep them."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components.annotate.step import annotate
from components.check_quality.step import check_quality, sort_out
from components.complete_geometry.step import complete_geometry
from components.platform.steps import Refused
from moworld.camera import read_cameras
from moworld.camera.cameras import Cameras
from moworld.camera.formats import write_realestate10k
from moworld.data.clips import read_manifest, verify, write_manifest
from moworld.data.game import GameSettings, record_game
from moworld.files import read_json, sha256_file
from moworld.video import read_frames
from tests.moworld.data.test_frames import make_clip


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("game")
    settings = GameSettings(train_maps=("MAP01", "MAP05"), train_episodes_per_map=1, frames_per_episode=97, workers=1)
    clips, _ = record_game(folder, settings, seed=7)
    write_manifest(folder, clips)
    return folder


def with_jump(folder: Path, out: Path, at: int) -> None:
    """A copy of a clips folder whose first clip's camera turns by 40 degrees between two frames, and its pictures do not."""

    shutil.copytree(folder, out)
    clips = read_manifest(out)
    cameras = read_cameras(out / clips[0].camera)
    c2w = cameras.c2w.copy()
    angle = np.radians(40)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    c2w[at:, :3, :3] = c2w[at:, :3, :3] @ turn
    write_realestate10k(out / clips[0].camera, Cameras.from_c2w(cameras.intrinsics[0], c2w))
    clips[0] = replace(clips[0], camera_sha256=sha256_file(out / clips[0].camera))
    write_manifest(out, clips)


def test_a_trajectory_is_split_at_its_jump_and_each_part_judged(game: Path, tmp_path: Path):
    with_jump(game, tmp_path / "clips", at=60)
    told = complete_geometry(str(tmp_path / "clips"), str(tmp_path / "out"), str(tmp_path / "bad"), {}, 0)
    assert told["rows"] == 3
    whole = read_manifest(game)[0]
    parts = {clip.clip_id: clip for clip in [*verify(tmp_path / "out"), *verify(tmp_path / "bad")]}
    first, second = parts[f"{whole.clip_id}-0"], parts[f"{whole.clip_id}-1"]
    assert (first.num_frames, second.num_frames) == (60, 37)
    for part, start in ((first, 0), (second, 60)):
        folder = tmp_path / ("out" if (tmp_path / "out" / part.video).exists() else "bad")
        difference = read_frames(folder / part.video).astype(int) - read_frames(game / whole.video, start, start + part.num_frames)
        assert np.abs(difference).mean() < 3
        assert len(read_cameras(folder / str(part.camera))) == part.num_frames == len(read_json(folder / str(part.actions))) + 1
        with np.load(folder / str(part.depth)) as archive:
            assert len(archive["depth"]) == part.num_frames
    assert (tmp_path / "out" / str(first.points)).read_bytes().startswith(b"ply")
    assert (game / whole.video).exists()  # the folder that was read stays as it was
    verify(game)


def test_a_clip_that_comes_twice_is_put_aside_the_second_time(game: Path, tmp_path: Path):
    clips = read_manifest(game)
    twin = replace(clips[0], clip_id="twin", translation_scale=clips[0].translation_scale)
    measures = {"epipolar_error_px": 0.5, "max_rotation_step_degrees": 3.0, "max_translation_step": 1.0}

    shutil.copytree(game, tmp_path / "clips")
    for kind in ("video", "camera", "depth", "actions", "scene_facts"):
        path = Path(str(getattr(twin, kind)))
        copied = path.with_name(f"twin{path.suffix}")
        shutil.copy(tmp_path / "clips" / path, tmp_path / "clips" / copied)
        twin = replace(twin, **{kind: str(copied)})
    write_manifest(tmp_path / "clips", [replace(clip, **measures) for clip in (*clips, twin)])
    told = check_quality(*(str(tmp_path / name) for name in ("clips", "out", "bad", "report.json")))
    assert (told["accepted"], told["quarantined"], told["great_expectations"]) == (2, 1, True)
    (reason,) = read_json(tmp_path / "bad/reasons.json")
    assert (reason["clip_id"], reason["contract"], reason["rule"]) == ("twin", "quality", "no-near-duplicate") and reason["value"] > 0.9
    assert (tmp_path / "bad" / reason["thumbnail"]).is_file()


def test_captions_are_made_counted_and_held_to_their_contract(tmp_path: Path):
    given = ["The camera pans left across a hall.", "Of two", *["A stone hall with barrels."] * 12]
    clips = [make_clip(tmp_path / "clips", f"clip-{i:02d}", 13, caption=text, seed=i) for i, text in enumerate(given)]
    write_manifest(tmp_path / "clips", clips)
    told = annotate(str(tmp_path / "clips"), str(tmp_path / "out"), str(tmp_path / "bad"), None, str(tmp_path / "journal"))
    assert (told["captions"], told["quarantined"], told["replaced_for_camera_motion"]) == (13, 1, 1)
    rows = {clip.clip_id: clip for clip in read_manifest(tmp_path / "out")}
    assert (rows["clip-00"].caption_source, rows["clip-02"].caption_source) == ("pixels", "given")
    assert rows["clip-00"].caption_words == len(str(rows["clip-00"].caption).split()) and rows["clip-00"].camera_phrases == 0
    (reason,) = read_json(tmp_path / "bad/reasons.json")
    assert (reason["rule"], reason["value"]) == ("long-enough-to-say-something", 2)


def test_a_clip_of_whose_parts_one_is_left_counts_as_accepted(game: Path, tmp_path: Path):
    """The share of a batch that may be rejected is of clips: what falls off where one is cut is put aside, and fails no batch."""
    first, second = (replace(clip, caption_source="given", camera_phrases=0) for clip in read_manifest(game))
    right, wrong = {"caption": "a hall of stone with barrels in it", "caption_words": 8}, {"caption": "x", "caption_words": 1}

    def parts(clip, *given):
        return [replace(clip, clip_id=f"{clip.clip_id}-{number}", **of) for number, of in enumerate(given)]

    def sorted_out(name, *measured):
        return sort_out(str(game), str(tmp_path / name), str(tmp_path / f"{name}-bad"), ["captions"], lambda _: list(measured))[0]

    told = sorted_out("cut", parts(first, wrong, right, wrong, wrong), replace(second, **right))
    assert (told["rows"], told["accepted"], told["quarantined"]) == (5, 2, 3)
    assert [clip.clip_id for clip in read_manifest(tmp_path / "cut")] == [f"{first.clip_id}-1", second.clip_id]
    with pytest.raises(Refused, match=r"rejects 1 of 2 clips"):
        sorted_out("lost", parts(first, wrong, wrong), replace(second, **right))


def test_a_refused_batch_leaves_its_reasons_with_the_run(game: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MOWORLD_RUN_FOLDER", str(tmp_path / "run"))
    monkeypatch.setenv("MOWORLD_STEP", "annotate")
    clips = [replace(clip, caption="x", caption_words=1, caption_source="given", camera_phrases=0) for clip in read_manifest(game)]
    with pytest.raises(Refused, match=r"contract captions 2\.0\.0 rejects 2 of 2 clips"):
        sort_out(str(game), str(tmp_path / "out"), str(tmp_path / "bad"), ["captions"], lambda _: clips)
    assert not (tmp_path / "out").exists() and not (tmp_path / "bad").exists()
    assert {row["rule"] for row in read_json(tmp_path / "run/refused/annotate/reasons.json")} == {"long-enough-to-say-something"}
