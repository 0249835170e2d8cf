"""Videos round-trip; errors for files that are not videos name the file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moworld.errors import InputError
from moworld.video import read_frames, video_info, write_video
from tests.moworld.data.test_clips import moving_pattern


def test_a_decoded_video_equals_what_was_written(tmp_path: Path):
    frames = moving_pattern()
    assert write_video(tmp_path / "v.mp4", frames, fps=17.5, crf=10) == 13
    decoded = read_frames(tmp_path / "v.mp4")
    assert decoded.shape == frames.shape and decoded.dtype == np.uint8
    error = decoded.astype(float) - frames
    assert 10 * np.log10(255**2 / (error**2).mean()) > 35
    assert np.array_equal(read_frames(tmp_path / "v.mp4", 3, 7), decoded[3:7])


def test_the_header_has_size_rate_and_number_of_frames(tmp_path: Path):
    write_video(tmp_path / "v.mp4", moving_pattern(), fps=17.5)
    info = video_info(tmp_path / "v.mp4")
    assert (info.num_frames, info.fps, info.height, info.width, info.codec) == (13, 17.5, 48, 64, "h264")


def test_equal_frames_give_equal_bytes(tmp_path: Path):
    for name in ("one", "two"):
        write_video(tmp_path / name / "v.mp4", moving_pattern(), fps=24)
    assert (tmp_path / "one/v.mp4").read_bytes() == (tmp_path / "two/v.mp4").read_bytes()


@pytest.mark.parametrize(("suffix", "codec"), [(".webm", "vp9"), (".gif", "gif"), (".MP4", "h264")])
def test_the_suffix_decides_the_format(tmp_path: Path, suffix: str, codec: str):
    frames = moving_pattern()
    for name in ("one", "two"):
        assert write_video(tmp_path / name / f"v{suffix}", frames, fps=17.5, crf=10) == 13
    assert (tmp_path / f"one/v{suffix}").read_bytes() == (tmp_path / f"two/v{suffix}").read_bytes()
    decoded, info = read_frames(tmp_path / f"one/v{suffix}"), video_info(tmp_path / f"one/v{suffix}")
    assert decoded.shape == frames.shape and info.codec == codec and (codec == "gif" or info.fps == 17.5)
    assert 10 * np.log10(255**2 / ((decoded.astype(float) - frames) ** 2).mean()) > 25


def test_a_gif_has_any_size_and_the_rate_of_its_frames(tmp_path: Path):
    write_video(tmp_path / "v.gif", [np.full((15, 17, 3), 10 * number, np.uint8) for number in range(20)], fps=17.5)
    with Image.open(tmp_path / "v.gif") as image:
        durations = [image.seek(number) or image.info["duration"] for number in range(image.n_frames)]  # type: ignore[attr-defined,func-returns-value]
    assert len(durations) == 20 and sum(durations) == pytest.approx(20 / 17.5 * 1000, abs=10) and {*durations} == {50, 60}


def test_other_suffixes_are_refused(tmp_path: Path):
    for name in ("v.avi", "v", "v.mp4.txt", "v.png"):
        with pytest.raises(InputError, match=r"\.mp4 \.webm \.gif"):
            write_video(tmp_path / name, moving_pattern(), fps=24)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("frames", [[], np.zeros((2, 47, 64, 3), np.uint8), [np.zeros((4, 4, 3), np.uint8), np.zeros((6, 4, 3), np.uint8)]])
def test_invalid_frames_leave_no_file(tmp_path: Path, frames):
    with pytest.raises(InputError):
        write_video(tmp_path / "v.mp4", frames, fps=24)
    assert list(tmp_path.iterdir()) == []


def test_unreadable_and_truncated_videos_are_named(tmp_path: Path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(4000))
    write_video(tmp_path / "whole.mp4", moving_pattern(), fps=24)
    (tmp_path / "half.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:1500])
    for name in ("empty.mp4", "noise.mp4", "half.mp4", "missing.mp4"):
        with pytest.raises(InputError, match=name):
            read_frames(tmp_path / name)


def test_a_video_shorter_than_the_window_is_rejected(tmp_path: Path):
    write_video(tmp_path / "v.mp4", moving_pattern(), fps=24)
    with pytest.raises(InputError, match="13 frames"):
        read_frames(tmp_path / "v.mp4", 5, 20)
