"""A clip at the model's size: its pixels cropped and resized, and its cameras in the same crop, relative to its first frame, in model units."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moworld.camera.cameras import Cameras, cover_crop, resize_to_cover
from moworld.camera.formats import read_cameras
from moworld.data.clips import Clip
from moworld.errors import InputError
from moworld.files import Pathlike
from moworld.video import iterate_frames


def whole_groups(num_frames: int) -> int:
    """The largest 4 k + 1 that fits into a number of frames."""
    return (num_frames - 1) // 4 * 4 + 1


def model_frames(folder: Pathlike, clip: Clip, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Pixels of a clip at the model's size: (T, height, width, 3), T cut to 4 k + 1.

    Raises InputError when the video ends before the manifest says.
    """
    video, wanted = Path(folder) / clip.video, whole_groups(clip.num_frames)
    frames = [resize_to_cover(frame, size_hw) for frame in iterate_frames(video, 0, wanted)]
    _all_there(video, len(frames), wanted)
    return np.stack(frames)


def model_cameras(folder: Pathlike, clip: Clip, size_hw: tuple[int, int]) -> Cameras:
    """Cameras of the same frames: intrinsics of the crop, poses relative to the first frame, translations in model units.

    Raises InputError for a clip without cameras, or with fewer than the manifest says.
    """
    if clip.camera is None:
        raise InputError(
            Path(folder) / "manifest.parquet", f"camera of {clip.clip_id}", "none", "a camera file", "run complete_geometry first"
        )
    path, wanted = Path(folder) / clip.camera, whole_groups(clip.num_frames)
    cameras = read_cameras(path).slice(0, wanted)
    _all_there(path, len(cameras), wanted)
    crop = cover_crop((clip.height, clip.width), size_hw)
    return cameras.cropped(*crop).relative_to(0).scaled(clip.translation_scale or 1.0)


def model_depth(folder: Pathlike, clip: Clip, size_hw: tuple[int, int], grid_hw: tuple[int, int]) -> NDArray[np.float64] | None:
    """Distances along the view axis at the centres of a grid of cells over the same crop: (T, *grid_hw) in model units; None without depth."""
    if clip.depth is None:
        return None
    with np.load(Path(folder) / clip.depth) as archive:
        depth = archive["depth"][: whole_groups(clip.num_frames)]
    x0, y0, x1, y1 = cover_crop((clip.height, clip.width), size_hw)
    shares = (low + (high - low) * (np.arange(cells) + 0.5) / cells for low, high, cells in ((y0, y1, grid_hw[0]), (x0, x1, grid_hw[1])))
    rows, columns = ((share * size).astype(int) for share, size in zip(shares, depth.shape[1:], strict=True))
    return depth[:, rows][:, :, columns] / (clip.translation_scale or 1.0)


def _all_there(path: Path, found: int, wanted: int) -> None:
    if found < wanted:
        raise InputError(path, "length", f"{found} frames", f"{wanted} as the manifest says", "restore the folder or collect again")
