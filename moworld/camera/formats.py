"""Readers and writers of camera files: RealEstate10K text, poses.npy with intrinsics.npy, camera.npz, COLMAP models, transforms.json.

All convert to and from `Cameras`; the rest of the code base uses only its conventions. Numpy files are read without pickles.
Each format has one reading. A file that can be read in two ways is refused, and fields that are not used are named in `CameraFile.notes`.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moworld.camera.arrays import load_archive, load_array
from moworld.camera.camera_file import CameraFile, checked
from moworld.camera.cameras import Cameras
from moworld.camera.colmap import model_folder, read_colmap, write_colmap
from moworld.camera.transforms import read_transforms
from moworld.errors import InputError
from moworld.files import Pathlike, atomic_write

__all__ = [
    "CameraFile", "read_camera_file", "read_cameras", "read_colmap", "read_npz", "read_poses", "read_realestate10k", "read_transforms",
    "write_cameras", "write_colmap", "write_poses", "write_realestate10k",
]  # fmt: skip

Array = NDArray[np.float64]
MAX_TEXT_BYTES = 256 * 2**20
FOLDER_FILES = ("poses.npy", "camera.npz", "transforms.json")
OTHER_TEXTS = {8: " (a TUM trajectory?)", 12: " (KITTI poses?)", 16: " (4x4 matrices alone?)", 23: " (with 4x4 matrices?)"}


def read_cameras(path: Pathlike, image_hw: tuple[int, int] | None = None) -> Cameras:
    """Reads the cameras of a file or folder for pictures without distortion.

    path:     see `read_camera_file`
    image_hw: the pictures' height and width, which intrinsics in pixels need unless the file states it
    Raises InputError with file and row for unreadable files, wrong rows, NaN, matrices that are not rotations, a pixel lens without a
    size, and lenses with distortion.
    """
    return read_camera_file(path).cameras(image_hw)


def read_camera_file(path: Pathlike) -> CameraFile:
    """Reads a camera file or folder.

    path: .txt (RealEstate10K), .npz (extrinsics_c2w, intrinsics), a poses.npy with intrinsics.npy in the same folder, transforms.json,
          a folder with one of these, or a folder with a COLMAP model in it, its sparse/ or its sparse/0
    Raises InputError with file and row for unreadable files, wrong rows, NaN and matrices that are not rotations.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(path, "", "no such file", "a camera file or folder", "check the path")
    if path.is_dir():
        model, known = model_folder(path), [file for name in FOLDER_FILES if (file := path / name).exists()]
        if len(known) + (model is not None) > 1:
            names = ", ".join([*(file.name for file in known), *(["a COLMAP model"] if model else [])])
            raise InputError(path, "", names, "one camera file in the folder", "name the file to read")
        if model is not None:
            return read_colmap(model)
        if not known:
            raise _error(path, "", "no camera file", f"{', '.join(FOLDER_FILES)} or a COLMAP model in the folder")
        path = known[0]
    if not path.is_file():
        raise _error(path, "", "no regular file", "a camera file or folder")
    readers: dict[str, Any] = {".txt": read_realestate10k, ".npz": read_npz, ".npy": read_poses, ".json": read_transforms}
    if path.suffix.lower() not in readers:
        expected = "txt, npy, npz, json or a COLMAP folder"
        raise InputError(path, "", f"suffix {path.suffix!r}", expected, "convert the cameras to one of them")
    found: CameraFile = readers[path.suffix.lower()](path)
    return found


def read_realestate10k(path: Pathlike) -> CameraFile:
    """Reads RealEstate10K text: a URL line, then a row per frame.

    A row has a timestamp in microseconds, fx fy cx cy as fractions of the picture's size, 0 0, and a row-major 3x4 world-to-camera matrix.
    The URL line may be missing. Lines that start with # and empty lines are ignored. Pixels instead of fractions are read as such.
    Timestamps ascend, or are all equal and not used.
    """
    rows, notes = list[list[float]](), list[str]()
    for number, line in enumerate(_text(path), start=1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        if not rows and not notes and len(fields) == 1 and "," not in line:
            notes.append(f"not used: source {fields[0][:100]}")
            continue
        if len(fields) != 19:
            separated = " (separated by commas?)" if line.count(",") >= 18 else OTHER_TEXTS.get(len(fields), "")
            raise _error(path, f"line {number}", f"{len(fields)} numbers{separated}", "19 numbers separated by spaces")
        try:
            rows.append([float(field) for field in fields])
        except ValueError as error:
            raise _error(path, f"line {number}", str(error), "19 numbers") from None
        if rows[-1][5] or rows[-1][6]:
            found = f"{fields[5]} {fields[6]} in columns 6 and 7"
            raise InputError(path, f"line {number}", found, "0 0: the format has no distortion", "undistort the video, or write zeros")
    if not rows:
        raise _error(path, "", "no camera row", "a URL line and a row for each frame")
    table = np.array(rows)
    times = _times(path, table[:, 0])
    if times is None and len(table) > 1:
        notes.append("not used: timestamps, which are all equal")
    return checked(path, table[:, 1:5], table[:, 7:].reshape(-1, 3, 4), times=times, notes=tuple(notes))


def _text(path: Pathlike) -> list[str]:
    if (size := Path(path).stat().st_size) > MAX_TEXT_BYTES:
        raise _error(path, "", f"{size} bytes", f"at most {MAX_TEXT_BYTES}")
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise _error(path, "", "bytes that are not UTF-8", "RealEstate10K text") from None


def _times(path: Pathlike, stamps: Array) -> Array | None:
    """Returns timestamps in microseconds as seconds (T,); None if all are equal. Raises InputError unless they ascend."""
    if not np.isfinite(stamps).all():
        raise _error(path, f"row {int(np.flatnonzero(~np.isfinite(stamps))[0])}", "a timestamp of NaN or infinity", "microseconds")
    if not np.ptp(stamps):
        return None
    falls = np.flatnonzero(np.diff(stamps) <= 0)
    if len(falls):
        row = int(falls[0])
        found = f"timestamp {stamps[row + 1]:.12g} after {stamps[row]:.12g}"
        raise InputError(path, f"row {row + 1}", found, "ascending timestamps, or equal ones in all rows", "sort the rows by time")
    return np.asarray(stamps / 1e6)


def write_realestate10k(path: Pathlike, cameras: Cameras, url: str = "", fps: float = 24.0) -> None:
    """Writes the text that `read_realestate10k` reads, to 1e-9 relative; timestamps in microseconds at `fps`."""
    lines = [url]
    for frame, (intrinsics, w2c) in enumerate(zip(cameras.intrinsics, cameras.w2c, strict=True)):
        numbers = [*intrinsics, 0.0, 0.0, *w2c[:3].ravel()]
        lines.append(f"{round(frame * 1e6 / fps)} " + " ".join(f"{number:.12g}" for number in numbers))
    with atomic_write(path, "w") as stream:
        stream.write("\n".join(lines) + "\n")


write_cameras = write_realestate10k  # the default format


def read_poses(path: Pathlike) -> CameraFile:
    """Reads poses.npy (T, 4, 4) camera to world, and intrinsics.npy (T, 4) or (4,), in pixels or fractions, from the same folder."""
    intrinsics_path = Path(path).with_name("intrinsics.npy")
    if not intrinsics_path.exists():
        expected, fix = f"the intrinsics of {Path(path).name}", "put intrinsics.npy into the folder of the poses"
        raise InputError(intrinsics_path, "", "no such file", expected, fix)
    others = sorted(other.name for other in Path(path).parent.glob("*.np[yz]") if other not in (Path(path), intrinsics_path))
    return _from_arrays(path, load_array(path), load_array(intrinsics_path), others)


def write_poses(folder: Pathlike, cameras: Cameras, image_hw: tuple[int, int]) -> None:
    """Writes poses.npy (T, 4, 4) camera to world and intrinsics.npy (T, 4) in pixels of an image (height, width)."""
    height, width = image_hw
    arrays = {"poses.npy": cameras.c2w, "intrinsics.npy": cameras.intrinsics * [width, height, width, height]}
    for name, array in arrays.items():
        with atomic_write(Path(folder) / name) as stream:
            np.save(stream, array)


def read_npz(path: Pathlike) -> CameraFile:
    """Reads an archive of extrinsics_c2w (T, 4, 4) and intrinsics (T, 4) or (4,), in pixels or fractions."""
    (poses, intrinsics), others = load_archive(path, ("extrinsics_c2w", "intrinsics"))
    return _from_arrays(path, poses, intrinsics, others)


def _from_arrays(path: Pathlike, poses: ArrayLike, intrinsics: ArrayLike, others: list[str]) -> CameraFile:
    try:
        poses, intrinsics = np.asarray(poses, dtype=np.float64), np.asarray(intrinsics, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise _error(path, "", str(error), "arrays of numbers") from None
    if poses.ndim != 3 or poses.shape[1:] not in ((4, 4), (3, 4)) or not len(poses):
        raise _error(path, "poses", poses.shape, "(T, 4, 4) camera to world")
    if intrinsics.ndim == 1:
        intrinsics = np.repeat(intrinsics[None], len(poses), axis=0)
    if intrinsics.shape != (len(poses), 4):
        raise _error(path, "intrinsics", f"{intrinsics.shape} for {len(poses)} poses", f"({len(poses)}, 4), a row for each pose")
    notes = (f"not used: {', '.join(others)}",) if others else ()
    return checked(path, intrinsics, poses, c2w=True, notes=notes)


def _error(path: Pathlike, field: str, found: object, expected: str) -> InputError:
    return InputError(path, field, found, expected, "correct the camera file")
