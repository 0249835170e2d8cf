"""Camera files, reader and writer side by side: RealEstate10K text, poses.npy with intrinsics.npy, camera.npz, COLMAP models.

All become one type, Cameras; nothing else in the house knows another convention. Numpy files are read without pickles.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moworld.camera import se3
from moworld.camera.cameras import Cameras
from moworld.errors import InputError
from moworld.files import Pathlike, atomic_write

Array = NDArray[np.float64]
ROTATION_TOLERANCE = 5e-3  # poses in the wild are float32 and chained products; real shears and scales are far above
SIZE_MULTIPLE = 8  # widths and heights of video are multiples of 8; a principal point may lie a little off the centre


def read_cameras(path: Pathlike, image_hw: tuple[int, int] | None = None) -> Cameras:
    """Cameras of a file or folder, by what it holds.

    path:     .txt (RealEstate10K), .npz (extrinsics_c2w, intrinsics), a poses.npy with intrinsics.npy beside it, a folder with
              either pair, or a COLMAP model folder (cameras, images as .txt or .bin)
    image_hw: height and width that pixel intrinsics refer to; without it, the picture that has their principal point at its centre
    Raises InputError naming the file and row for unreadable files, wrong rows, NaN and matrices that are no rotation.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(path, "", "no such file", "a camera file or folder", "check the path")
    if path.is_dir():
        return _read_folder(path, image_hw)
    if path.suffix == ".txt":
        return read_realestate10k(path)
    if path.suffix == ".npz":
        return read_npz(path, image_hw)
    if path.suffix == ".npy":
        return read_poses(path, image_hw=image_hw)
    raise InputError(path, "", f"suffix {path.suffix!r}", ".txt, .npy, .npz or a COLMAP folder", "convert the cameras to one of them")


def write_cameras(path: Pathlike, cameras: Cameras) -> None:
    """Write cameras as RealEstate10K text, the house's own format."""
    write_realestate10k(path, cameras)


def read_realestate10k(path: Pathlike) -> Cameras:
    """A line with a URL, then rows: timestamp fx fy cx cy 0 0 and a 3x4 world-to-camera matrix row by row, intrinsics normalised."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise _no_cameras(path, "", "bytes that are no text", "RealEstate10K text") from None
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        fields = line.split()
        if len(fields) != 19:
            raise _no_cameras(path, f"line {number}", f"{len(fields)} numbers", "19 numbers")
        try:
            rows.append([float(field) for field in fields])
        except ValueError as error:
            raise _no_cameras(path, f"line {number}", str(error), "19 numbers") from None
    if not rows:
        raise _no_cameras(path, "", "no camera row", "a URL line and a row for each frame")
    table = np.array(rows)
    return _checked(path, table[:, 1:5], _square(table[:, 7:].reshape(-1, 3, 4)))


def write_realestate10k(path: Pathlike, cameras: Cameras, url: str = "", fps: float = 24.0) -> None:
    """Write the text that read_realestate10k reads back to 1e-9 relative; timestamps in microseconds at `fps`."""
    lines = [url]
    for frame, (intrinsics, w2c) in enumerate(zip(cameras.intrinsics, cameras.w2c, strict=True)):
        numbers = [*intrinsics, 0.0, 0.0, *w2c[:3].ravel()]
        lines.append(f"{round(frame * 1e6 / fps)} " + " ".join(f"{number:.12g}" for number in numbers))
    with atomic_write(path, "w") as stream:
        stream.write("\n".join(lines) + "\n")


def read_poses(path: Pathlike, intrinsics_path: Pathlike | None = None, image_hw: tuple[int, int] | None = None) -> Cameras:
    """poses.npy (T, 4, 4) camera to world and intrinsics.npy (T, 4) or (4,) in pixels or normalised, beside it unless named."""
    intrinsics_path = Path(intrinsics_path) if intrinsics_path else Path(path).with_name("intrinsics.npy")
    if not intrinsics_path.exists():
        raise InputError(intrinsics_path, "", "no such file", f"the intrinsics of {Path(path).name}", "put intrinsics.npy beside the poses")
    return _from_arrays(path, _load(path), _load(intrinsics_path), image_hw)


def write_poses(folder: Pathlike, cameras: Cameras, image_hw: tuple[int, int]) -> None:
    """Write poses.npy (T, 4, 4) camera to world and intrinsics.npy (T, 4) in pixels of a picture (height, width)."""
    height, width = image_hw
    arrays = {"poses.npy": cameras.c2w, "intrinsics.npy": cameras.intrinsics * [width, height, width, height]}
    for name, array in arrays.items():
        with atomic_write(Path(folder) / name) as stream:
            np.save(stream, array)


def read_npz(path: Pathlike, image_hw: tuple[int, int] | None = None) -> Cameras:
    """An archive of extrinsics_c2w (T, 4, 4) and intrinsics (T, 4), pixels or normalised."""
    arrays = _load(path)
    missing = {"extrinsics_c2w", "intrinsics"} - set(getattr(arrays, "files", ()))
    if missing:
        raise _no_cameras(path, sorted(missing)[0], "no such array", "arrays extrinsics_c2w and intrinsics")
    return _from_arrays(path, arrays["extrinsics_c2w"], arrays["intrinsics"], image_hw)


def read_colmap(path: Pathlike) -> Cameras:
    """A COLMAP model folder, text or binary, images in the order of their names; distortion must be none or small (it is dropped)."""
    import pycolmap

    try:
        model = pycolmap.Reconstruction(str(path))
    except (ValueError, RuntimeError) as error:
        raise _no_cameras(path, "", str(error), "a COLMAP model") from None
    intrinsics, w2c = [], []
    for image in sorted(model.images.values(), key=lambda image: image.name):
        if not image.has_pose:
            continue
        camera = model.cameras[image.camera_id]
        k = camera.calibration_matrix()
        intrinsics.append([k[0, 0] / camera.width, k[1, 1] / camera.height, k[0, 2] / camera.width, k[1, 2] / camera.height])
        w2c.append(image.cam_from_world().matrix())
    if not w2c:
        raise _no_cameras(path, "", "no registered image", "a COLMAP model with poses")
    return _checked(path, np.array(intrinsics), _square(np.array(w2c)))


def write_colmap(folder: Pathlike, cameras: Cameras, image_hw: tuple[int, int]) -> None:
    """Write a COLMAP text model without points: one PINHOLE camera and one image a frame, in pixels of a picture (height, width)."""
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


def _read_folder(path: Path, image_hw: tuple[int, int] | None) -> Cameras:
    if (path / "poses.npy").exists():
        return read_poses(path / "poses.npy", image_hw=image_hw)
    if (path / "camera.npz").exists():
        return read_npz(path / "camera.npz", image_hw)
    if any((path / f"images{suffix}").exists() for suffix in (".txt", ".bin")):
        return read_colmap(path)
    raise _no_cameras(path, "", "none of them", "poses.npy, camera.npz or a COLMAP model in the folder")


def _load(path: Pathlike) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _no_cameras(path, "", f"{type(error).__name__}: {error}", "a numpy file without pickles") from None


def _from_arrays(path: Pathlike, poses: ArrayLike, intrinsics: ArrayLike, image_hw: tuple[int, int] | None) -> Cameras:
    try:
        poses, intrinsics = np.asarray(poses, dtype=np.float64), np.asarray(intrinsics, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise _no_cameras(path, "", str(error), "arrays of numbers") from None
    if poses.ndim != 3 or poses.shape[1:] not in ((4, 4), (3, 4)) or not len(poses):
        raise _no_cameras(path, "poses", poses.shape, "(T, 4, 4) camera to world")
    if intrinsics.ndim == 1:
        intrinsics = np.repeat(intrinsics[None], len(poses), axis=0)
    if intrinsics.shape != (len(poses), 4):
        raise _no_cameras(path, "intrinsics", f"{intrinsics.shape} for {len(poses)} poses", f"({len(poses)}, 4), a row for each pose")
    c2w = _square(poses[:, :3])
    _check_rotations(path, c2w)
    return _checked(path, normalised(intrinsics, image_hw), se3.invert(c2w))


def normalised(intrinsics: Array, image_hw: tuple[int, int] | None = None) -> Array:
    """(T, 4) pixel intrinsics as fractions; normalised ones stay. Without a size, the principal point stands for half of it."""
    if not np.isfinite(intrinsics).all() or np.abs(intrinsics[0, 2:]).max() <= 2.0:
        return intrinsics
    if image_hw is None:
        width, height = (SIZE_MULTIPLE * np.ceil((2 * centre - 0.5) / SIZE_MULTIPLE) for centre in intrinsics[0, 2:])
    else:
        height, width = image_hw
    return intrinsics / np.array([width, height, width, height], dtype=np.float64)


def _square(matrices: Array) -> Array:
    return se3.rigid(matrices[:, :3, :3], matrices[:, :3, 3])


def _check_rotations(path: Pathlike, matrices: Array) -> None:
    bad = ~np.isfinite(matrices).all(axis=(1, 2))
    if bad.any():
        raise _no_cameras(path, f"row {int(np.argmax(bad))}", "NaN or infinity", "finite numbers")
    rotations = matrices[:, :3, :3]
    errors = np.abs(rotations @ np.swapaxes(rotations, 1, 2) - np.eye(3)).max(axis=(1, 2))
    bad = (errors > ROTATION_TOLERANCE) | (np.linalg.det(rotations) <= 0)
    if bad.any():
        row = int(np.argmax(bad))
        found = f"a matrix that is no rotation (determinant {np.linalg.det(rotations[row]):.3g})"
        raise _no_cameras(path, f"row {row}", found, "a rotation, R R^T = I with determinant 1")


def _checked(path: Pathlike, intrinsics: Array, w2c: Array) -> Cameras:
    _check_rotations(path, w2c)
    bad = ~np.isfinite(intrinsics).all(axis=1) | (intrinsics[:, :2] <= 0).any(axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        raise _no_cameras(path, f"row {row}", f"intrinsics {intrinsics[row].tolist()}", "finite ones with focal lengths above 0")
    return Cameras(intrinsics, w2c)


def _no_cameras(path: Pathlike, field: str, found: object, wanted: str) -> InputError:
    return InputError(path, field, found, wanted, "correct the camera file")
