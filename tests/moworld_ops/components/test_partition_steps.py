"""Steps of partitions and their merging: rows are judged in a partition, the batch when partitions are merged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moworld.data.clips import Clip, read_manifest, write_manifest
from moworld.data.duplicates import FRAME_HASHES, write_hashes
from moworld.data.merging import ORIGIN, merged_manifest
from moworld.errors import InputError
from moworld.files import read_json, write_json
from moworld_ops.components.annotate.step import annotate
from moworld_ops.components.check_quality.step import check_quality
from moworld_ops.components.clips import VERDICTS, filter_clips
from moworld_ops.components.collect.step import collect
from moworld_ops.components.complete_geometry.step import complete_geometry
from moworld_ops.components.merge_clips.step import CONTRACTS, merge_clips
from moworld_ops.components.platform.steps import Refused
from moworld_ops.components.split_sources.step import split_sources
from tests.moworld.data.test_frames import make_clip

MEASURED = {
    "brightness": 100.0, "contrast": 40.0, "sharpness": 100.0, "motion": 3.0, "frozen_share": 0.0, "cut_score": 0.1, "flicker": 0.1,
    "text_share": 0.0, "aspect": 1.3, "similarity": 0.0, "epipolar_error_px": 0.3, "max_rotation_step_degrees": 2.0,
    "max_translation_step": 1.5, "caption": "A stone hall with barrels.", "caption_source": "given", "caption_words": 5, "camera_phrases": 0,
}  # fmt: skip


def partitions(tmp_path: Path, count: int = 3, each: int = 4) -> tuple[list[str], list[str], list[Clip]]:
    """Returns captioned folders and quarantines of partitions whose clips all pass, with frame hashes, and the clips."""
    parts, quarantines, clips = [], [], []
    for part in range(count):
        folder, bad = tmp_path / f"part-{part}", tmp_path / f"bad-{part}"
        own = [make_clip(folder, f"clip-{number:02d}", 13, seed=number) for number in range(part, count * each, count)]
        own = [replace(clip, **MEASURED, split="held_out" if clip.clip_id == "clip-00" else "train") for clip in own]
        write_manifest(folder, own)
        write_hashes(folder, [clip.clip_id for clip in own], [np.random.default_rng(int(clip.clip_id[-2:])).integers(0, 256, (6, 8), np.uint8) for clip in own])
        bad.mkdir()
        write_manifest(bad, [])
        write_json(bad / "reasons.json", [])
        write_json(bad / VERDICTS, {"clips": each, "lost": dict.fromkeys(CONTRACTS, 0)})
        parts.append(str(folder))
        quarantines.append(str(bad))
        clips += own
    return parts, quarantines, clips


def merge(tmp_path: Path, parts: list[str], quarantines: list[str], required: tuple[str, ...] = ("train", "held_out")) -> dict:
    return merge_clips(parts, quarantines, *(str(tmp_path / name) for name in ("out", "bad", "report.json")), required)


def test_merged_partitions_are_the_manifest_of_all_clips(tmp_path):
    parts, quarantines, clips = partitions(tmp_path)
    summary = merge(tmp_path, parts, quarantines)
    assert (summary["accepted"], summary["quarantined"], summary["rows"]) == (12, 0, 12) and summary["splits"] == {"held_out": 1, "train": 11}
    write_manifest(tmp_path / "whole", clips)
    assert (tmp_path / "out/manifest.parquet").read_bytes() == (tmp_path / "whole/manifest.parquet").read_bytes()
    assert all((tmp_path / "out" / name).is_file() for clip in clips for name in clip.files())
    assert read_json(tmp_path / "report.json")["partitions"] == 3


def test_a_duplicate_of_another_partition_is_rejected_and_the_quarantines_are_joined(tmp_path):
    parts, quarantines, _ = partitions(tmp_path)
    same = np.random.default_rng(99).integers(0, 256, (6, 8), np.uint8)
    for folder, name in ((parts[0], "clip-00"), (parts[1], "clip-01")):
        rows = {clip.clip_id: np.random.default_rng(int(clip.clip_id[-2:])).integers(0, 256, (6, 8), np.uint8) for clip in read_manifest(folder)}
        write_hashes(folder, list(rows), list((rows | {name: same}).values()))
    rejected = make_clip(Path(quarantines[2]), "clip-90", 13)
    write_manifest(quarantines[2], [rejected])
    reason = {"clip_id": "clip-90", "thumbnail": None, "contract": "captions", "rule": "a-rule", "value": 1, "threshold": 2, "explanation": None}
    write_json(Path(quarantines[2]) / "reasons.json", [reason])
    write_json(Path(quarantines[2]) / VERDICTS, {"clips": 5, "lost": dict.fromkeys(CONTRACTS, 0) | {"captions": 1}})
    summary = merge(tmp_path, parts, quarantines)
    assert (summary["accepted"], summary["quarantined"]) == (11, 2)
    assert [clip.clip_id for clip in read_manifest(tmp_path / "bad")] == ["clip-01", "clip-90"]
    assert all((tmp_path / "bad" / name).is_file() for clip in read_manifest(tmp_path / "bad") for name in clip.files())
    found = {row["clip_id"]: (row["contract"], row["rule"]) for row in read_json(tmp_path / "bad/reasons.json")}
    assert found == {"clip-01": ("quality", "no-near-duplicate"), "clip-90": ("captions", "a-rule")}
    assert "clip-01" not in {clip.clip_id for clip in read_manifest(tmp_path / "out")}


def test_the_share_of_rejections_is_that_of_all_partitions(tmp_path):
    parts, quarantines, _ = partitions(tmp_path)
    write_json(Path(quarantines[0]) / VERDICTS, {"clips": 4, "lost": dict.fromkeys(CONTRACTS, 0) | {"quality": 4}})
    assert merge(tmp_path, parts, quarantines)["accepted"] == 12  # a third of all; the partition alone would be refused
    write_json(Path(quarantines[1]) / VERDICTS, {"clips": 4, "lost": dict.fromkeys(CONTRACTS, 0) | {"quality": 3}})
    with pytest.raises(Refused, match=r"contract quality 2\.1\.0 rejects 7 of 12 clips"):
        merge(tmp_path / "again", parts, quarantines)
    assert not (tmp_path / "again/out").exists() and not (tmp_path / "again/bad").exists()


def test_a_required_split_without_a_clip_is_refused(tmp_path):
    parts, quarantines, _ = partitions(tmp_path, count=1)
    with pytest.raises(InputError, match="split validation"):
        merge(tmp_path, parts, quarantines, ("validation",))
    assert not (tmp_path / "out").exists()


def test_a_partition_whose_clips_are_all_rejected_is_no_failure(tmp_path):
    clips = [make_clip(tmp_path / "clips", f"clip-{number}", 13, caption="x") for number in range(3)]
    write_manifest(tmp_path / "clips", [replace(clip, caption_words=1, camera_phrases=0, caption_source="given") for clip in clips])
    measured = read_manifest(tmp_path / "clips")
    paths = [str(tmp_path / name) for name in ("clips", "out", "bad")]
    summary, _ = filter_clips(*paths, ["captions"], lambda _: list(measured), judged=False)
    assert summary["accepted"] == 0 and read_json(tmp_path / "bad" / VERDICTS) == {"clips": 3, "lost": {"captions": 3}}
    with pytest.raises(Refused):
        filter_clips(*paths, ["captions"], lambda _: list(measured))


def test_a_partition_without_footage_goes_through_all_steps(tmp_path):
    settings = {"game": {"train_maps": ["MAP01"]}, "partitions": 2}
    split_sources(str(tmp_path / "sources"), settings, ["train"])
    counts = read_json(tmp_path / "sources/partitions.json")["partitions"]
    empty = next(number for number, row in enumerate(counts) if not any(row["levels"].values()))
    names = [str(tmp_path / name) for name in ("raw", "posed", "bad-1", "checked", "bad-2", "report", "captioned", "bad-3")]
    assert collect(names[0], settings, 0, sources=str(tmp_path / "sources"), partition=empty)["clips"] == 0
    complete_geometry(names[0], names[1], names[2], {}, judged=False)
    check_quality(names[1], names[3], names[4], names[5], judged=False)
    annotate(names[3], names[6], names[7], None, str(tmp_path / "journal"), judged=False)
    assert (tmp_path / "captioned" / FRAME_HASHES).is_file() and len(merged_manifest(names[6:7])) == 0
    assert merged_manifest(names[6:7]).column_names[-1] == ORIGIN
