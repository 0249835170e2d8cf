"""Videos as clips: cut, scaled, with their cameras; invalid ones are rejected or listed, and no partial output stays."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from moworld.camera import Cameras, controls_to_c2w, read_cameras, write_cameras
from moworld.camera.formats import write_poses
from moworld.data.discovery import discover, list_line
from moworld.data.partitions import video_sizes
from moworld.data.shots import content_box, profiles
from moworld.data.sources import DataSettings, collect_clips, plan_import
from moworld.errors import InputError
from moworld.files import read_json, sha256_file
from moworld.video import read_frames, timeline, write_video
from tests.moworld.data.folders import verified
from tests.moworld.video.footage import encode

DATA = Path(__file__).parents[3] / "../shared/data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is absent")


def shot(seed: int, num_frames: int = 20, height: int = 72, width: int = 128) -> np.ndarray:
    """A picture of soft blobs that slides to the left."""
    cells = np.random.default_rng(seed).integers(0, 256, (height // 16, width // 16 + 4, 3), dtype=np.uint8)
    picture = cv2.resize(cells, (width + 64, height), interpolation=cv2.INTER_CUBIC)
    return np.stack([picture[:, t : t + width] for t in range(num_frames)])


def collect(source: Path | str, out: Path, **settings) -> dict:
    return collect_clips(out, DataSettings(videos=str(source), **{"min_frames": 9} | settings), seed=0)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    write_video(tmp_path / "videos/two shots.mp4", np.concatenate([shot(0), shot(1), shot(2, 5)]), fps=24)
    return tmp_path / "videos"


def test_a_video_is_cut_at_its_shots_and_short_ones_are_listed(videos: Path, tmp_path: Path):
    summary = collect(videos, tmp_path / "clips")
    clips = verified(tmp_path / "clips")
    content = sha256_file(videos / "two shots.mp4")
    stamps = [(f"two-shots-{content[:8]}-{time:07d}", 20) for time in (0, 833)]
    assert [(clip.clip_id, clip.num_frames) for clip in clips] == stamps
    assert {(clip.source_file, clip.source_sha256) for clip in clips} == {("two shots.mp4", content)}
    assert [item["rule"] for item in summary["rejected"]] == ["min_frames"]
    difference = read_frames(tmp_path / "clips" / clips[1].video).astype(float) - shot(1)
    assert np.abs(difference).mean() < 12


def test_a_camera_file_is_cut_with_its_video(videos: Path, tmp_path: Path):
    cameras = Cameras.from_c2w([0.5, 0.8, 0.5, 0.5], controls_to_c2w("w*20,l*24"))
    write_cameras(videos / "two shots.txt", cameras)
    collect(videos / "two shots.mp4", tmp_path / "clips")
    second = verified(tmp_path / "clips")[1]
    assert second.camera_origin == "file"
    np.testing.assert_allclose(read_cameras(tmp_path / "clips" / second.camera).w2c, cameras.w2c[20:40], atol=1e-9)


def test_a_camera_file_of_another_video_is_refused_and_nothing_is_written(videos: Path, tmp_path: Path):
    write_cameras(videos / "two shots.txt", Cameras.from_c2w([0.5, 0.8, 0.5, 0.5], controls_to_c2w("w*20")))
    words = r"two shots\.txt: rows: found 21 cameras, expected 45"
    for source in (videos, videos / "two shots.mp4"):
        with pytest.raises(InputError, match=words):
            collect(source, tmp_path / "clips")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["videos"]
    write_video(videos / "good.mp4", shot(3), fps=24)
    (rejected,) = collect(videos, tmp_path / "clips")["rejected"]
    assert rejected["video"] == "two shots.mp4" and rejected["rule"] == "camera" and "21 cameras" in rejected["value"]


def test_large_videos_are_scaled_down_with_their_aspect(tmp_path: Path):
    write_video(tmp_path / "v.mp4", shot(0, 9, 96, 160), fps=24)
    collect(tmp_path / "v.mp4", tmp_path / "clips", max_height=48)
    clip = verified(tmp_path / "clips")[0]
    assert (clip.height, clip.width) == (48, 80) == read_frames(tmp_path / "clips" / clip.video).shape[1:3]


def test_a_broken_video_is_listed_in_a_folder_and_refused_by_name(videos: Path, tmp_path: Path):
    (videos / "broken.mp4").write_bytes(b"no video")
    summary = collect(videos, tmp_path / "clips")
    assert "broken.mp4" in [item["video"] for item in summary["rejected"]] and summary["clips"] == 2
    with pytest.raises(InputError, match=r"broken\.mp4"):
        collect(videos / "broken.mp4", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_uri_gives_the_same_clips_as_the_path(videos: Path, tmp_path: Path):
    write_cameras(videos / "two shots.txt", Cameras.from_c2w([0.5, 0.8, 0.5, 0.5], controls_to_c2w("w*44")))
    collect(videos, tmp_path / "by_path")
    collect(f"file://{videos}", tmp_path / "by_uri")
    collect(f"file://{videos}/two shots.mp4", tmp_path / "one")
    assert verified(tmp_path / "by_path") == verified(tmp_path / "by_uri") == verified(tmp_path / "one")


def test_shots_and_files_of_one_source_share_a_split_and_later_footage_moves_none(tmp_path: Path):
    shares = {"held_out_share": 0.4, "validation_share": 0.2}
    for number in range(6):
        write_video(tmp_path / f"videos/{number}/walk-{number}.mp4", np.concatenate([shot(number, 10), shot(number + 20, 10)]), fps=24)
    collect(tmp_path / "videos", tmp_path / "before", **shares)
    write_video(tmp_path / "walk-2.mp4", shot(2, 10), fps=24)
    (tmp_path / "videos/again").mkdir(exist_ok=True)
    (tmp_path / "walk-2.mp4").rename(tmp_path / "videos/again/walk-2.mkv")  # walk-2 under another suffix
    write_video(tmp_path / "videos/walk-9.mp4", shot(9, 10), fps=24)
    summary = collect(tmp_path / "videos", tmp_path / "after", **shares)
    before, after = ({clip.video_sha256: clip.split for clip in verified(tmp_path / name)} for name in ("before", "after"))
    assert len(before) == 12 and len(set(before.values())) > 1 and before.items() <= after.items()
    assert sum(summary["splits"].values()) == 14
    by_source: dict[str, set[str]] = {}
    for clip in verified(tmp_path / "after"):
        by_source.setdefault(clip.scene.split(".")[0], set()).add(clip.split)
    assert len(by_source) == 7 and all(len(splits) == 1 for splits in by_source.values())


def test_a_pattern_groups_the_videos_of_a_folder_by_path_and_by_uri(tmp_path: Path):
    for folder in ("park", "street"):
        for number in range(2):
            write_video(tmp_path / f"videos/{folder}/{folder}{number}.mp4", shot(number + len(folder), 10), fps=24)
    settings = {"source_pattern": r"([^/]+)/[^/]+$", "held_out_videos": ("street",)}
    for source in (tmp_path / "videos", f"file://{tmp_path}/videos"):
        collect(source, tmp_path / "clips", **settings)
        splits = {clip.scene: clip.split for clip in verified(tmp_path / "clips")}
        assert splits == {"park0": "train", "park1": "train", "street0": "held_out", "street1": "held_out"}


def test_an_empty_required_split_is_refused_before_a_video_is_decoded(tmp_path: Path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/one.mp4").write_bytes(b"decoding this would be another error")
    settings = DataSettings(videos=str(tmp_path / "videos/one.mp4"))
    with pytest.raises(InputError, match=r"one\.mp4: split held_out: found no clip \(train 1\)"):
        collect_clips(tmp_path / "clips", settings, 0, required=("train", "held_out"))
    with pytest.raises(InputError, match=r"one\.mp4: found"):
        collect_clips(tmp_path / "clips", settings, 0, required=("train",))
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


def test_no_source_no_video_and_no_clip_are_refused(videos: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="a source of clips"):
        collect_clips(tmp_path / "clips", DataSettings(), seed=0)
    with pytest.raises(InputError, match="no video"):
        collect(tmp_path / "empty", tmp_path / "clips")
    with pytest.raises(InputError, match="no such file"):
        collect(tmp_path / "nowhere", tmp_path / "clips")
    with pytest.raises(InputError, match="no clip"):
        collect(videos, tmp_path / "clips", min_frames=100)
    assert not (tmp_path / "clips").exists()


def test_black_frames_and_a_static_image_are_dropped_and_bars_are_cropped(tmp_path: Path):
    bars = np.zeros((40, 96, 128, 3), np.uint8)
    bars[:, 12:84] = shot(0, 40)
    black, standing = np.zeros((6, 96, 128, 3), np.uint8), np.repeat(bars[-1:], 40, axis=0)
    video = np.concatenate([bars[:20], black, bars[20:], standing, bars[:15]])
    write_video(tmp_path / "v.mp4", video, fps=24)
    write_cameras(tmp_path / "v.txt", Cameras.from_c2w([0.5, 0.6, 0.5, 0.5], controls_to_c2w("w*100")))
    summary = collect(tmp_path / "v.mp4", tmp_path / "clips")
    clips = verified(tmp_path / "clips")
    # the static image keeps its first frame and those in which the encoder still refines it
    assert [clip.num_frames for clip in clips] == [20, pytest.approx(22, abs=2), 15]
    assert [entry["rule"] for entry in summary["rejected"]] == ["black", "frozen"]
    assert [entry["value"] for entry in summary["rejected"]] == ["frames 20 to 25", f"frames {26 + clips[1].num_frames} to 85"]
    assert all((clip.height, clip.width) == (72, 128) for clip in clips)
    cameras = read_cameras(tmp_path / "clips" / clips[1].camera)
    np.testing.assert_allclose(cameras.intrinsics[0], [0.5, 0.8, 0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(cameras.c2w[0, 2, 3], 26 / 54, atol=1e-6)


def test_a_dark_floor_is_no_letterbox_bar():
    frames = list(shot(4))
    for frame in frames:
        frame[-20:] = 0
    assert content_box([profiles(frame) for frame in frames]) == (0, 72, 0, 128)


def test_a_list_names_files_folders_and_uris(videos: Path, tmp_path: Path):
    write_video(tmp_path / "other.mp4", shot(5), fps=24)
    (tmp_path / "list.txt").write_text(f"# mine\nvideos\n\nfile://{tmp_path}/other.mp4\n")
    assert collect(tmp_path / "list.txt", tmp_path / "clips")["clips"] == 3
    (tmp_path / "list.txt").write_text("videos\nnowhere.mp4\n")
    with pytest.raises(InputError, match=r"list\.txt: line 2: found nowhere\.mp4"):
        collect(tmp_path / "list.txt", tmp_path / "clips")


def test_every_file_of_a_folder_has_a_fate_and_ids_do_not_depend_on_the_others(tmp_path: Path):
    root = tmp_path / "videos"
    names = ["a b.mp4", "a-b.MTS", "日本.mov", "new\nline.mp4", "#1.mkv", "sub/deep.mpg"]
    for number, name in enumerate(names):
        write_video(tmp_path / f"{number}.mp4", shot(number, 10), fps=24)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{number}.mp4").rename(root / name)
    bad = os.fsencode(root) + b"/caf\xe9.mp4"
    write_video(tmp_path / "x.mp4", shot(9, 10), fps=24)
    os.rename(tmp_path / "x.mp4", bad)
    (root / "copy.mp4").write_bytes((root / "a b.mp4").read_bytes())
    (root / "notes.pdf").write_text("x")
    (root / "empty.mp4").touch()
    (root / ".hidden").touch()
    (root / "gone.mp4").symlink_to("nowhere.mp4")
    (root / "a-b.prompt.txt").write_text("a caption")
    summary = collect(root, tmp_path / "clips")
    fates = {row["file"]: row["fate"] for row in summary["files"]}
    shown = {"new\\nline.mp4", "caf\\udce9.mp4", *names} - {"new\nline.mp4"}
    assert {name for name, fate in fates.items() if fate == "imported"} == shown
    assert {name for name, fate in fates.items() if fate == "ignored"} == {"copy.mp4", "notes.pdf", ".hidden"}
    assert {name for name, fate in fates.items() if fate == "rejected"} == {"empty.mp4", "gone.mp4"} and fates["a-b.prompt.txt"] == "used"
    clips = verified(tmp_path / "clips")
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", clip.clip_id) for clip in clips) and {clip.source_file for clip in clips} == shown
    (root / "copy.mp4").unlink()
    (root / "日本.mov").unlink()
    collect(root, tmp_path / "fewer")
    assert {clip.clip_id for clip in verified(tmp_path / "fewer")} == {clip.clip_id for clip in clips if clip.source_file != "日本.mov"}


def test_a_copy_with_other_cameras_is_imported_so_that_wrong_ones_lose_no_footage(tmp_path: Path):
    root = tmp_path / "videos"
    write_video(root / "a.mp4", shot(1, 20), fps=24)
    for name in ("b", "c", "d", "sub/a"):
        (root / f"{name}.mp4").parent.mkdir(exist_ok=True)
        shutil.copyfile(root / "a.mp4", root / f"{name}.mp4")
    write_cameras(root / "a.txt", Cameras.from_c2w([0.5, 0.8, 0.5, 0.5], controls_to_c2w("w*7")))  # too few rows
    for name in ("b", "d"):
        write_cameras(root / f"{name}.txt", Cameras.from_c2w([0.5, 0.8, 0.5, 0.5], controls_to_c2w("w*19")))
    summary = collect(root, tmp_path / "clips")
    fates = {row["file"]: row["fate"] for row in summary["files"] if row["file"].endswith(".mp4")}
    assert fates == {"a.mp4": "rejected", "b.mp4": "imported", "c.mp4": "imported", "d.mp4": "ignored", "sub/a.mp4": "ignored"}
    assert {clip.source_file: clip.camera is None for clip in verified(tmp_path / "clips")} == {"b.mp4": False, "c.mp4": True}


def test_a_copy_of_the_same_name_in_another_folder_is_imported_if_it_comes_with_other_cameras(tmp_path: Path):
    root = tmp_path / "videos"
    write_video(root / "a.mp4", shot(1, 20), fps=24)
    for name, keys in (("sub/a", "w*19"), ("sub/b", "d*19"), ("third/a", "w*19")):
        (root / f"{name}.mp4").parent.mkdir(exist_ok=True)
        shutil.copyfile(root / "a.mp4", root / f"{name}.mp4")
        write_cameras(root / f"{name}.txt", Cameras.from_c2w([0.5, 0.8, 0.5, 0.5], controls_to_c2w(keys)))
    summary = collect(root, tmp_path / "clips")
    fates = {row["file"]: row["fate"] for row in summary["files"] if row["file"].endswith(".mp4")}
    assert fates == {"a.mp4": "imported", "sub/a.mp4": "imported", "sub/b.mp4": "imported", "third/a.mp4": "ignored"}
    clips = {clip.source_file: clip for clip in verified(tmp_path / "clips")}
    assert len({clip.clip_id for clip in clips.values()}) == 3 and {name: clip.camera is None for name, clip in clips.items()} == {
        "a.mp4": True, "sub/a.mp4": False, "sub/b.mp4": False,
    }  # fmt: skip


def test_a_list_line_names_any_file(tmp_path: Path):
    for number, name in enumerate(("new\nline.mp4", " space.mp4", '"q".mp4', "#1.mp4")):
        write_video(tmp_path / "plain.mp4", shot(number, 10), fps=24)
        (tmp_path / "plain.mp4").rename(tmp_path / name)
        (tmp_path / "list.txt").write_text(list_line(str(tmp_path / name)) + "\n" + list_line(name) + "\n")
        assert [path.name for path, _ in discover(str(tmp_path / "list.txt"), tmp_path).videos] == [name]


def test_a_list_may_name_a_list(videos: Path, tmp_path: Path):
    (tmp_path / "inner.txt").write_text("videos\n")
    (tmp_path / "list.txt").write_text("inner.txt\n")
    names = sorted(path.name for path, _ in discover(str(tmp_path / "list.txt"), tmp_path / "scratch").videos)
    assert names == sorted(Path(one).name for one in video_sizes(str(tmp_path / "list.txt"))) != []


@pytest.mark.parametrize(
    ("content", "words"), [(b'"abc', "not JSON"), (b"list.txt", "inside each other"), (b"\xff\xfe\xfa", "in UTF-8"), (b'"a\\u0000b"', "found")]
)
def test_a_list_that_names_itself_or_is_damaged_is_one_line(tmp_path: Path, content: bytes, words: str):
    (tmp_path / "list.txt").write_bytes(content)
    for read in (lambda name: discover(name, tmp_path / "scratch"), video_sizes):
        with pytest.raises(InputError, match=words) as caught:
            read(str(tmp_path / "list.txt"))
        assert str(caught.value).startswith(str(tmp_path / "list.txt")) or words == "found"


def test_a_killed_import_goes_on_with_the_videos_that_are_left(tmp_path: Path):
    for number in range(3):
        write_video(tmp_path / f"videos/{number}.mp4", shot(number, 12), fps=24)
    settings, store = DataSettings(videos=str(tmp_path / "videos"), min_frames=9), tmp_path / "kept"
    collect_clips(tmp_path / "first", settings, 0, store)
    finished = {path: path.stat().st_ino for path in store.rglob("*.mp4")}
    shutil.rmtree(next(path for path in (store / "videos").iterdir()))
    collect_clips(tmp_path / "again", settings, 0, store)
    assert verified(tmp_path / "first") == verified(tmp_path / "again")
    left = {path for path in finished if path.exists() and path.stat().st_ino == finished[path]}
    assert len(finished) == 3 and len(left) >= 2


IMPORT = """
import sys
from moworld.data.settings import DataSettings
from moworld.data.sources import collect_clips
if __name__ == "__main__":
    collect_clips(sys.argv[2], DataSettings(videos=sys.argv[1], min_frames=9, workers=1), 0)
"""


@pytest.mark.slow
def test_an_import_that_was_killed_at_random_moments_ends_as_one_that_was_not(tmp_path: Path):
    for number in range(3):
        write_video(tmp_path / f"videos/{number}.mp4", shot(number, 60).repeat(3, 1).repeat(3, 2), fps=24)
    (tmp_path / "import.py").write_text(IMPORT)

    def start(out: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(tmp_path / "import.py"), str(tmp_path / "videos"), str(tmp_path / out)]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    assert start("whole").wait() == 0
    for finished in range(2):
        process = start("killed")
        while process.poll() is None and len(list(tmp_path.glob(".killed.imported/*"))) <= finished:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL and not (tmp_path / "killed").exists()
    assert start("killed").wait() == 0
    assert verified(tmp_path / "killed") == verified(tmp_path / "whole")
    whole, killed = (
        {path.name: path.read_bytes() for path in (tmp_path / out).rglob("*") if path.is_file() and path.suffix != ".parquet"}
        for out in ("whole", "killed")
    )
    assert whole == killed and len(whole) >= 4 and not list(tmp_path.glob(".killed*"))


def test_a_dry_run_names_each_file_and_the_length_and_writes_nothing(videos: Path, tmp_path: Path):
    (videos / "broken.mp4").write_bytes(b"no video")
    plan = plan_import(DataSettings(videos=str(videos)))
    assert {row["file"]: row["fate"] for row in plan["files"]} == {"two shots.mp4": "import", "broken.mp4": "reject"}
    assert plan["footage_seconds"] == pytest.approx(45 / 24, abs=0.1) and plan["estimated_seconds"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


def test_a_variable_rate_is_resampled_with_its_cameras(tmp_path: Path):
    times = np.r_[np.arange(30) / 30, 1 + np.arange(30) / 10]
    (tmp_path / "v").mkdir()
    encode(tmp_path / "v/v.mkv", shot(1, 60), "ffv1", "yuv420p", times=times)
    cameras = Cameras.from_c2w([0.5, 0.8, 0.5, 0.5], controls_to_c2w("w*59"))
    write_poses(tmp_path / "v", cameras, (72, 128))
    collect(tmp_path / "v/v.mkv", tmp_path / "clips")
    (clip,) = verified(tmp_path / "clips")
    chosen = timeline("", times, 15.25).chosen
    assert (clip.fps, clip.num_frames) == (10, len(chosen)) and "resampled from 15.1" in str(clip.source_changes)
    assert clip.time_gap_max == pytest.approx(0.1, abs=0.01)
    got = read_cameras(tmp_path / "clips" / str(clip.camera))
    np.testing.assert_allclose(got.w2c, cameras.w2c[chosen], atol=1e-9)


def test_cameras_at_other_times_than_the_frames_are_refused(tmp_path: Path):
    cameras = Cameras.from_c2w([0.5, 0.8, 0.5, 0.5], controls_to_c2w("w*19"))
    write_video(tmp_path / "v.mp4", shot(1, 20), fps=12)
    write_cameras(tmp_path / "v.txt", cameras, fps=24)
    with pytest.raises(InputError, match=r"v\.txt: timestamps: found row 19 at 0\.792 s, its frame at 1\.583 s"):
        collect(tmp_path / "v.mp4", tmp_path / "clips")
    write_cameras(tmp_path / "v.txt", cameras, fps=11.99)  # as 23.976 for 24
    collect(tmp_path / "v.mp4", tmp_path / "clips")


def test_damaged_and_missing_frames_are_cut_out_with_their_reasons(tmp_path: Path):
    path = encode(tmp_path / "v.mp4", shot(1, 48), options={"g": "12", "bf": "0"}, container={"movflags": "faststart"})
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes()[: packets[40][0]])
    place, size = packets[16]
    data[place + size // 3 : place + 2 * size // 3] = bytes(len(data[place + size // 3 : place + 2 * size // 3]))
    path.write_bytes(data)
    summary = collect(path, tmp_path / "clips")
    rules = {entry["rule"]: entry["value"] for entry in summary["rejected"]}
    assert rules["missing"] == "the index promises 48 frames, the file holds 40"
    assert re.match(r"frames 1[56] to 2[34]: ", rules["damaged"])
    assert all(clip.num_frames <= 17 for clip in verified(tmp_path / "clips"))


def damaged(good: bytes, generator: np.random.Generator, number: int) -> tuple[str, bytes]:
    """A name and bytes of one damaged input, of ten kinds in turn."""
    kind, cut = number % 10, int(generator.integers(1, len(good)))
    flipped = bytearray(good)
    for place in generator.integers(0, len(good), 1 + number % 40):
        flipped[place] ^= 1 << int(generator.integers(8))
    header = bytearray(good)
    for place in generator.integers(0, min(len(good), 1500), 8):
        header[place] = int(generator.integers(256))
    moov = good.rfind(b"moov")
    tables = bytearray(good)
    for place in generator.integers(moov, len(good), 12):  # sizes, rates, durations and offsets are here
        tables[place] = int(generator.choice([0, 1, 127, 128, 255]))
    noise = generator.integers(0, 256, cut, dtype=np.uint8).tobytes()
    return [
        ("mp4", good[:cut]), ("mp4", bytes(flipped)), ("mp4", b""), ("mov", noise), ("mp4", bytes(header)), ("mp4", bytes(tables)),
        ("avi", good), ("mkv", b"\x1aE\xdf\xa3" + noise), ("mp4", good[: len(good) // 2] + good), ("webm", b"<html>no video</html>"),
    ][kind]  # fmt: skip


def damage_all(folder: Path, count: int) -> None:
    write_video(folder / "good.mp4", shot(0, 24), fps=24)
    good, generator = (folder / "good.mp4").read_bytes(), np.random.default_rng(0)
    for number in range(count):
        suffix, data = damaged(good, generator, number)
        (folder / f"{number:04d}.{suffix}").write_bytes(data)


@pytest.mark.parametrize("count", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_each_damaged_video_becomes_a_clip_or_is_rejected_with_a_reason(tmp_path: Path, count: int):
    (tmp_path / "videos").mkdir()
    damage_all(tmp_path / "videos", count)
    summary = collect(tmp_path / "videos", tmp_path / "clips")
    clips = verified(tmp_path / "clips")
    assert {clip.scene for clip in clips} <= {entry["file"].split(".")[0] for entry in summary["files"] if entry["fate"] == "imported"}
    assert {entry["file"].split(".")[0] for entry in summary["files"]} == {"good", *(f"{number:04d}" for number in range(count))}
    assert sum(entry["fate"] == "rejected" for entry in summary["files"]) > 0.4 * count
    assert all(entry["value"] and "\n" not in entry["value"] for entry in summary["rejected"])


@needs_data
def test_real_footage_is_cut_where_it_goes_black_and_left_whole_where_it_does_not(tmp_path: Path):
    collect(DATA / "cosmos-curate", tmp_path / "sintel", min_frames=17)
    clips, summary = verified(tmp_path / "sintel"), read_json(tmp_path / "sintel/summary.json")
    assert len(clips) >= 3 and sum(clip.num_frames for clip in clips) <= 240
    assert "black" in {entry["rule"] for entry in summary["rejected"]}
    # 854 x 480 with bars above and below: the picture is 2.35 to 1
    shapes = sorted(round(clip.width / clip.height, 1) for clip in clips)
    assert shapes in ([2.4] * len(clips), [1.8, *[2.4] * (len(clips) - 1)])  # a title that fades in on black has no bars
    collect(DATA / "gsplat/viewer_garden_480p.mp4", tmp_path / "garden", min_frames=17)
    assert [clip.num_frames for clip in verified(tmp_path / "garden")] == [82]  # its second frame follows 2.7 ms after the first


def test_a_distorted_colmap_model_beside_its_video_gives_undistorted_frames(tmp_path: Path):
    """Straight lines of the scene are curved in the video and straight in the clip."""
    pycolmap = pytest.importorskip("pycolmap")
    from moworld.camera.colmap import write_colmap

    size_hw, params = (180, 320), [256, 160, 90, -0.3]
    lens = pycolmap.Camera(model="SIMPLE_RADIAL", width=320, height=180, params=params)
    y, x = np.mgrid[:180, :320] + 0.5
    rays = np.asarray(lens.cam_from_img(np.column_stack([x.ravel(), y.ravel()]))).reshape(180, 320, 2)
    texture = np.random.default_rng(0).integers(0, 60, (180, 320))
    line = np.where(np.abs(rays[..., 1] + 0.25) < 0.01, 255, texture)  # a straight line above the centre
    frame = np.repeat(line.astype(np.uint8)[..., None], 3, axis=2)
    write_video(tmp_path / "v.mp4", np.stack([np.roll(frame, shift, axis=2) for shift in range(9)]), fps=24)
    cameras = Cameras.from_c2w([0.8, 1.4, 0.5, 0.5], controls_to_c2w("w*8"))
    (tmp_path / "v").mkdir()
    write_colmap(tmp_path / "v", cameras, size_hw)
    (tmp_path / "v/cameras.txt").write_text("".join(f"{i + 1} SIMPLE_RADIAL 320 180 {' '.join(map(str, params))}\n" for i in range(9)))
    collect(tmp_path / "v.mp4", tmp_path / "clips")
    (clip,) = verified(tmp_path / "clips")
    seen = read_frames(tmp_path / "clips" / clip.video)[0].mean(axis=2)
    columns = np.arange(20, 300, 20)
    rows, curved = ([np.flatnonzero(picture[:90, column] > 150).mean() for column in columns] for picture in (seen, line))
    assert np.ptp(rows) <= 1 and np.ptp(curved) >= 3
    _, fy, _, cy = read_cameras(tmp_path / "clips" / clip.camera).intrinsics[0]
    assert np.median(rows) + 0.5 == pytest.approx((cy - 0.25 * fy) * 180, abs=1)
    assert "points and observations of the COLMAP model" in (clip.camera_notes or "")


def test_a_lens_in_pixels_is_divided_by_the_videos_size(tmp_path: Path):
    cameras = Cameras.from_c2w([0.6, 0.9, 0.5, 0.5], controls_to_c2w("w*8"))
    write_video(tmp_path / "v.mp4", shot(3, 9, 180, 320), fps=24)
    np.savez(tmp_path / "v.npz", extrinsics_c2w=cameras.c2w, intrinsics=[0.6 * 320, 0.9 * 180, 159, 91], when=[1])
    collect(tmp_path / "v.mp4", tmp_path / "clips")
    (clip,) = verified(tmp_path / "clips")
    found = read_cameras(tmp_path / "clips" / clip.camera)
    np.testing.assert_allclose(found.intrinsics[0], [0.6, 0.9, 159 / 320, 91 / 180], atol=1e-6)
    assert clip.camera_notes == "not used: when"
