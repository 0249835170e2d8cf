"""Finds the camera file that belongs to a video."""

from dataclasses import dataclass
from pathlib import Path

from moworld.camera.colmap import model_folder
from moworld.errors import InputError

SUFFIXES = (".txt", ".npz", ".json")
FOLDER_FILES = ("poses.npy", "camera.npz", "transforms.json")
FEWEST_NUMBERS = 7  # of a text's row: a pose; prose has no such line
SNIFFED_LINES = 50


@dataclass(frozen=True)
class Sidecar:
    """The camera file or folder of a video, or None, and the reasons why other files beside it are not used."""

    path: Path | None
    notes: tuple[str, ...] = ()


def find_sidecar(video: Path, alone: bool) -> Sidecar:
    """Returns the camera file of a video.

    A camera file has the video's stem (.txt, .npz, .json, in any case), or is in a folder of that name (poses.npy, camera.npz,
    transforms.json, or a COLMAP model in it, its sparse/ or sparse/0). If `alone`, the only video of its folder, one of these in the
    video's own folder counts too. A .txt or .json without numbers is not a camera file.
    Raises InputError if there are two camera files.
    """
    beside = sorted(path for path in video.parent.iterdir() if path.stem == video.stem and path.suffix.lower() in SUFFIXES and path.is_file())
    notes = [f"not used: {path.name}, which is not a camera file" for path in beside if not _has_cameras(path)]
    found = [path for path in beside if _has_cameras(path)]
    folders = [video.with_suffix(""), *([video.parent] if alone and not found else [])]
    for folder in folders:
        if folder.is_dir() and not found:
            found = [file for name in FOLDER_FILES if (file := folder / name).is_file()]
            model = model_folder(folder)
            found += [model] if model is not None else []
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(video.parent)) for path in found)
        raise InputError(video.parent / video.stem, "", f"{len(found)} camera files ({names})", "one for a video", "keep the one to read")
    return Sidecar(found[0] if found else None, tuple(notes))


def _has_cameras(path: Path) -> bool:
    """Returns whether a file can hold cameras: an archive, a JSON with frames, a text with a row of numbers or without any line."""
    if path.suffix.lower() == ".npz":
        return True
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return False
    if path.suffix.lower() == ".json":
        return '"frames"' in text
    lines = [line for line in text.splitlines() if line.strip()][:SNIFFED_LINES]
    return not lines or any(sum(map(_number, line.replace(",", " ").split())) >= FEWEST_NUMBERS for line in lines)


def _number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
