"""Camera files beside videos: every place that is documented is found, prose is not a camera file, two files are refused."""

from pathlib import Path

import numpy as np
import pytest

from moworld.camera import Cameras, controls_to_c2w, write_cameras
from moworld.camera.colmap import write_colmap
from moworld.camera.sidecar import find_sidecar
from moworld.errors import InputError

WALK = Cameras.from_c2w([0.8, 1.4, 0.5, 0.5], controls_to_c2w("w*4"))


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".txt":
        write_cameras(path, WALK)
    elif path.suffix == ".npz":
        np.savez(path, extrinsics_c2w=WALK.c2w, intrinsics=WALK.intrinsics)
    elif path.suffix == ".json":
        path.write_text('{"frames": []}')
    else:
        write_colmap(path, WALK, (180, 320))


@pytest.mark.parametrize(
    ("name", "alone"),
    [
        ("v.txt", False), ("v.TXT", False), ("v.npz", False), ("v.json", False), ("v/camera.npz", False), ("v/transforms.json", False),
        ("v", False), ("v/sparse/0", False), ("camera.npz", True), ("transforms.json", True), ("sparse/0", True),
    ],
)  # fmt: skip
def test_the_camera_file_of_a_video_is_found(tmp_path: Path, name: str, alone: bool):
    put(tmp_path / name)
    assert find_sidecar(tmp_path / "v.mp4", alone).path == tmp_path / name
    other = find_sidecar(tmp_path / "w.mp4", False)
    assert (other.path, other.notes) == (None, ())


def test_prose_is_not_a_camera_file_and_is_named(tmp_path: Path):
    (tmp_path / "v.txt").write_text("A street at 7 in the morning, 12 people, 3 cars.\n")
    found = find_sidecar(tmp_path / "v.mp4", False)
    assert (found.path, found.notes) == (None, ("not used: v.txt, which is not a camera file",))
    put(tmp_path / "v.npz")
    assert find_sidecar(tmp_path / "v.mp4", False).path == tmp_path / "v.npz"


def test_an_empty_text_is_a_failed_export(tmp_path: Path):
    (tmp_path / "v.txt").touch()
    assert find_sidecar(tmp_path / "v.mp4", False).path == tmp_path / "v.txt"


def test_two_camera_files_are_refused(tmp_path: Path):
    put(tmp_path / "v.txt")
    put(tmp_path / "v.npz")
    with pytest.raises(InputError, match=r"2 camera files \(v\.npz, v\.txt\)"):
        find_sidecar(tmp_path / "v.mp4", False)
