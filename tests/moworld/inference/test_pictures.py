"""Pictures of strangers: decoded by a process of limited time and memory; what it refuses, and that nothing else waits for it."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from moworld.errors import InputError
from moworld.inference.pictures import encode_png, model_pictures, read_picture, read_untrusted
from tests.moworld.inference.player.hostile import bomb, encoded, hostile_pictures, many_scans
from tests.moworld.inference.worlds import picture


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_process_returns_the_pixels_that_this_one_would_decode(kind: str):
    data = encoded(Image.fromarray(picture(40, 64)), kind)
    assert np.array_equal(read_untrusted(data), read_picture(data))


def test_the_orientation_of_a_camera_is_applied_and_a_large_picture_is_reduced():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_untrusted(encoded(Image.new("RGB", (64, 32)), "JPEG", exif=exif)).shape == (64, 32, 3)
    assert read_untrusted(encoded(Image.new("L", (9000, 1000)), "PNG")).shape == (500, 4500, 3)


@pytest.mark.parametrize("read", [read_untrusted, read_picture])
def test_a_jpeg_of_thousands_of_scans_and_a_huge_picture_are_refused_by_their_headers(read):
    with pytest.raises(InputError, match=r"scans, expected at most 64"):
        read(many_scans(1000, 5000))
    with pytest.raises(InputError, match=r"10000x10000|100000000 pixels"):
        read(bomb(10_000))
    with pytest.raises(InputError, match=r"20000x20000|400000000 pixels"):
        read(bomb(20_000))
    with pytest.raises(InputError, match=r"6\.1 MiB, expected at most 6 MiB"):
        read(bytes(int(6.1 * 2**20)))


def test_a_picture_that_takes_long_is_ended_by_the_limit_of_its_process():
    largest = encoded(Image.new("RGB", (5_000, 5_000)), "PNG")
    assert read_untrusted(largest, cpu_seconds=30).shape == (5_000, 5_000, 3)
    with pytest.raises(InputError, match=r"over 0\.02 s of a processor"):
        read_untrusted(largest, cpu_seconds=0.02)


def test_hostile_files_are_refused_in_one_line_or_decoded():
    for data in hostile_pictures():
        try:
            assert read_untrusted(data).ndim == 3
        except InputError as error:
            assert "\n" not in str(error) and str(error).startswith("picture"), error


def test_the_process_loads_no_package_of_the_visitor_s_directory(tmp_path, monkeypatch):
    (tmp_path / "PIL.py").write_text("raise SystemExit('loaded')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert read_untrusted(encode_png(picture(20, 30))).shape == (20, 30, 3) and os.getcwd() == str(tmp_path)


def test_pictures_of_a_model_are_bounded_too(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "0.png").write_bytes(encode_png(picture(20, 30)))
    assert np.array_equal(model_pictures(tmp_path)[0], picture(20, 30))
    stream = io.BytesIO(many_scans(64, 100))
    (tmp_path / "pictures" / "1.png").write_bytes(stream.getvalue())
    with pytest.raises(InputError, match="scans"):
        model_pictures(tmp_path)
