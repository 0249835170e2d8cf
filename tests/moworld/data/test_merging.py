"""Merging the folders of partitions: the same manifest as one folder, and duplicates over everything."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moworld.data import duplicates
from moworld.data.clips import Clip, read_manifest, write_manifest
from moworld.data.duplicates import similarities, similarity_over, with_similarity, write_hashes
from moworld.data.merging import link_rows, merged_manifest, write_table
from moworld.errors import InputError


def clip(number: int, **columns) -> Clip:
    return Clip(f"clip-{number:03d}", "video", "a", "train", 13, 16.0, 48, 64, f"videos/{number}.mp4", f"hash-{number}", **columns)


def folders(tmp_path: Path, clips: list[Clip], count: int) -> list[Path]:
    made = []
    for part in range(count):
        folder = tmp_path / f"part-{part}"
        for row in clips[part::count]:
            (folder / "videos").mkdir(parents=True, exist_ok=True)
            (folder / row.video).write_bytes(row.clip_id.encode())
        write_manifest(folder, clips[part::count])
        made.append(folder)
    return made


def alike(seed: int) -> list[np.ndarray]:
    """Hashes of clips of which some repeat frames of earlier ones, with up to 9 other bits."""
    chosen = np.random.default_rng(seed)
    made: list[np.ndarray] = []
    for number in range(40):
        own = chosen.integers(0, 256, (chosen.integers(0, 12), 8), dtype=np.uint8)
        if number > 4 and number % 3 == 0 and len(made[number - 4]):
            own = made[number - 4].copy()
            for row in own:
                for bit in chosen.choice(64, chosen.integers(0, 10), replace=False):
                    row[bit // 8] ^= 1 << (bit % 8)
        made.append(own)
    return made


@pytest.mark.parametrize("seed", range(4))
def test_similarities_are_those_of_the_pairwise_search(seed):
    hashes = alike(seed)
    expected = [row.similarity for row in with_similarity([clip(number) for number in range(len(hashes))], hashes)]
    values = np.concatenate(hashes).copy().view(">u8").astype(np.uint64).ravel()
    found = similarities(values, np.array([len(own) for own in hashes]))
    assert found.tolist() == expected and max(expected) == 1.0


def test_many_frames_are_compared_by_halves(monkeypatch):
    monkeypatch.setattr(duplicates, "EXACT_FRAMES", 10)
    chosen = np.random.default_rng(0)
    first = chosen.integers(0, 2**63, 400).astype(np.uint64)
    copy = first ^ np.uint64(5)  # two bits of the lower half
    other = first ^ np.uint64(0xFF00000000)  # eight bits: not the same picture
    found = similarities(np.concatenate([first, copy, other]), np.array([400, 400, 400]))
    assert found.tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("count", [1, 3])
def test_the_merged_manifest_is_that_of_one_folder(tmp_path, count):
    clips = [clip(number, similarity=0.0, caption="a hall" if number % 2 else None, camera_faults=number) for number in range(10)]
    parts = folders(tmp_path, clips, count)
    table = merged_manifest(parts)
    (tmp_path / "out").mkdir()
    link_rows(table, parts, tmp_path / "out")
    write_table(tmp_path / "out", table)
    write_manifest(tmp_path / "whole", clips)
    assert (tmp_path / "out/manifest.parquet").read_bytes() == (tmp_path / "whole/manifest.parquet").read_bytes()
    assert all((tmp_path / "out" / row.video).read_bytes() == row.clip_id.encode() for row in read_manifest(tmp_path / "out"))


def test_duplicates_over_everything_and_an_id_twice(tmp_path):
    clips = [clip(number, similarity=0.25) for number in range(6)]
    parts = folders(tmp_path, clips, 2)
    hashes = np.random.default_rng(1).integers(0, 256, (5, 4, 8), dtype=np.uint8)
    hashes[3] = hashes[2]  # of another partition; clip 5 has none
    for part, folder in enumerate(parts):
        own = [number for number in range(5) if number % 2 == part]
        write_hashes(folder, [clips[number].clip_id for number in own], [hashes[number] for number in own])
    table = merged_manifest(parts, similar=True)
    assert table.column("similarity").to_pylist() == [0.0, 0.0, 0.0, 1.0, 0.0, 0.25]
    write_manifest(parts[1], [replace(clips[0], caption="of the second"), *clips[1::2]])
    table = merged_manifest(parts)
    assert len(table) == 6 and table.column("caption").to_pylist() == [None] * 6  # the first is kept


def test_a_folder_that_is_no_partition_is_named(tmp_path):
    parts = folders(tmp_path, [clip(1)], 1)
    with pytest.raises(InputError, match=r"missing/manifest\.parquet"):
        merged_manifest([*parts, tmp_path / "missing"])
    assert len(merged_manifest([])) == 0


def test_a_new_clip_never_makes_one_of_an_earlier_revision_a_duplicate(tmp_path: Path):
    shown = np.random.default_rng(5).integers(0, 256, (6, 8), np.uint8)
    for number, name in enumerate(("z-earlier", "a-new")):
        (tmp_path / str(number)).mkdir()
        write_hashes(tmp_path / str(number), [name], [shown], [name] if number == 0 else ())
    names, similarity = similarity_over([tmp_path / "0", tmp_path / "1"])
    assert names.to_pylist() == ["a-new"] and similarity.tolist() == [1.0]
