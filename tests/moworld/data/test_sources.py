"""Videos as clips: cut, scaled, with their cameras; bad ones are refused or listed, and nothing half-written stays."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from moworld.camera import Cameras, controls_to_c2w, read_cameras, write_cameras
from moworld.data.clips import read_frames, verify, write_video
from moworld.data.sources import DataSettings, collect_clips
from moworld.errors import InputError

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
    clips = verify(tmp_path / "clips")
    assert [(clip.clip_id, clip.num_frames) for clip in clips] == [("two-shots-00", 20), ("two-shots-01", 20)]
    assert [item["rule"] for item in summary["rejected"]] == ["min_frames"]
    difference = read_frames(tmp_path / "clips" / clips[1].video).astype(float) - shot(1)
    assert np.abs(difference).mean() < 12


def test_a_camera_file_is_cut_with_its_video(videos: Path, tmp_path: Path):
    cameras = Cameras.from_c2w([0.5, 0.8, 0.5, 0.5], controls_to_c2w("w*20,l*24"))
    write_cameras(videos / "two shots.txt", cameras)
    collect(videos / "two shots.mp4", tmp_path / "clips")
    second = verify(tmp_path / "clips")[1]
    assert second.camera_origin == "file"
    np.testing.assert_allclose(read_cameras(tmp_path / "clips" / second.camera).w2c, cameras.w2c[20:40], atol=1e-9)


def test_a_camera_file_of_another_video_is_refused_and_nothing_is_written(videos: Path, tmp_path: Path):
    write_cameras(videos / "two shots.txt", Cameras.from_c2w([0.5, 0.8, 0.5, 0.5], controls_to_c2w("w*20")))
    with pytest.raises(InputError, match=r"two shots\.txt: rows: found 21 cameras, wanted 45"):
        collect(videos, tmp_path / "clips")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["videos"]


def test_large_videos_are_scaled_down_with_their_aspect(tmp_path: Path):
    write_video(tmp_path / "v.mp4", shot(0, 9, 96, 160), fps=24)
    collect(tmp_path / "v.mp4", tmp_path / "clips", max_height=48)
    clip = verify(tmp_path / "clips")[0]
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
    assert verify(tmp_path / "by_path") == verify(tmp_path / "by_uri") == verify(tmp_path / "one")


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


@needs_data
def test_real_footage_is_cut_where_it_goes_black_and_left_whole_where_it_does_not(tmp_path: Path):
    collect(DATA / "cosmos-curate", tmp_path / "sintel", min_frames=17)
    starts = [clip.num_frames for clip in verify(tmp_path / "sintel")]
    assert len(starts) >= 3 and sum(starts) <= 240
    collect(DATA / "gsplat/viewer_garden_480p.mp4", tmp_path / "garden", min_frames=17)
    assert [clip.num_frames for clip in verify(tmp_path / "garden")] == [83]
