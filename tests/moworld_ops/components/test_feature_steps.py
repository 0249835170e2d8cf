"""The steps `train_codec` and `cache_features` on real small clips: what one writes the next one reads."""

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moworld.camera.cameras import Cameras
from moworld.camera.formats import read_cameras
from moworld.data.clips import Clip, with_cameras, write_manifest
from moworld.data.features import FeatureStore
from moworld.data.frames import model_frames
from moworld.errors import InputError
from moworld.files import read_json, sha256_tree, write_json
from moworld.model.checkpoints.base import base_codec
from moworld.model.codec import StreamingCodec
from moworld.model.settings import BaseSettings
from moworld.training.codec import psnr, to_frames
from moworld_ops.components.cache_features.step import cache_features, put_under_dvc
from moworld_ops.components.merge_features.step import merge_features
from moworld_ops.components.platform.revisions import fetch_revision
from moworld_ops.components.train_codec.step import train_codec
from tests.moworld.data.test_frames import make_clip

CODEC = {"hidden": 8, "blocks": 1, "steps": 4, "batch": 2, "groups": 2, "pca_patches": 400}
DATA = {"height": 16, "width": 32, "videos": "elsewhere"}
TEXT = {"kind": "minilm", "length": 6}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("steps")
    clips = [
        make_clip(root / "clips", "a", 21),
        make_clip(root / "clips", "b", 15, caption="a yard", seed=1),
        make_clip(root / "clips", "c", 13, "held_out", seed=2),
    ]
    write_manifest(root / "clips", clips)
    metrics = train_codec(str(root / "clips"), str(root / "codec"), CODEC, (16, 32), seed=3)
    summary = cache_features(str(root / "clips"), str(root / "codec"), str(root / "features"), DATA, TEXT)
    summary |= put_under_dvc(str(root / "features"), str(root / "registry"))
    return root, clips, metrics, summary


def test_the_codec_folder_is_measured_by_split_and_loads(made):
    root, _, metrics, _ = made
    assert read_json(root / "codec/codec_metrics.json") == metrics and set(metrics) >= {"psnr_train", "psnr_held_out"}
    assert len(read_json(root / "codec/losses.json")["reconstruction"]) == 4
    StreamingCodec.from_pretrained(root / "codec")


def test_without_steps_the_codec_of_a_base_stays_as_it_is_and_is_measured(made, tmp_path):
    root, _, metrics, _ = made
    shutil.copytree(root / "codec", tmp_path / "base/vae")
    settings = {**CODEC, "steps": 0}
    found = train_codec(str(root / "clips"), str(tmp_path / "out"), settings, (16, 32), seed=9, base={"source": str(tmp_path / "base")})
    assert found["psnr_held_out"] == metrics["psnr_held_out"] and found["first_psnr_train"] == pytest.approx(found["psnr_train"], abs=0.5)
    one, other = (StreamingCodec.from_pretrained(folder).state_dict() for folder in (tmp_path / "base/vae", tmp_path / "out"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_base_without_a_small_codec_gives_none(tmp_path):
    assert base_codec(BaseSettings(source=str(tmp_path))) is None
    write_json(tmp_path / "vae/config.json", {"_class_name": "AutoencoderKLWan"})
    assert base_codec(BaseSettings(source=str(tmp_path))) is None


def test_every_clip_is_in_the_index_with_split_caption_and_whole_groups(made):
    root, clips, _, summary = made
    rows = {row.clip_id: row for row in FeatureStore(root / "features").clips}
    assert {name: (row.split, row.caption, row.num_frames) for name, row in rows.items()} == {
        "a": ("train", "a hall", 21),
        "b": ("train", "a yard", 13),
        "c": ("held_out", "a hall", 13),
    }
    assert [rows[clip.clip_id].video_sha256 for clip in clips] == [clip.video_sha256 for clip in clips]
    assert summary["clips"] == 3 and summary["captions"] == 2


@torch.no_grad()
def test_cached_latents_decode_to_the_clips_frames_beside_its_cameras(made):
    root, clips, _, _ = made
    store, codec = FeatureStore(root / "features"), StreamingCodec.from_pretrained(root / "features/codec")
    window = store.read_window("a", 0, 6)
    frames = model_frames(root / "clips", clips[0], (16, 32)).astype(float)
    restored = to_frames(codec.decode(window["latents"][None])).astype(float)
    assert psnr(((restored - frames) ** 2).mean(), peak=255) > 20
    assert psnr(((restored[:-4] - frames[4:]) ** 2).mean(), peak=255) < psnr(((restored - frames) ** 2).mean(), peak=255)
    np.testing.assert_allclose(window["c2w"][:, 2, 3], 0.5 * np.arange(21), atol=1e-5)


def test_clips_of_one_caption_share_its_embedding(made):
    store = FeatureStore(made[0] / "features")
    text = {name: store.read_window(name, 0, 1)["text"] for name in "abc"}
    assert text["a"].shape == (6, 384) and torch.equal(text["a"], text["c"]) and not torch.equal(text["a"], text["b"])


def test_the_world_file_says_what_a_model_of_these_features_must_know(made):
    world = read_json(made[0] / "features/world.json")
    assert (world["height"], world["width"], world["fps"]) == (16, 32, 16.0)
    assert world["text"]["kind"] == "minilm" and world["intrinsics"] == pytest.approx([0.5, 1.2, 0.5, 0.5])


def test_mixed_footage_gives_the_rate_and_the_lens_of_most_frames_and_one_warning(made, tmp_path: Path, caplog):
    facts = {"a": (13, 30.0, 0.4), "b": (61, 24.0, 0.9), "c": (37, 23.976, 0.7), "d": (29, 60.0, 0.5)}
    clips = []
    for name, (frames, fps, fx) in facts.items():
        clip = make_clip(tmp_path / "clips", name, frames)
        cameras = read_cameras(tmp_path / "clips" / str(clip.camera))
        lens = np.tile([fx, 1.6 * fx, 0.5, 0.5], (frames, 1))
        clips.append(with_cameras(replace(clip, fps=fps), tmp_path / "clips", Cameras(lens, cameras.w2c)))

    def world(order: list[Clip]) -> dict:
        for number, clip in enumerate(order):  # the manifest is sorted by clip_id
            order[number] = replace(clip, clip_id=f"{number}-{clip.clip_id}")
        write_manifest(tmp_path / "clips", order)
        cache_features(str(tmp_path / "clips"), str(made[0] / "codec"), str(tmp_path / "features"), DATA, TEXT, str(tmp_path / "encoded"))
        return read_json(tmp_path / "features/world.json")

    with caplog.at_level("WARNING", "moworld.steps"):
        found = world(clips[:])
    # 140 frames: 98 of 24 per second, 29 of 60, 13 of 30; by fx 0.4 (13), 0.5 (29), 0.7 (37), 0.9 (61), the middle one is 0.7
    assert found["fps"] == 24.0 and found["intrinsics"][0] == pytest.approx(0.7, abs=0.01)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "24 (70%), 60 (21%), 30 (9%) frames per second" in line and "\n" not in line
    assert world(clips[::-1]) == found  # the order of clips does not matter
    caplog.clear()
    assert world(clips[1:3])["fps"] == 24.0 and not caplog.records


def test_runs_that_encode_at_the_same_time_share_a_cache(made, tmp_path: Path):
    clips = [make_clip(tmp_path / "clips", f"clip-{number:02d}", 45, seed=number) for number in range(12)]
    write_manifest(tmp_path / "clips", clips)
    places = [str(tmp_path / "clips"), str(made[0] / "codec")]
    outs = [tmp_path / name for name in ("one", "two")]
    runs = [subprocess.Popen([sys.executable, "-c", CACHING, *places, str(out), str(tmp_path / "encoded")]) for out in outs]
    assert [run.wait() for run in runs] == [0, 0]
    assert sha256_tree(outs[0]) == sha256_tree(outs[1])
    assert len([path for path in (tmp_path / "encoded").rglob("*") if path.is_file()]) == 12  # no temporary file is left


def test_the_revision_brings_the_shards_back(made, tmp_path: Path):
    root, _, _, summary = made
    fetch_revision(str(root / "registry"), summary["revision"], str(tmp_path / "again"))
    (root / "features/revision.json").rename(root / "revision.json")  # written after the revision it names
    try:
        assert sha256_tree(tmp_path / "again") == sha256_tree(root / "features")
    finally:
        (root / "revision.json").rename(root / "features/revision.json")


def test_an_empty_manifest_is_refused_by_both_steps_and_nothing_is_written(made, tmp_path: Path):
    (tmp_path / "clips").mkdir()
    write_manifest(tmp_path / "clips", [])
    with pytest.raises(InputError, match="no training clip"):
        train_codec(str(tmp_path / "clips"), str(tmp_path / "codec"), CODEC, (16, 32), seed=3)
    with pytest.raises(InputError, match="no clip"):
        cache_features(str(tmp_path / "clips"), str(made[0] / "codec"), str(tmp_path / "features"), DATA, TEXT)
    assert [path.name for path in tmp_path.iterdir()] == ["clips"]


CACHING = """
import sys
from moworld_ops.components.cache_features.step import cache_features
cache_features(*sys.argv[1:4], {"height": 16, "width": 32, "videos": "x"}, {"kind": "minilm", "length": 6}, sys.argv[4])
"""


@pytest.mark.parametrize("kills", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_killed_caching_resumes_and_encodes_nothing_twice(made, tmp_path: Path, kills: int):
    root = made[0]
    clips = [make_clip(tmp_path / "clips", f"clip-{number:02d}", 45, seed=number) for number in range(24)]
    write_manifest(tmp_path / "clips", clips)

    def started(name: str) -> subprocess.Popen:
        places = [str(tmp_path / "clips"), str(root / "codec"), str(tmp_path / name / "features"), str(tmp_path / name / "encoded")]
        return subprocess.Popen([sys.executable, "-c", CACHING, *places], stderr=subprocess.DEVNULL)

    begun = time.monotonic()
    assert started("whole").wait() == 0
    seconds, generator = time.monotonic() - begun, np.random.default_rng(0)
    whole = sha256_tree(tmp_path / "whole/features")
    written: dict[Path, int] = {}
    for _ in range(kills):
        process = started("killed")
        # imports take most of the time: kill in the last half, where encoding and writing happen
        time.sleep(seconds * generator.uniform(0.5, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        files = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed/encoded").rglob("*.safetensors") if path.name[0] != "."}
        assert files.items() >= written.items()  # encoded files are not written again
        written = files
        # whole or absent: a kill may come after the rename and before the process has ended
        assert not (tmp_path / "killed/features").exists() or sha256_tree(tmp_path / "killed/features") == whole
    assert started("killed").wait() == 0
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed/encoded").rglob("*.safetensors") if path.name[0] != "."}
    assert files.items() >= written.items() and len(files) == 24
    assert sha256_tree(tmp_path / "killed/features") == whole


def test_new_clips_cost_their_own_encoding_and_a_changed_one_is_encoded_again(made, tmp_path: Path):
    root = made[0]

    def encoded(clips: list, **text) -> int:
        write_manifest(tmp_path / "clips", clips)
        where = (str(tmp_path / "clips"), str(root / "codec"), str(tmp_path / "features"))
        return cache_features(*where, DATA, {**TEXT, **text}, str(tmp_path / "encoded"))["encoded"]

    clips = [make_clip(tmp_path / "clips", name, 21, seed=seed) for seed, name in enumerate("ab")]
    assert [encoded(clips), encoded(clips)] == [2, 0]
    clips.append(make_clip(tmp_path / "clips", "c", 21, seed=9))
    assert encoded(clips) == 1
    clips[0] = replace(clips[0], caption="another caption")
    assert encoded(clips) == 1
    assert encoded(clips, length=7) == 3  # other embeddings
    for path in (tmp_path / "encoded").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    assert [encoded(clips), encoded(clips, length=7)] == [3, 3]  # a damaged file is no file


def test_features_of_partitions_merge_to_those_of_all_clips(made, tmp_path):
    root, clips, _, _ = made
    cache, parts = str(tmp_path / "cache"), [str(tmp_path / f"part-{number}") for number in range(4)]
    settings = {**DATA, "partitions": 4}
    counts = [
        cache_features(str(root / "clips"), str(root / "codec"), part, settings, TEXT, cache, partition=number)["clips"]
        for number, part in enumerate(parts)
    ]
    assert sum(counts) == 3 and 0 in counts  # more partitions than clips
    assert merge_features(parts, str(tmp_path / "merged")) == {"clips": 3, "partitions": 4}
    merged, whole = FeatureStore(tmp_path / "merged"), FeatureStore(root / "features")
    assert [replace(row, shard="") for row in merged.clips] == [replace(row, shard="") for row in whole.clips]
    for clip in clips:
        one, other = merged.read_window(clip.clip_id, 0, 2), whole.read_window(clip.clip_id, 0, 2)
        assert all(torch.equal(one[name], other[name]) for name in one)
    for name in ("world.json", "licences.json"):
        assert read_json(tmp_path / "merged" / name) == read_json(root / "features" / name)
    assert sha256_tree(tmp_path / "merged/codec") == sha256_tree(root / "features/codec")
    with pytest.raises(InputError, match="no clip in any partition"):
        merge_features([parts[counts.index(0)]], str(tmp_path / "none"))
