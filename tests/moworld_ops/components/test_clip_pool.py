"""Clips in several processes: one that ends its process is tried twice, and costs no other clip anything."""

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from moworld.data.clips import read_manifest, write_manifest
from moworld.errors import InputError
from moworld.files import read_json
from moworld_ops.components.clip_pool import Failed, map_twice
from moworld_ops.components.clips import filter_clips
from tests.moworld.data.test_frames import make_clip


def work(what: str, folder: Path) -> str:
    seen = folder / f"{what}-{len(list(folder.glob(f'{what}-*')))}"
    seen.touch()
    if what == "poison" or (what == "unlucky" and seen.name == "unlucky-0"):
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "raises" or (what == "once" and seen.name == "once-0"):
        raise ValueError("two\nlines")
    if what == "input":
        raise InputError("a", "b", "c", "d", "e")
    return f"{what} {os.environ.get('OMP_NUM_THREADS')} {threading.active_count()}"


def test_a_clip_that_fails_twice_is_given_up_and_the_others_are_done(tmp_path):
    kinds = ["one", "poison", "two", "unlucky", "three", "raises", "once", "four"]
    results = map_twice(work, [(kind, tmp_path) for kind in kinds], "test")
    failed = {kind: one.reason for kind, one in zip(kinds, results, strict=True) if isinstance(one, Failed)}
    assert failed == {"poison": "the process that read it ended", "raises": "ValueError: two lines"}
    assert [one.split()[0] for one in results if isinstance(one, str)] == ["one", "two", "unlucky", "three", "once", "four"]
    assert len(list(tmp_path.glob("raises-*"))) == 2 and 2 <= len(list(tmp_path.glob("poison-*"))) <= 3  # its pool, and twice alone
    assert map_twice(work, [], "test") == []


def test_bad_input_ends_the_work(tmp_path):
    with pytest.raises(InputError):
        map_twice(work, [("input", tmp_path)], "test")


def test_poison_is_quarantined_with_its_reason(tmp_path):
    clips = [make_clip(tmp_path / "clips", f"clip-{i}", 13, caption="A stone hall with barrels.", seed=i) for i in range(3)]
    write_manifest(tmp_path / "clips", clips)
    first, *others = [replace(clip, caption_words=5, camera_phrases=0, caption_source="given") for clip in read_manifest(tmp_path / "clips")]

    def measure(folder: Path) -> list[object]:
        return [Failed("the process that read it ended"), *others]

    summary, _ = filter_clips(str(tmp_path / "clips"), str(tmp_path / "out"), str(tmp_path / "bad"), ["captions"], measure)
    assert (summary["accepted"], summary["quarantined"]) == (len(others), 1)
    (reason,) = read_json(tmp_path / "bad/reasons.json")
    assert (reason["clip_id"], reason["rule"], reason["value"]) == (first.clip_id, "can-be-processed", "the process that read it ended")
    assert [clip.clip_id for clip in read_manifest(tmp_path / "bad")] == [first.clip_id] and (tmp_path / "bad" / first.video).is_file()
