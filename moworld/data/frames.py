"""Clips at the model's size: cropped and resized frames, and cameras in the same crop, relative to the first frame, in model units."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moworld.camera.cameras import Cameras, cover_crop, resize_to_cover
from moworld.camera.formats import read_cameras
from moworld.data.clips import Clip
from moworld.data.depth import clip_depth
from moworld.errors import InputError
from moworld.files import Pathlike
from moworld.model.latent_grid import CODEC_GRID
from moworld.video import iterate_frames


def model_frames(folder: Pathlike, clip: Clip, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Returns a clip's frames at the model's size: (T, height, width, 3) uint8, T cut to 4 k + 1.

    Raises InputError if the video is shorter than the manifest says.
    """
    video, expected = Path(folder) / clip.video, CODEC_GRID.whole_frames(clip.num_frames)
    frames = [resize_to_cover(frame, size_hw) for frame in iterate_frames(video, 0, expected)]
    _check_length(video, len(frames), expected)
    return np.stack(frames)


def model_cameras(folder: Pathlike, clip: Clip, size_hw: tuple[int, int]) -> Cameras:
    """Returns the cameras of the same frames: intrinsics of the crop, poses relative to the first frame, translations in model units.

    Raises InputError for a clip without cameras, or with fewer than the manifest says.
    """
    if clip.camera is None:
        manifest = Path(folder) / "manifest.parquet"
        raise InputError(manifest, f"camera of {clip.clip_id}", "none", "a camera file", "run complete_geometry first")
    path, expected = Path(folder) / clip.camera, CODEC_GRID.whole_frames(clip.num_frames)
    cameras = read_cameras(path).slice(0, expected)
    _check_length(path, len(cameras), expected)
    crop = cover_crop((clip.height, clip.width), size_hw)
    return cameras.cropped(*crop).relative_to(0).scaled(clip.translation_scale or 1.0)


def model_depth(folder: Pathlike, clip: Clip, size_hw: tuple[int, int], grid_hw: tuple[int, int]) -> NDArray[np.float64] | None:
    """Returns distances along the view axis at the cell centres of a grid over the same crop: (T, *grid_hw) in model units; None without depth."""
    if clip.depth is None:
        return None
    depth = clip_depth(clip, folder)[: CODEC_GRID.whole_frames(clip.num_frames)]
    x0, y0, x1, y1 = cover_crop((clip.height, clip.width), size_hw)
    shares = (low + (high - low) * (np.arange(cells) + 0.5) / cells for low, high, cells in ((y0, y1, grid_hw[0]), (x0, x1, grid_hw[1])))
    rows, columns = ((share * size).astype(int) for share, size in zip(shares, depth.shape[1:], strict=True))
    return depth[:, rows][:, :, columns] / (clip.translation_scale or 1.0)


def _check_length(path: Path, found: int, expected: int) -> None:
    if found < expected:
        raise InputError(path, "length", f"{found} frames", f"{expected} as the manifest says", "restore the folder or collect again")
