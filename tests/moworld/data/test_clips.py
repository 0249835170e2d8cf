"""Clips: the manifest and its hashes, and videos that survive a round trip."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from moworld.data.clips import MANIFEST, Clip, clip_of, link_files, read_manifest, write_manifest
from moworld.errors import InputError
from moworld.files import sha256_file
from moworld.video import write_video
from tests.moworld.data.folders import verified


def moving_pattern(num_frames: int = 13, height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    frames = [np.stack([127 + 100 * np.sin((x + 2 * t) / 9), 127 + 100 * np.cos(y / 7), 40 + 2 * x], axis=-1) for t in range(num_frames)]
    return np.stack(frames).clip(0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "clips"
    write_video(path / "videos/a.mp4", moving_pattern(), fps=17.5)
    (path / "cameras").mkdir()
    (path / "cameras/a.txt").write_text("cameras")
    clip = Clip("a", "game", "MAP01", "train", 13, 17.5, 48, 64, "videos/a.mp4", sha256_file(path / "videos/a.mp4"))
    clip = replace(clip, camera="cameras/a.txt", camera_sha256=sha256_file(path / "cameras/a.txt"), translation_scale=432.0)
    write_manifest(path, [replace(clip, clip_id="b"), clip])
    return path


def test_a_manifest_keeps_every_column_in_the_order_of_ids(folder: Path):
    clips = verified(folder)
    assert [clip.clip_id for clip in clips] == ["a", "b"]
    assert clips[0] == replace(clips[1], clip_id="a")
    assert clips[0].translation_scale == 432.0 and clips[0].caption is None


def test_a_manifest_with_the_removed_column_is_read_and_the_column_is_ignored(folder: Path):
    """Contract quality 2.0.0 removed `aesthetic`; manifests written before have it, always empty."""
    table = parquet.read_table(folder / "manifest.parquet")
    clips = read_manifest(folder)
    parquet.write_table(table.append_column("aesthetic", pyarrow.nulls(len(table), pyarrow.float64())), folder / "manifest.parquet")
    assert read_manifest(folder) == clips
    assert clip_of({**vars(clips[0]), "aesthetic": None}) == clips[0]  # an episode that an earlier version recorded
    with pytest.raises(TypeError, match="beauty"):
        clip_of({**vars(clips[0]), "beauty": None})


def test_two_clips_of_one_id_are_refused_and_the_old_manifest_stays(folder: Path):
    clips = read_manifest(folder)
    with pytest.raises(InputError, match="a twice"):
        write_manifest(folder, [clips[0], clips[0]])
    assert read_manifest(folder) == clips


def test_a_foreign_parquet_and_a_broken_one_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no such file"):
        read_manifest(tmp_path)
    parquet.write_table(pyarrow.table({"clip_id": ["a"]}), tmp_path / "manifest.parquet")
    with pytest.raises(InputError, match="no such column"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"manifest\.parquet"):
        read_manifest(tmp_path)


def test_carrying_a_clip_links_its_files(folder: Path, tmp_path: Path):
    clip = read_manifest(folder)[0]
    link_files(clip, folder, tmp_path / "next")
    for relative in clip.files():
        assert (tmp_path / "next" / relative).read_bytes() == (folder / relative).read_bytes()
    assert (tmp_path / "next/videos/a.mp4").stat().st_nlink == 2


FIRST_COLUMNS = (  # of the manifests that version 1 wrote
    "clip_id source scene split num_frames fps height width video video_sha256 camera camera_sha256 camera_origin translation_scale depth"
    " actions scene_facts caption caption_source caption_prompt caption_words camera_phrases points epipolar_error_px epipolar_inliers"
    " registered_share reprojection_error_px track_length max_rotation_step_degrees max_translation_step jitter_degrees path_length"
    " parallax_degrees lens_error followed_share followed_share_lowest loop_error_px sharpness brightness contrast motion frozen_share"
    " cut_score flicker text_share aspect similarity aesthetic"
)


def test_a_manifest_of_the_first_version_is_read(tmp_path: Path):
    texts, counts = {"clip_id", "source", "scene", "split", "video", "video_sha256"}, {"num_frames", "height", "width"}
    row: dict[str, object] = dict.fromkeys(FIRST_COLUMNS.split())
    row |= dict.fromkeys(texts, "a") | dict.fromkeys(counts, 16) | {"fps": 24.0, "sharpness": 0.5, "aesthetic": 1.0}
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / MANIFEST)
    (clip,) = read_manifest(tmp_path)
    assert (clip.clip_id, clip.num_frames, clip.sharpness, clip.source_sha256) == ("a", 16, 0.5, None)
