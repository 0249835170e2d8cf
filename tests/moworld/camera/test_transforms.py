"""transforms.json of Blender add-ons and nerfstudio: OpenGL axes are converted, frames sorted, unused keys named."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from moworld.camera import Cameras, controls_to_c2w, read_camera_file, read_cameras
from moworld.errors import InputError

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def walk() -> Cameras:
    return Cameras.from_c2w([0.8, 1.4, 0.5, 0.5], controls_to_c2w("wl*11", step=2.5, degrees=4))


def export(tmp_path: Path, order: int = 1, frame=lambda values: values, **keys: object) -> Path:
    frames = [frame({"file_path": f"images/r_{i}.png", "transform_matrix": (pose @ OPENGL).tolist()}) for i, pose in enumerate(walk().c2w)]
    lens = {"fl_x": 256, "fl_y": 252, "cx": 160, "cy": 90, "w": 320, "h": 180}
    content = {key: value for key, value in {**lens, "frames": frames[::order], **keys}.items() if value is not None}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    return tmp_path / "transforms.json"


def test_frames_are_converted_and_in_natural_order(tmp_path: Path):
    cameras = read_cameras(export(tmp_path, order=-1))
    np.testing.assert_allclose(cameras.w2c, walk().w2c, atol=1e-9)
    np.testing.assert_allclose(cameras.intrinsics, walk().intrinsics)
    assert len(read_cameras(tmp_path)) == 12


def test_blenders_angle_of_view_is_a_lens(tmp_path: Path):
    none = dict.fromkeys(("fl_x", "fl_y", "cx", "cy"))
    cameras = read_cameras(export(tmp_path, camera_angle_x=2 * math.atan(0.5 / 0.8), **none))
    np.testing.assert_allclose(cameras.intrinsics[0], [0.8, 0.8 * 320 / 180, 0.5, 0.5])


def test_keys_that_are_not_used_are_named(tmp_path: Path):
    notes = read_camera_file(export(tmp_path, frame=lambda values: {**values, "sharpness": 3}, aabb_scale=16)).notes
    assert notes == ("read as OpenGL camera axes (y up, z backward)", "not used: aabb_scale, sharpness")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"frames": []}, "no list of frames"),
        ({"w": None}, "no size of the pictures"),
        ({"fl_x": None}, "no focal length"),
        ({"fl_x": "wide"}, "fl_x: found 'wide'"),
        ({"k1": -0.2}, "lens: found distortion OPENCV 256 252 160 90 -0.2 0 0 0"),
        ({"camera_model": "EQUIRECTANGULAR"}, "camera_model: found EQUIRECTANGULAR"),
        ({"frame": lambda values: {**values, "transform_matrix": [[1, 2]]}}, "frame 0: transform_matrix"),
        ({"frame": lambda values: {**values, "transform_matrix": np.diag([2.0, 2, 2, 1]).tolist()}}, "not a rotation"),
    ],
)
def test_invalid_exports_are_refused(tmp_path: Path, keys, message: str):
    with pytest.raises(InputError, match=message):
        read_cameras(export(tmp_path, **keys))


def test_no_json_is_refused(tmp_path: Path):
    (tmp_path / "transforms.json").write_text("{")
    with pytest.raises(InputError, match="no JSON"):
        read_cameras(tmp_path)
