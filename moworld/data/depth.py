"""Reads the depth maps of a clip, an .npz file with one array, `depth` (T, H, W): distances along the view axis in the units of its camera file."""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from moworld.camera.arrays import load_archive
from moworld.data.clips import Clip
from moworld.errors import InputError
from moworld.files import Pathlike

NPY_HEADER_BYTES = 65_536
MAX_PIXEL_BYTES = 16  # twice those of float64, so that a file of a few maps too many is read and its count named


def clip_depth(clip: Clip, folder: Pathlike) -> NDArray[Any]:
    """Returns the depth maps (T, H, W) of a clip that has some; raises InputError as `read_depth` does."""
    return read_depth(Path(folder) / str(clip.depth), clip.num_frames, (clip.height, clip.width))


def read_depth(path: Path, frames: int, size_hw: tuple[int, int]) -> NDArray[Any]:
    """Returns depth maps (T, H, W). A file that is far larger than `frames` maps of this height and width can be is not unpacked.

    Raises InputError for such a file, a damaged one, and an array of another shape.
    """
    height, width = size_hw
    most = frames * height * width * MAX_PIXEL_BYTES + NPY_HEADER_BYTES
    (depth,), _ = load_archive(path, ("depth",), most, f"{frames} maps of {width}x{height}")
    if depth.ndim != 3:
        raise InputError(path, "depth", f"shape {depth.shape}", "maps (T, H, W)", "restore the file")
    return depth
