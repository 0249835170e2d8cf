"""Imports append: the next revision has the clips of the newest one, whose splits, features and codec stay as they are."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moworld.camera.cameras import Cameras
from moworld.data.clips import Clip, read_manifest, with_cameras, write_manifest
from moworld.data.history import carry, read_base
from moworld.data.settings import DataSettings
from moworld.data.sources import plan_import
from moworld.errors import InputError
from moworld.files import sha256_file, sha256_tree
from moworld.video import write_video
from moworld_ops.components.cache_features.step import cache_features, put_under_dvc
from moworld_ops.components.check_quality.step import check_quality
from moworld_ops.components.collect.step import collect
from moworld_ops.components.platform.dataset import clips_folder, earlier_clips, earlier_features
from moworld_ops.components.platform.revisions import newest_revision
from moworld_ops.components.train_codec.step import train_codec
from moworld_ops.pipelines.data_set import find_revision

CODEC = {"hidden": 8, "blocks": 1, "steps": 2, "batch": 1, "groups": 2, "pca_patches": 200}
SIZE = {"height": 16, "width": 32, "min_frames": 5, "crf": 20}
TEXT = {"kind": "minilm", "length": 6}


def film(path: Path, seed: int) -> None:
    """A video of nine frames of a pattern that moves."""
    path.parent.mkdir(exist_ok=True)
    picture = np.kron(np.random.default_rng(seed).integers(0, 256, (8, 10, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    write_video(path, [np.roll(picture, 2 * t, axis=1) for t in range(9)], 24)


def described(folder: Path, out: Path) -> None:
    """Gives new clips a camera and a caption, as the steps between collect and train_codec do; rows that have them are kept."""
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("*.parquet", "base.json"))
    w2c = np.tile(np.eye(4), (9, 1, 1))
    w2c[:, 2, 3] = np.arange(9)
    cameras = Cameras(np.tile([0.5, 0.8, 0.5, 0.5], (9, 1)), w2c)
    rows = [
        clip if clip.camera else with_cameras(replace(clip, caption="a hall", caption_source="given", translation_scale=1.0), out, cameras)
        for clip in read_manifest(folder)
    ]
    write_manifest(out, rows)
    carry(folder, out)


def run(place: Path, name: str, footage: Path, **settings) -> tuple[dict, dict, list[Clip]]:
    """Imports footage as one revision of the registry in `place`; returns the summaries of collect and cache_features, and the clips."""
    folder, registry = place / name, str(place / "registry")
    data = SIZE | {"videos": str(footage)} | settings
    extends = {"registry": registry, "append": data.get("append", True), "keep_codec": data.get("keep_codec", True)}
    collected = collect(str(folder / "raw"), data, 0, ["train"], extends)
    described(folder / "raw", folder / "clips")
    clips, codec, out = str(folder / "clips"), str(folder / "codec"), str(folder / "features")
    train_codec(clips, codec, CODEC, (16, 32), seed=1)
    with earlier_features(clips, out) as earlier:
        cached = cache_features(clips, codec, out, data, TEXT, str(folder / "encoded"), earlier=earlier)
    put_under_dvc(out, registry, clips=clips)
    return collected, cached, read_manifest(clips)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with one revision, of videos a and b."""
    place = tmp_path_factory.mktemp("first")
    for number, name in enumerate("ab"):
        film(place / "one" / f"{name}.mp4", number)
    run(place, "run-1", place / "one", validation_videos=["b"])
    return place


@pytest.fixture
def place(first: Path, tmp_path: Path) -> Path:
    shutil.copytree(first, tmp_path / "place", copy_function=shutil.copy2)
    film(tmp_path / "place/two/c.mp4", 7)
    shutil.copy(tmp_path / "place/one/a.mp4", tmp_path / "place/two/again.mp4")
    return tmp_path / "place"


def test_an_import_extends_the_newest_revision_and_encodes_only_what_is_new(place: Path):
    registry = str(place / "registry")
    before, base = {clip.clip_id: clip for clip in read_manifest(place / "run-1/clips")}, newest_revision(registry)
    collected, cached, clips = run(place, "run-2", place / "two")
    assert {clip.scene: clip.split for clip in clips} == {"a": "train", "b": "validation", "c": "train"}
    assert all(before[clip.clip_id] == clip for clip in clips if clip.scene != "c")
    assert (cached["encoded"], cached["kept"], cached["clips"]) == (1, 2, 3)
    assert {row["file"]: (row["fate"], row["clips"]) for row in collected["files"]} == {"c.mp4": ("imported", 1), "again.mp4": ("kept", 0)}
    assert read_base(place / "run-2/clips")["revision"] == base != newest_revision(registry)
    assert sha256_tree(place / "run-1/codec") == sha256_tree(place / "run-2/codec")
    old, new = ({path.name: sha256_file(path) for path in (place / run / "features").glob("shard-*")} for run in ("run-1", "run-2"))
    assert old.items() < new.items() and len(new) == 2
    assert [path.name for path in clips_folder(registry, "x").parent.iterdir()] == [newest_revision(registry)]
    found = find_revision(registry)
    assert {row["file"]: (row["fate"], row["clips"], row["split"]) for row in found.files()} == {
        "a.mp4": ("imported", 1, "train"), "again.mp4": ("kept", 1, "train"), "b.mp4": ("imported", 1, "validation"),
        "c.mp4": ("imported", 1, "train"),
    }  # fmt: skip
    assert found.files()[3]["place"] == str(place / "two/c.mp4")
    facts = found.statistics()
    assert (facts["clips"], facts["frames"], facts["hours"]) == (3, 27, round(27 / 24 / 3600, 4)) and facts["splits"]["validation"]["clips"] == 1


def test_footage_that_comes_again_with_other_cameras_is_kept_and_says_so(place: Path):
    second, third = place / "second", place / "third"
    film(second / "c.mp4", 7)
    (second / "c.prompt.txt").write_text("a hall")
    run(place, "run-2", second)
    shutil.copytree(second, third)
    again, _, _ = run(place, "run-3", second)
    (third / "c.prompt.txt").write_text("a garden")
    shutil.copy(place / "one/a.mp4", third / "a.mp4")
    (third / "a.prompt.txt").write_text("a street")
    (place / "one/c.mp4").write_bytes((second / "c.mp4").read_bytes())  # without a file beside it: nothing is lost
    other, _, clips = run(place, "run-4", third)
    plain, _, _ = run(place, "run-5", place / "one")
    said = {(name, row["file"]): (row["fate"], "not used, which differ" in row["why"]) for name, one in (("2", again), ("3", other), ("1", plain))
            for row in one["files"] if row["file"].endswith(".mp4")}  # fmt: skip
    assert said == {
        ("2", "c.mp4"): ("kept", False), ("3", "c.mp4"): ("kept", True), ("3", "a.mp4"): ("kept", True),
        ("1", "a.mp4"): ("kept", False), ("1", "b.mp4"): ("kept", False), ("1", "c.mp4"): ("kept", False),
    }  # fmt: skip
    assert {clip.scene for clip in clips} == {"a", "b", "c"}


def test_the_same_footage_again_changes_nothing(place: Path):
    before = newest_revision(str(place / "registry"))
    collected, cached, clips = run(place, "run-2", place / "one")
    assert newest_revision(str(place / "registry")) == before
    assert (collected["new"], cached["encoded"], len(clips)) == (0, 0, 2) and {row["fate"] for row in collected["files"]} == {"kept"}


def test_a_dry_run_names_what_is_in_the_data_already(place: Path):
    plan = plan_import(DataSettings(**SIZE, videos=str(place / "two")), earlier_clips(str(place / "registry")))
    assert {row["file"]: row["fate"] for row in plan["files"]} == {"c.mp4": "import", "again.mp4": "kept"}


def test_a_replacing_import_has_its_own_footage_alone_and_every_file_is_remembered(place: Path):
    collected, _, clips = run(place, "run-2", place / "two", append=False)
    assert {clip.scene for clip in clips} == {"c", "again"} and "base.json" not in {path.name for path in (place / "run-2/clips").iterdir()}
    fates = {row["file"]: row["fate"] for row in find_revision(str(place / "registry")).files()}
    assert fates["b.mp4"] == "replaced" and fates["c.mp4"] == "imported" and len(collected["files"]) == 2


def test_a_new_codec_is_trained_and_everything_encoded_only_on_request(place: Path):
    _, cached, _ = run(place, "run-2", place / "two", keep_codec=False)
    assert (cached["encoded"], cached["kept"]) == (3, 0)


def test_a_split_that_footage_has_cannot_be_changed_and_other_frame_sizes_are_refused(place: Path):
    with pytest.raises(InputError, match="b, which is in split validation already"):
        run(place, "run-2", place / "two", held_out_videos=["b"])
    with pytest.raises(InputError, match="height, width: found 32x32, expected 16x32 in revision"):
        run(place, "run-3", place / "two", height=32)


def test_two_imports_at_a_time_do_not_lose_each_other(place: Path):
    registry = str(place / "registry")
    film(place / "three/d.mp4", 9)
    extends = {"registry": registry, "append": True, "keep_codec": True}
    collect(str(place / "late/raw"), SIZE | {"videos": str(place / "three")}, 0, [], extends)
    described(place / "late/raw", place / "late/clips")
    run(place, "run-2", place / "two")
    between = newest_revision(registry)
    features = place / "late/features"
    shutil.copytree(place / "run-1/features", features, ignore=shutil.ignore_patterns("*.parquet"))
    with pytest.raises(InputError, match="which another run recorded"):
        put_under_dvc(str(features), registry, clips=str(place / "late/clips"))
    assert newest_revision(registry) == between and {clip.scene for clip in earlier_clips(registry).clips} == {"a", "b", "c"}


def test_a_registry_whose_clips_are_elsewhere_is_named(place: Path):
    shutil.rmtree(clips_folder(str(place / "registry"), newest_revision(str(place / "registry"))))
    with pytest.raises(InputError, match=r"no clips of the newest data revision.*--replace"):
        earlier_clips(str(place / "registry"))


def test_a_new_clip_that_repeats_an_earlier_one_is_the_duplicate_whatever_its_name(tmp_path: Path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name, seed in (("b-earlier", 1), ("a-new", 1), ("c-new", 2)):
        film(folder / "videos" / f"{name}.mp4", seed)
    measures = {"epipolar_error_px": 0.5, "max_rotation_step_degrees": 3.0, "max_translation_step": 1.0}
    clips = [
        Clip(name, "video", name, "train", 9, 24.0, 64, 80, f"videos/{name}.mp4", sha256_file(folder / "videos" / f"{name}.mp4"), **measures)
        for name in ("a-new", "b-earlier", "c-new")
    ]
    clips[1] = replace(clips[1], similarity=0.0, sharpness=50.0, brightness=100.0, contrast=50.0, motion=1.0, frozen_share=0.0, cut_score=0.0,
                       flicker=0.0, text_share=0.0, aspect=1.25)  # fmt: skip
    write_manifest(folder, clips)
    paths = [str(tmp_path / name) for name in ("clips", "out", "bad", "report.json", "hashes")]
    check_quality(*paths)
    assert {clip.clip_id: clip.similar_to for clip in read_manifest(tmp_path / "bad")}["a-new"] == "b-earlier"
    kept = {clip.clip_id: clip for clip in read_manifest(tmp_path / "out")}
    assert kept.get("b-earlier") == clips[1]
    assert len(list((tmp_path / "hashes").rglob("*.npy"))) >= 2
