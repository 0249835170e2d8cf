"""Readers and writers of camera files: RealEstate10K text, poses.npy with intrinsics.npy, camera.npz, COLMAP models.

All convert to and from `Cameras`; the rest of the code base uses only its conventions. Numpy files are read without pickles.
"""

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moworld.camera import se3
from moworld.camera.cameras import Cameras
from moworld.errors import InputError
from moworld.files import Pathlike, atomic_write

Array = NDArray[np.float64]
ROTATION_TOLERANCE = 5e-3  # published poses are products of float32 matrices; real shears and scales are far larger
MAX_CAMERAS = 1_000_000  # of a file: nine hours at 30 frames per second
MAX_ARRAY_BYTES = MAX_CAMERAS * 16 * 8 + 65_536  # a pose is 16 float64
MAX_TEXT_BYTES = 256 * 2**20
SIZE_MULTIPLE = 8  # video sizes are multiples of 8; a principal point may be slightly off the centre


def read_cameras(path: Pathlike, image_hw: tuple[int, int] | None = None) -> Cameras:
    """Reads the cameras of a file or folder.

    path:     .txt (RealEstate10K), .npz (extrinsics_c2w, intrinsics), a poses.npy with intrinsics.npy in the same folder, a folder
              with either, or a COLMAP model folder (cameras, images as .txt or .bin)
    image_hw: image height and width for intrinsics in pixels; None takes the size whose centre is the principal point
    Raises InputError with file and row for unreadable files, wrong rows, NaN and matrices that are not rotations.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(path, "", "no such file", "a camera file or folder", "check the path")
    if path.is_dir():
        known = [file for name in ("poses.npy", "camera.npz") if (file := path / name).exists()]
        if not known and any((path / f"images{suffix}").exists() for suffix in (".txt", ".bin")):
            return read_colmap(path)
        if not known:
            raise _error(path, "", "no camera file", "poses.npy, camera.npz or a COLMAP model in the folder")
        path = known[0]
    if not path.is_file():
        raise _error(path, "", "no regular file", "a camera file or folder")
    if path.suffix == ".txt":
        return read_realestate10k(path)
    if path.suffix == ".npz":
        return read_npz(path, image_hw)
    if path.suffix == ".npy":
        return read_poses(path, image_hw=image_hw)
    raise InputError(path, "", f"suffix {path.suffix!r}", ".txt, .npy, .npz or a COLMAP folder", "convert the cameras to one of them")


def read_realestate10k(path: Pathlike) -> Cameras:
    """Reads a line with a URL, then rows: timestamp, normalised fx fy cx cy, 0 0, and a row-major 3x4 world-to-camera matrix."""
    if (size := Path(path).stat().st_size) > MAX_TEXT_BYTES:
        raise _error(path, "", f"{size} bytes", f"at most {MAX_TEXT_BYTES}")
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise _error(path, "", "bytes that are not UTF-8", "RealEstate10K text") from None
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        fields = line.split()
        if len(fields) != 19:
            raise _error(path, f"line {number}", f"{len(fields)} numbers", "19 numbers")
        try:
            rows.append([float(field) for field in fields])
        except ValueError as error:
            raise _error(path, f"line {number}", str(error), "19 numbers") from None
    if not rows:
        raise _error(path, "", "no camera row", "a URL line and a row for each frame")
    table = np.array(rows)
    return _cameras(path, table[:, 1:5], table[:, 7:].reshape(-1, 3, 4))


def write_realestate10k(path: Pathlike, cameras: Cameras, url: str = "", fps: float = 24.0) -> None:
    """Writes the text that `read_realestate10k` reads, to 1e-9 relative; timestamps in microseconds at `fps`."""
    lines = [url]
    for frame, (intrinsics, w2c) in enumerate(zip(cameras.intrinsics, cameras.w2c, strict=True)):
        numbers = [*intrinsics, 0.0, 0.0, *w2c[:3].ravel()]
        lines.append(f"{round(frame * 1e6 / fps)} " + " ".join(f"{number:.12g}" for number in numbers))
    with atomic_write(path, "w") as stream:
        stream.write("\n".join(lines) + "\n")


write_cameras = write_realestate10k  # the default format


def read_poses(path: Pathlike, image_hw: tuple[int, int] | None = None) -> Cameras:
    """Reads poses.npy (T, 4, 4) camera to world, and intrinsics.npy (T, 4) or (4,), in pixels or normalised, from the same folder."""
    intrinsics_path = Path(path).with_name("intrinsics.npy")
    if not intrinsics_path.exists():
        expected, fix = f"the intrinsics of {Path(path).name}", "put intrinsics.npy into the folder of the poses"
        raise InputError(intrinsics_path, "", "no such file", expected, fix)
    return _from_arrays(path, _load(path), _load(intrinsics_path), image_hw)


def write_poses(folder: Pathlike, cameras: Cameras, image_hw: tuple[int, int]) -> None:
    """Writes poses.npy (T, 4, 4) camera to world and intrinsics.npy (T, 4) in pixels of an image (height, width)."""
    height, width = image_hw
    arrays = {"poses.npy": cameras.c2w, "intrinsics.npy": cameras.intrinsics * [width, height, width, height]}
    for name, array in arrays.items():
        with atomic_write(Path(folder) / name) as stream:
            np.save(stream, array)


def read_npz(path: Pathlike, image_hw: tuple[int, int] | None = None) -> Cameras:
    """Reads an archive of extrinsics_c2w (T, 4, 4) and intrinsics (T, 4), in pixels or normalised."""
    poses, intrinsics = _load_archive(path, ("extrinsics_c2w", "intrinsics"))
    return _from_arrays(path, poses, intrinsics, image_hw)


def read_colmap(path: Pathlike) -> Cameras:
    """Reads a COLMAP model folder, text or binary, with images in order of name. Lens distortion is dropped, so it must be small."""
    import pycolmap

    try:
        model = pycolmap.Reconstruction(str(path))
    except (ValueError, RuntimeError) as error:
        raise _error(path, "", str(error), "a COLMAP model") from None
    intrinsics, w2c = [], []
    for image in sorted(model.images.values(), key=lambda image: image.name):
        if not image.has_pose:
            continue
        camera = model.cameras[image.camera_id]
        k = camera.calibration_matrix()
        intrinsics.append([k[0, 0] / camera.width, k[1, 1] / camera.height, k[0, 2] / camera.width, k[1, 2] / camera.height])
        w2c.append(image.cam_from_world().matrix())
    if not w2c:
        raise _error(path, "", "no registered image", "a COLMAP model with poses")
    return _cameras(path, np.array(intrinsics), np.array(w2c))


def write_colmap(folder: Pathlike, cameras: Cameras, image_hw: tuple[int, int]) -> None:
    """Writes a COLMAP text model without points: a PINHOLE camera and an image per frame, in pixels of an image (height, width)."""
    from scipy.spatial.transform import Rotation

    height, width = image_hw
    pixels = cameras.intrinsics * [width, height, width, height]
    quaternions = Rotation.from_matrix(cameras.w2c[:, :3, :3]).as_quat(scalar_first=True)
    camera_lines, image_lines = [], []
    for index, (k, q, t) in enumerate(zip(pixels, quaternions, cameras.w2c[:, :3, 3], strict=True), start=1):
        camera_lines.append(f"{index} PINHOLE {width} {height} " + " ".join(f"{number:.12g}" for number in k))
        image_lines.append(f"{index} " + " ".join(f"{number:.17g}" for number in [*q, *t]) + f" {index} frame_{index - 1:06d}.png\n")
    for name, lines in {"cameras.txt": camera_lines, "images.txt": image_lines, "points3D.txt": []}.items():
        with atomic_write(Path(folder) / name, "w") as stream:
            stream.write("".join(line + "\n" for line in lines))


def _load(path: Pathlike) -> Array:
    """Returns the array of a .npy file, whose header is checked before anything is allocated."""
    with _naming_damage(path), open(path, "rb") as file:
        return _read_array(path, "", file, Path(path).stat().st_size)


def _load_archive(path: Pathlike, names: tuple[str, ...]) -> list[Array]:
    """Returns arrays of a .npz file. A member is never unpacked beyond the size that is allowed for an array."""
    with _naming_damage(path), zipfile.ZipFile(path) as archive:
        missing = sorted(set(names) - {name.removesuffix(".npy") for name in archive.namelist()})
        if missing:
            raise _error(path, missing[0], "no such array", f"arrays {' and '.join(names)}")
        arrays = []
        for name in names:
            member = archive.getinfo(f"{name}.npy")
            with archive.open(member) as file:
                arrays.append(_read_array(path, name, file, member.file_size))
        return arrays


def _read_array(path: Pathlike, name: str, file: IO[bytes], size: int) -> Array:
    """Returns the array of a .npy stream of `size` bytes. Raises InputError if it is, or says that it is, larger than cameras can be."""
    expected = f"numbers of at most {MAX_CAMERAS} cameras"
    if size > MAX_ARRAY_BYTES:
        raise _error(path, name, f"{size} bytes", expected)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise _error(path, name, f"format {version[0]}.{version[1]}", "a numpy file of format 1.0 or 2.0")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    stated = math.prod(shape) * dtype.itemsize
    if dtype.kind not in "iuf":
        raise _error(path, name, f"dtype {dtype}"[:80], "numbers, without pickles")
    if stated > size:
        raise _error(path, name, f"shape {shape} in {size} bytes", "as many numbers as its header says")
    file.seek(0)
    return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


@contextmanager
def _naming_damage(path: Pathlike) -> Iterator[None]:
    """Converts what numpy and zipfile raise for a damaged file to an InputError."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, EOFError, SyntaxError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise _error(path, "", f"{type(error).__name__}: {error}"[:200], "a numpy file without pickles") from None


def _from_arrays(path: Pathlike, poses: ArrayLike, intrinsics: ArrayLike, image_hw: tuple[int, int] | None) -> Cameras:
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
    return _cameras(path, normalised(intrinsics, image_hw), poses, c2w=True)


def normalised(intrinsics: Array, image_hw: tuple[int, int] | None = None) -> Array:
    """Returns intrinsics (T, 4) as fractions; normalised ones are unchanged. Without image_hw, the principal point is half the size."""
    if not np.isfinite(intrinsics).all() or np.abs(intrinsics[0, 2:]).max() <= 2.0:
        return intrinsics
    if image_hw is None:
        width, height = (SIZE_MULTIPLE * np.ceil((2 * centre - 0.5) / SIZE_MULTIPLE) for centre in intrinsics[0, 2:])
    else:
        height, width = image_hw
    return intrinsics / np.array([width, height, width, height], dtype=np.float64)


def _cameras(path: Pathlike, intrinsics: Array, matrices: Array, c2w: bool = False) -> Cameras:
    """Checks intrinsics (T, 4) and world-to-camera matrices (T, 3 or 4, 4), or camera-to-world ones, and returns the cameras."""
    rotations = matrices[:, :3, :3]
    with np.errstate(invalid="ignore"):
        errors = np.abs(rotations @ np.swapaxes(rotations, 1, 2) - np.eye(3)).max(axis=(1, 2))
        determinants = np.linalg.det(rotations)
    for row in range(len(matrices)):
        if not np.isfinite(matrices[row]).all():
            raise _error(path, f"row {row}", "NaN or infinity", "finite numbers")
        if errors[row] > ROTATION_TOLERANCE or determinants[row] <= 0:
            found = f"a matrix that is not a rotation (determinant {determinants[row]:.3g})"
            raise _error(path, f"row {row}", found, "a rotation, R R^T = I with determinant 1")
        if not np.isfinite(intrinsics[row]).all() or (intrinsics[row, :2] <= 0).any():
            raise _error(path, f"row {row}", f"intrinsics {intrinsics[row].tolist()}", "finite values with focal lengths above 0")
    matrices = se3.rigid(rotations, matrices[:, :3, 3])
    return Cameras(intrinsics, se3.invert(matrices) if c2w else matrices)


def _error(path: Pathlike, field: str, found: object, expected: str) -> InputError:
    return InputError(path, field, found, expected, "correct the camera file")
