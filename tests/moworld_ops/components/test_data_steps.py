"""Data steps on small clips: trajectories are split at jumps; duplicates and bad captions are quarantined with reasons."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moworld.camera import read_cameras
from moworld.camera.cameras import Cameras
from moworld.camera.formats import write_realestate10k
from moworld.data.clips import read_manifest, write_manifest
from moworld.errors import InputError
from moworld.files import read_json, sha256_file
from moworld.video import read_frames
from moworld_ops.components.annotate.step import annotate
from moworld_ops.components.check_quality.step import check_quality
from moworld_ops.components.clips import filter_clips
from moworld_ops.components.complete_geometry.step import complete_geometry
from moworld_ops.components.platform.context import CONTEXT, StepContext
from moworld_ops.components.platform.steps import Refused
from tests.moworld.data.folders import recorded_game, verified
from tests.moworld.data.test_frames import make_clip


@pytest.fixture(scope="module")
def game() -> Path:
    return recorded_game()


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
    summary = complete_geometry(str(tmp_path / "clips"), str(tmp_path / "out"), str(tmp_path / "bad"), {})
    assert summary["rows"] == 3
    whole = read_manifest(game)[0]
    parts = {clip.clip_id: clip for clip in [*verified(tmp_path / "out"), *verified(tmp_path / "bad")]}
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
    assert (game / whole.video).exists()  # the input folder is unchanged
    verified(game)


def test_the_second_copy_of_a_clip_is_quarantined(game: Path, tmp_path: Path):
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
    summary = check_quality(*(str(tmp_path / name) for name in ("clips", "out", "bad", "report.json")))
    assert (summary["accepted"], summary["quarantined"], summary["great_expectations"]) == (2, 1, True)
    (reason,) = read_json(tmp_path / "bad/reasons.json")
    assert (reason["clip_id"], reason["contract"], reason["rule"]) == ("twin", "quality", "no-near-duplicate") and reason["value"] > 0.9
    assert (tmp_path / "bad" / reason["thumbnail"]).is_file()


def test_captions_are_written_counted_and_checked(tmp_path: Path):
    given = ["The camera pans left across a hall.", "Of two", *["A stone hall with barrels."] * 12]
    clips = [make_clip(tmp_path / "clips", f"clip-{i:02d}", 13, caption=text, seed=i) for i, text in enumerate(given)]
    write_manifest(tmp_path / "clips", clips)
    summary = annotate(str(tmp_path / "clips"), str(tmp_path / "out"), str(tmp_path / "bad"), None, str(tmp_path / "journal"))
    assert (summary["captions"], summary["quarantined"], summary["replaced_for_camera_motion"]) == (13, 1, 1)
    rows = {clip.clip_id: clip for clip in read_manifest(tmp_path / "out")}
    assert (rows["clip-00"].caption_source, rows["clip-02"].caption_source) == ("pixels", "given")
    assert rows["clip-00"].caption_words == 6 and rows["clip-00"].camera_phrases == 0
    (reason,) = read_json(tmp_path / "bad/reasons.json")
    assert (reason["rule"], reason["value"]) == ("long-enough-to-say-something", 2)
    assert read_json(tmp_path / "bad/replaced.json") == [{"clip_id": "clip-00", "caption": given[0], "phrases": ["The camera pans"]}]


def test_annotation_refuses_an_empty_required_split_before_and_after_its_check(tmp_path: Path):
    folders = [str(tmp_path / name) for name in ("clips", "out", "bad")]
    clips = [make_clip(tmp_path / "clips", f"clip-{i:02d}", 13, caption="A stone hall with barrels.", seed=i) for i in range(12)]
    write_manifest(tmp_path / "clips", clips)
    nobody = {"url": "http://127.0.0.1:9/v1", "model": "none"}  # a request would be another error
    with pytest.raises(InputError, match=r"accepted clips: split held_out: found no clip \(train 12\)"):
        annotate(*folders, nobody, str(tmp_path / "journal"), ["held_out"])
    clips[1] = replace(clips[1], split="held_out", caption="Of two")  # contract captions rejects it
    write_manifest(tmp_path / "clips", clips)
    with pytest.raises(InputError, match=r"captioned clips: split held_out: found no clip \(train 11\)"):
        annotate(*folders, None, str(tmp_path / "journal"), ["train", "held_out"])


def test_a_clip_with_one_accepted_part_counts_as_accepted(game: Path, tmp_path: Path):
    """The allowed share of rejections counts clips: rejected parts of an accepted clip are quarantined and do not fail the batch."""
    first, second = (replace(clip, caption_source="given", camera_phrases=0) for clip in read_manifest(game))
    right, wrong = {"caption": "a hall of stone with barrels in it", "caption_words": 8}, {"caption": "x", "caption_words": 1}

    def parts(clip, *given):
        return [replace(clip, clip_id=f"{clip.clip_id}-{number}", **of) for number, of in enumerate(given)]

    def sorted_out(name, *measured):
        return filter_clips(str(game), str(tmp_path / name), str(tmp_path / f"{name}-bad"), ["captions"], lambda _: list(measured))[0]

    summary = sorted_out("cut", parts(first, wrong, right, wrong, wrong), replace(second, **right))
    assert (summary["rows"], summary["accepted"], summary["quarantined"]) == (5, 2, 3)
    assert [clip.clip_id for clip in read_manifest(tmp_path / "cut")] == [f"{first.clip_id}-1", second.clip_id]
    summary = sorted_out("lost", parts(first, wrong, wrong), replace(second, **right))  # one bad caption rejects no batch
    assert (summary["accepted"], summary["quarantined"]) == (1, 2)
    with pytest.raises(Refused, match=r"rejects 2 of 3 clips"):
        sorted_out("more", parts(first, wrong, wrong), replace(second, clip_id="b", **wrong), replace(second, **right))


def test_a_refused_batch_leaves_its_reasons_with_the_run(game: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv(CONTEXT, StepContext(step="annotate", folder=tmp_path / "run").text())
    clips = [replace(clip, caption="x", caption_words=1, caption_source="given", camera_phrases=0) for clip in read_manifest(game)]
    with pytest.raises(Refused, match=r"contract captions 3\.0\.0 rejects 2 of 2 clips"):
        filter_clips(str(game), str(tmp_path / "out"), str(tmp_path / "bad"), ["captions"], lambda _: clips)
    assert not (tmp_path / "out").exists() and not (tmp_path / "bad").exists()
    assert {row["rule"] for row in read_json(tmp_path / "run/refused/annotate/reasons.json")} == {"long-enough-to-say-something"}
