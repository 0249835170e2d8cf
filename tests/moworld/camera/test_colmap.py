"""COLMAP models: poses in the order of the frames, one camera only, distortion kept for the pictures."""

import re
from pathlib import Path

import numpy as np
import pytest

from moworld.camera import Cameras, controls_to_c2w, read_camera_file, read_cameras
from moworld.camera.colmap import natural_key, write_colmap
from moworld.errors import InputError

pycolmap = pytest.importorskip("pycolmap")


def walk(steps: int = 11) -> Cameras:
    return Cameras.from_c2w([0.8, 1.4, 0.5, 0.5], controls_to_c2w(f"wl*{steps}", step=2.5, degrees=4))


def model(folder: Path, camera: str = "1 PINHOLE 320 180 256 252 160 90", names=lambda i: f"f{i:04d}.png", camera_of=lambda i: 1) -> Path:
    """Writes a text model of `walk` with one camera line (or several) and image names of a pattern."""
    folder.mkdir(parents=True)
    write_colmap(folder, walk(), (180, 320))
    (folder / "cameras.txt").write_text(camera + "\n")
    lines = (folder / "images.txt").read_text().splitlines()[::2]
    rows = [f"{' '.join(line.split()[:8])} {camera_of(i)} {names(i)}\n\n" for i, line in enumerate(lines)]
    (folder / "images.txt").write_text("".join(rows))
    return folder


def test_models_round_trip_in_text_and_binary_and_from_a_project_folder(tmp_path: Path):
    write_colmap(tmp_path / "text", walk(), image_hw=(180, 320))
    (tmp_path / "project/sparse/0").mkdir(parents=True)
    pycolmap.Reconstruction(str(tmp_path / "text")).write_binary(str(tmp_path / "project/sparse/0"))
    for name in ("text", "project", "project/sparse/0"):
        cameras = read_cameras(tmp_path / name)
        np.testing.assert_allclose(cameras.w2c, walk().w2c, atol=1e-9)
        np.testing.assert_allclose(cameras.intrinsics, walk().intrinsics, atol=1e-9)
    (tmp_path / "project/sparse/1").mkdir()
    (tmp_path / "project/sparse/1/images.txt").touch()
    with pytest.raises(InputError, match=re.escape("2 COLMAP models (sparse/0, sparse/1)")):
        read_cameras(tmp_path / "project")


def test_images_are_in_the_natural_order_of_their_names(tmp_path: Path):
    assert sorted(["f10", "f2", "f1.5", "g1"], key=natural_key) == ["f1.5", "f2", "f10", "g1"]
    cameras = read_cameras(model(tmp_path / "m", names=lambda i: f"frame_{i}.png"))
    np.testing.assert_allclose(cameras.w2c, walk().w2c, atol=1e-9)


def test_gaps_in_the_image_numbers_are_named(tmp_path: Path):
    file = read_camera_file(model(tmp_path / "m", names=lambda i: f"frame_{i + (i > 4)}.png"))
    assert any("image numbers have gaps (0 to 12, 12 images)" in note for note in file.notes)
    assert any("not used: image ids, points" in note for note in file.notes)


TWO = "1 PINHOLE 320 180 256 252 160 90\n2 PINHOLE 320 180 256 252 160 90"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": lambda i: f"{'left' if i % 2 else 'right'}/{i // 2:03d}.png"}, r"images in 2 folders \(left, right\)"),
        ({"names": lambda i: f"{'left' if i % 2 else 'right'}_{i // 2:03d}.png"}, r"2 series of names \(left_#, right_#\)"),
        ({"names": lambda i: f"cam{i % 2}_{i // 2:03d}.png"}, "several images of one frame number"),
        ({"camera": TWO, "camera_of": lambda i: 1 + i % 2}, "cameras: found 2 cameras"),
        ({"camera": TWO.replace("2 PINHOLE 320", "2 PINHOLE 324"), "camera_of": lambda i: 1 + i % 2}, "images of several sizes"),
    ],
)
def test_several_cameras_are_refused(tmp_path: Path, options, message: str):
    with pytest.raises(InputError, match=message):
        read_cameras(model(tmp_path / "m", **options))


def test_names_of_dates_and_times_are_one_series(tmp_path: Path):
    cameras = read_cameras(model(tmp_path / "m", names=lambda i: f"2026-11-30_{1000 + i // 4}.{i:03d}.png"))
    np.testing.assert_allclose(cameras.w2c, walk().w2c, atol=1e-9)


def test_distortion_is_refused_for_pictures_that_have_it(tmp_path: Path):
    folder = model(tmp_path / "m", "1 SIMPLE_RADIAL 320 180 256 160 90 -0.3")
    with pytest.raises(InputError, match=r"lens: found distortion SIMPLE_RADIAL 256 160 90 -0\.3 at 320x180, expected a pinhole lens"):
        read_cameras(folder, (180, 320))
    assert read_cameras(model(tmp_path / "zero", "1 OPENCV 320 180 256 252 160 90 0 0 0 0")).intrinsics[0, 0] == pytest.approx(0.8)


def test_a_model_of_pictures_of_another_shape_is_refused(tmp_path: Path):
    folder = model(tmp_path / "m")
    assert len(read_cameras(folder, (360, 640))) == 12
    with pytest.raises(InputError, match="image size: found pictures of 320x180, expected the shape of the video's 320x240"):
        read_cameras(folder, (240, 320))


def test_damaged_models_are_refused(tmp_path: Path):
    folder = model(tmp_path / "m")
    (tmp_path / "binary").mkdir()
    pycolmap.Reconstruction(str(folder)).write_binary(str(tmp_path / "binary"))
    for path in (tmp_path / "binary").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match="binary: found an unreadable model"):
        read_cameras(tmp_path / "binary")
    text = (folder / "images.txt").read_text()
    (folder / "images.txt").write_text(text.replace(text.split()[5], "nan", 1))
    with pytest.raises(InputError, match="line 1: found the pose"):
        read_cameras(folder)
    (folder / "images.txt").write_text("")
    with pytest.raises(InputError, match="no registered image"):
        read_cameras(folder)
    (folder / "points3D.txt").unlink()
    with pytest.raises(InputError, match=r"points3D\.txt: found no such file"):
        read_cameras(folder)
