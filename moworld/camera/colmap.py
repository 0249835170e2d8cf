"""Reads and writes COLMAP models: one camera through time, images in the natural order of their names."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from moworld.camera.camera_file import CameraFile, checked
from moworld.camera.cameras import Cameras
from moworld.camera.lens import PINHOLES, Distortion
from moworld.errors import InputError
from moworld.files import Pathlike, atomic_write

FIX = "export one COLMAP model of one camera"
POLYNOMIALS = ("SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")  # models that are pinholes if all their distortion parameters are 0
NO_DISTORTION = 1e-7  # a smaller distortion parameter moves no pixel


def model_folder(folder: Path) -> Path | None:
    """Returns the folder with a COLMAP model: `folder`, its sparse/ or sparse/0; None if there is none. Raises InputError for several."""
    places = [folder, folder / "sparse", *sorted(path for path in folder.glob("sparse/*") if path.is_dir())]
    found = [place for place in places if any((place / f"images{suffix}").exists() for suffix in (".txt", ".bin"))]
    if len(found) > 1:
        names = ", ".join(str(place.relative_to(folder)) for place in found)
        raise InputError(folder, "", f"{len(found)} COLMAP models ({names})", "one model", "name the model's folder")
    return found[0] if found else None


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Returns a sort key by which frame_2 is before frame_10: digits compare as numbers."""
    return [(0, int(part), part) if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|\D+", name)]


def read_colmap(path: Pathlike) -> CameraFile:
    """Reads a COLMAP model folder, text or binary.

    Images are in the natural order of their names. The lens of a model with distortion is kept as `distortion`. Image ids, points and
    observations are not used.
    Raises InputError for a model that is unreadable, without poses, or of several cameras or series of images.
    """
    folder = Path(path)
    model = _loaded(folder)
    images = sorted((image for image in model.images.values() if image.has_pose), key=lambda image: natural_key(image.name))
    if not images:
        raise InputError(folder, "", "no registered image", "a COLMAP model with poses", FIX)
    _require_one_camera(folder, model, images)
    lenses = [model.cameras[image.camera_id] for image in images]
    distortion = _distortion(folder, lenses)
    intrinsics = []
    for lens in lenses:
        k = lens.calibration_matrix()
        intrinsics.append([k[0, 0] / lens.width, k[1, 1] / lens.height, k[0, 2] / lens.width, k[1, 2] / lens.height])
    w2c = np.array([image.cam_from_world().matrix() for image in images])
    size = (lenses[0].height, lenses[0].width)
    return checked(folder, intrinsics, w2c, image_hw=size, distortion=distortion, notes=_notes(model, images))


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


def _loaded(folder: Path) -> Any:
    """Returns pycolmap's reconstruction of a folder."""
    import pycolmap

    suffix = ".bin" if (folder / "images.bin").exists() else ".txt"
    for name in ("cameras", "images", "points3D"):
        if not (folder / f"{name}{suffix}").is_file():
            raise InputError(folder, f"{name}{suffix}", "no such file", f"cameras, images and points3D as {suffix}", FIX)
    if suffix == ".txt":
        _require_finite(folder / "images.txt")
    level, pycolmap.logging.minloglevel = pycolmap.logging.minloglevel, 3
    try:
        return pycolmap.Reconstruction(str(folder))
    except (ValueError, RuntimeError, IndexError, MemoryError) as error:  # pycolmap's errors for damaged files
        found = re.sub(r"^\[[^]]*\]\s*", "", str(error))[:120]
        raise InputError(folder, "", f"an unreadable model ({found})", "a COLMAP model", FIX) from None
    finally:
        pycolmap.logging.minloglevel = level


def _require_finite(path: Path) -> None:
    """Raises InputError for a pose that is not finite: COLMAP's own reader does not name the line. Observations are not read."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(path, "", "bytes that are not UTF-8", "COLMAP text", FIX) from None
    rows = ((number, line.split()) for number, line in enumerate(lines, start=1) if not line.lstrip().startswith("#"))
    for number, fields in rows:
        if len(fields) >= 10 and re.search(r"[^\d.eE+-]", fields[9]):  # a pose line ends with the image's name
            try:
                pose = np.array([float(field) for field in fields[1:8]])
            except ValueError:
                continue  # COLMAP's reader decides
            if not np.isfinite(pose).all() or not pose[:4].any():
                raise InputError(path, f"line {number}", f"the pose {' '.join(fields[1:8])}", "finite numbers and a quaternion", FIX)


def _require_one_camera(folder: Path, model: Any, images: list[Any]) -> None:
    """Raises InputError for rigs, several folders or series of images, and several cameras with several images each."""
    names = [image.name for image in images]
    if len({(model.cameras[image.camera_id].width, model.cameras[image.camera_id].height) for image in images}) > 1:
        raise InputError(folder, "cameras", "images of several sizes", "images of one camera", FIX)
    if any(rig.num_sensors() > 1 for rig in model.rigs.values()):
        raise InputError(folder, "rigs", "a rig of several cameras", "one camera", "export the images of one camera of the rig")
    if len(parents := sorted({str(Path(name).parent) for name in names})) > 1:
        found = f"images in {len(parents)} folders ({', '.join(parents[:3])})"
        raise InputError(folder, "images", found, "images of one camera", "export the images of one folder")
    if len(series := sorted({re.sub(r"\d+", "#", Path(name).stem) for name in names})) > 1:
        found = f"{len(series)} series of names ({', '.join(series[:3])})"
        raise InputError(folder, "images", found, "names that differ in their numbers only", "export the images of one series")
    if _interleaved([[int(part) for part in re.findall(r"\d+", Path(name).stem)] for name in names]):
        found = f"several images of one frame number ({names[0]}, {names[len(names) // 2]})"
        raise InputError(folder, "images", found, "one image per frame", "export the images of one camera")
    uses = Counter(image.camera_id for image in images)
    if len(uses) > 1 and max(uses.values()) > 1:
        raise InputError(folder, "cameras", f"{len(uses)} cameras", "one camera, or one for each image", FIX)


def _interleaved(numbers: list[list[int]]) -> bool:
    """Returns whether names like cam0_001, cam1_001 repeat the same frame numbers for each value of their first varying number."""
    if not numbers or not numbers[0]:
        return False
    varying = [column for column in range(len(numbers[0])) if len({row[column] for row in numbers}) > 1]
    if len(varying) < 2:
        return False
    groups: dict[int, set[tuple[int, ...]]] = {}
    for row in numbers:
        groups.setdefault(row[varying[0]], set()).add(tuple(row[column] for column in varying[1:]))
    shared = set.intersection(*groups.values())
    return len(groups) > 1 and len(shared) > 1 and 2 * len(shared) >= max(len(group) for group in groups.values())


def _distortion(folder: Path, lenses: list[Any]) -> Distortion | None:
    """Returns the distortion that all lenses share, or None. Raises InputError if they differ."""
    found = set()
    for lens in lenses:
        extra = [lens.params[index] for index in lens.extra_params_idxs()]
        if lens.model.name == "EQUIRECTANGULAR":
            raise InputError(folder, "cameras", "an equirectangular panorama", "a perspective lens", "cut perspective pictures out of it")
        plain = lens.model.name in PINHOLES or (lens.model.name in POLYNOMIALS and not (np.abs(extra) > NO_DISTORTION).any())
        found.add(None if plain else Distortion(lens.model.name, tuple(map(float, lens.params)), (lens.height, lens.width)))
    if len(found) > 1:
        raise InputError(folder, "cameras", f"{len(found)} lenses with different distortion", "one lens", "run COLMAP with one camera")
    return found.pop()


def _notes(model: Any, images: list[Any]) -> tuple[str, ...]:
    notes = ["not used: image ids, points and observations of the COLMAP model"]
    left_out = len(model.images) - len(images)
    if left_out:
        notes.append(f"{left_out} images without pose are omitted")
    last = [int(parts[-1]) for image in images if (parts := re.findall(r"\d+", Path(image.name).stem))]
    steps = np.diff(last)
    if len(steps) and (steps != steps[0]).any():
        notes.append(f"image numbers have gaps ({last[0]} to {last[-1]}, {len(last)} images); row i is frame i")
    return tuple(notes)
