"""Reads transforms.json, the camera export of Blender add-ons, instant-ngp and nerfstudio: camera-to-world, OpenGL axes (y up, z backward)."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from moworld.camera.camera_file import CameraFile, checked
from moworld.camera.colmap import natural_key
from moworld.camera.lens import Distortion
from moworld.errors import InputError
from moworld.files import Pathlike

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])  # from OpenCV's camera axes
LENS = ("fl_x", "fl_y", "cx", "cy", "w", "h", "camera_angle_x", "camera_angle_y")
RADIAL = ("k1", "k2", "p1", "p2")
FISHEYE = ("k1", "k2", "k3", "k4")
USED = {*LENS, *RADIAL, *FISHEYE, "frames", "camera_model"}
FRAME_USED = {*LENS, *RADIAL, *FISHEYE, "camera_model", "file_path", "transform_matrix"}
MODELS = {"OPENCV": RADIAL, "PINHOLE": (), "SIMPLE_PINHOLE": (), "OPENCV_FISHEYE": FISHEYE}


def read_transforms(path: Pathlike) -> CameraFile:
    """Reads `frames` with `transform_matrix` (4, 4) camera-to-world, OpenGL axes, in the natural order of `file_path`.

    The lens is fl_x, fl_y, cx, cy in pixels of w, h, or camera_angle_x in radians, for all frames or for each. k1, k2, p1, p2 (or k1 to
    k4 of camera_model OPENCV_FISHEYE) are distortion.
    Raises InputError for missing or invalid keys, other camera models, and distortion that changes.
    """
    path = Path(path)
    content = _loaded(path)
    frames = sorted(content["frames"], key=lambda frame: natural_key(str(frame.get("file_path", ""))))
    rows, poses, lenses = [], [], set()
    for number, frame in enumerate(frames):
        both = {**content, **frame}
        size = _size(path, both)
        rows.append(_intrinsics(path, f"frame {number}", both, size))
        poses.append(_matrix(path, f"frame {number}", frame.get("transform_matrix")))
        lenses.add((_distortion(path, both, rows[-1], size), size))
    if len(lenses) > 1:
        raise InputError(path, "frames", f"{len(lenses)} lenses or sizes", "one lens", "export the pictures of one camera")
    distortion, size = lenses.pop()
    unused = sorted({*(set(content) - USED), *(key for frame in frames for key in set(frame) - FRAME_USED)})
    notes = ("read as OpenGL camera axes (y up, z backward)", *((f"not used: {', '.join(unused)}",) if unused else ()))
    return checked(path, rows, np.stack(poses) @ OPENGL, c2w=True, image_hw=size, distortion=distortion, notes=notes)


def _loaded(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(path, "", f"no JSON ({str(error)[:80]})", "a transforms.json", "export it again") from None
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise InputError(path, "frames", "no list of frames", "frames with transform_matrix", "export it again")
    return dict(content)


def _number(path: Path, values: dict[str, Any], key: str) -> float | None:
    value = values.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)):
        raise InputError(path, key, repr(value)[:60], "a finite number", "correct the camera file")
    return None if value is None else float(value)


def _size(path: Path, values: dict[str, Any]) -> tuple[int, int] | None:
    """Returns the image height and width, or None if the file states none."""
    height, width = _number(path, values, "h"), _number(path, values, "w")
    if height is None or width is None:
        return None
    if min(height, width) < 1:
        raise InputError(path, "w, h", f"{width:g}x{height:g}", "sizes above 0", "correct the camera file")
    return round(height), round(width)


def _intrinsics(path: Path, row: str, values: dict[str, Any], size: tuple[int, int] | None) -> list[float]:
    """Returns fx, fy, cx, cy of a frame as fractions of width, height, width, height."""
    if size is None:
        fix = "add the size of the pictures as w and h"
        raise InputError(path, f"{row}: w, h", "no size of the pictures", "w and h in pixels", fix)
    height, width = size
    fx, fy, cx, cy, angle_x, angle_y = (
        _number(path, values, key) for key in ("fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y")
    )
    if fx is None and angle_x is not None and 0 < angle_x < math.pi:
        fx = width / 2 / math.tan(angle_x / 2)
    if fx is None:
        raise InputError(path, f"{row}: fl_x", "no focal length", "fl_x in pixels or camera_angle_x in radians", "add it")
    if fy is None:
        fy = height / 2 / math.tan(angle_y / 2) if angle_y is not None and 0 < angle_y < math.pi else fx
    cx, cy = width / 2 if cx is None else cx, height / 2 if cy is None else cy
    return [fx / width, fy / height, cx / width, cy / height]


def _matrix(path: Path, row: str, value: Any) -> Any:
    try:
        matrix = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.zeros(0)
    if matrix.shape not in ((4, 4), (3, 4)):
        found = "no matrix of numbers" if not matrix.size else f"shape {matrix.shape}"
        raise InputError(path, f"{row}: transform_matrix", found, "(4, 4) camera to world", "export it again")
    return matrix if len(matrix) == 4 else np.vstack([matrix, [0, 0, 0, 1]])


def _distortion(path: Path, values: dict[str, Any], lens: list[float], size: tuple[int, int] | None) -> Distortion | None:
    assert size is not None
    model = str(values.get("camera_model", "OPENCV"))
    if model not in MODELS:
        raise InputError(path, "camera_model", model, f"one of {', '.join(MODELS)}", "undistort the pictures")
    other = [key for key in ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2") if key not in MODELS[model] and _number(path, values, key)]
    if other:
        raise InputError(path, other[0], f"{values[other[0]]} with camera_model {model}", "0", "undistort the pictures")
    extra = [_number(path, values, key) or 0.0 for key in MODELS[model]]
    if not any(extra) and model != "OPENCV_FISHEYE":
        return None
    height, width = size
    return Distortion(model, (lens[0] * width, lens[1] * height, lens[2] * width, lens[3] * height, *extra), size)
