"""Feature shards: what was written is what a window reads, by byte range, from a disk or another file system."""

import json
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet

from moworld.data.features import FeatureStore, FeatureWriter
from moworld.errors import InputError


def clip_tensors(num_latents: int, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    frames = 4 * (num_latents - 1) + 1
    return {
        "latents": torch.as_tensor(rng.normal(size=(16, num_latents, 2, 3))).half().float(),
        "text": torch.as_tensor(rng.normal(size=(4, 8))).half().float(),
        "c2w": torch.as_tensor(rng.normal(size=(frames, 4, 4)).astype(np.float32)),
        "intrinsics": torch.as_tensor(rng.uniform(size=(frames, 4)).astype(np.float32)),
    }


def write(folder: Path, lengths: dict[str, int], shard_bytes: int = 2**20, split: str = "train") -> dict[str, dict]:
    folder.mkdir(exist_ok=True)
    writer, written = FeatureWriter(folder, shard_bytes), {}
    for seed, (name, length) in enumerate(lengths.items()):
        written[name] = clip_tensors(length, seed)
        row = {"clip_id": name, "split": split, "scene": "MAP01", "source": "game", "caption": "a hall", "video_sha256": "0" * 64}
        writer.add({**row, "num_frames": 4 * (length - 1) + 1}, written[name])
    writer.close()
    return written


def test_a_window_holds_its_latents_and_the_cameras_of_its_video_frames(tmp_path: Path):
    written = write(tmp_path, {"a": 9, "b": 5})
    window = FeatureStore(tmp_path).read_window("a", 3, 4)
    assert {tensor.dtype for tensor in window.values()} == {torch.float32}
    assert torch.equal(window["latents"], written["a"]["latents"][:, 3:7])
    assert torch.equal(window["text"], written["a"]["text"])
    assert torch.equal(window["c2w"], written["a"]["c2w"][12:25])  # latent frame 3 ends with video frame 12
    assert torch.equal(window["intrinsics"], written["a"]["intrinsics"][12:25])


def test_a_split_is_never_another_one_and_an_empty_or_short_one_is_refused(tmp_path: Path):
    write(tmp_path, {"a": 9, "b": 5, "c": 9})
    store = FeatureStore(tmp_path)
    store.clips[2] = replace(store.clips[2], split="held_out")
    assert [row.clip_id for row in store.of_split("train")] == ["a", "b"]
    assert [row.clip_id for row in store.of_split("train", 6)] == ["a"]
    with pytest.raises(InputError, match=r"split validation: found no clip \(held_out 1, train 2\), expected at least one; name sources"):
        store.of_split("validation")
    with pytest.raises(InputError, match=r"split held_out: found clips of at most 33 frames, expected 37 frames"):
        store.of_split("held_out", 10)


def test_every_clip_of_many_shards_is_found(tmp_path: Path):
    written = write(tmp_path, {f"clip{i}": 3 + i for i in range(6)}, shard_bytes=3000)
    store = FeatureStore(tmp_path)
    assert len({row.shard for row in store.clips}) > 2
    for row in store.clips:
        window = store.read_window(row.clip_id, 0, row.num_latents)
        assert torch.equal(window["latents"], written[row.clip_id]["latents"])
        assert torch.equal(window["c2w"], written[row.clip_id]["c2w"])


def test_a_window_on_another_file_system_is_read_by_its_byte_ranges_alone(tmp_path: Path):
    memory = fsspec.filesystem("memory")
    written = write(tmp_path, {"long": 400})
    memory.put(str(tmp_path), "/features", recursive=True)
    try:
        store = FeatureStore("memory://features")
        shard = f"/features/{store.clips[0].shard}"
        memory.pipe(shard, all_but(memory.cat(shard), {"latents": (200, 203), "c2w": (800, 809), "intrinsics": (800, 809), "text": (0, 4)}))
        window = store.read_window("long", 200, 3)
        assert torch.equal(window["latents"], written["long"]["latents"][:, 200:203])
        assert torch.equal(window["c2w"], written["long"]["c2w"][800:809])
        assert store.read_window("long", 300, 3)["latents"].isnan().all()  # the rest was rubbish indeed
    finally:
        memory.rm("/features", recursive=True)


def all_but(shard: bytes, rows: dict[str, tuple[int, int]]) -> bytes:
    """A shard in which everything but the header and these rows of clip `long` is 0xff."""
    base = 8 + int.from_bytes(shard[:8], "little")
    header, damaged = json.loads(shard[8:base]), bytearray(b"\xff" * len(shard))
    damaged[:base] = shard[:base]
    for name, (first, last) in rows.items():
        begin, end = header[f"long/{name}"]["data_offsets"]
        row_bytes = (end - begin) // header[f"long/{name}"]["shape"][0]
        kept = slice(base + begin + first * row_bytes, base + begin + last * row_bytes)
        damaged[kept] = shard[kept]
    return bytes(damaged)


@pytest.mark.parametrize(("clip", "start", "count"), [("a", 3, 3), ("a", -1, 2), ("zebra", 0, 1)])
def test_a_window_outside_the_clip_is_refused(tmp_path: Path, clip: str, start: int, count: int):
    write(tmp_path, {"a": 5})
    with pytest.raises(InputError, match=clip):
        FeatureStore(tmp_path).read_window(clip, start, count)


def test_tensors_that_disagree_in_length_are_refused(tmp_path: Path):
    tensors = clip_tensors(5, 0)
    tensors["c2w"] = tensors["c2w"][:-1]
    with pytest.raises(ValueError, match="5 latent frames do not match 16 poses"):
        FeatureWriter(tmp_path).add({"clip_id": "a"}, tensors)


@pytest.mark.parametrize("kept", [4, 60, 3000])  # within the length, the header and the data
def test_a_shard_cut_short_is_an_input_error_and_not_a_crash(tmp_path: Path, kept: int):
    write(tmp_path, {"a": 40})
    shard = next(tmp_path.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:kept])
    with pytest.raises(InputError, match="fetch the file again"):
        FeatureStore(tmp_path).read_window("a", 0, 40)


def test_a_folder_without_an_index_and_an_index_of_another_kind_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"index\.parquet"):
        FeatureStore(tmp_path)
    parquet.write_table(pyarrow.table({"name": ["a"]}), tmp_path / "index.parquet")
    with pytest.raises(InputError, match="columns"):
        FeatureStore(tmp_path)
    (tmp_path / "index.parquet").write_bytes(b"not parquet")
    with pytest.raises(InputError, match=r"index\.parquet"):
        FeatureStore(tmp_path)


def test_an_index_with_the_removed_column_is_read_and_the_column_is_ignored(tmp_path: Path):
    write(tmp_path, {"a": 5})
    clips, table = FeatureStore(tmp_path).clips, parquet.read_table(tmp_path / "index.parquet")
    parquet.write_table(table.append_column("aesthetic", pyarrow.nulls(len(table), pyarrow.float64())), tmp_path / "index.parquet")
    assert FeatureStore(tmp_path).clips == clips
