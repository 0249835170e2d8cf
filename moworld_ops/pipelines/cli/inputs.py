"""Pictures and camera paths that a user names, read in a process with limits: a file from elsewhere cannot exhaust this one.

The limits are those of `moworld data import`: size of a frame, memory, and seconds without progress.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from moworld.errors import InputError

MIN_SIDE, MAX_PIXELS = 16, 8192 * 8192
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


def read_picture(path: Path) -> Any:
    """Returns an image, or a video's first frame, as (H, W, 3) uint8 RGB; raises InputError for anything else."""
    if not path.is_file():
        raise InputError(path, "", "no such file", "an image or a video", "check the path")
    return _isolated(_decode, path)


def pose_chunks(path: Path, chunk: int) -> list[Any]:
    """Returns camera-to-world matrices of the frames after the first, (chunk, 4, 4) each, in model units relative to the first.

    A remainder shorter than a chunk is omitted. Raises InputError for an invalid file, and if there is no whole chunk.
    """
    c2w = _isolated(_read_poses, path)
    whole = len(c2w) // chunk * chunk
    if not whole:
        raise InputError(path, "poses", f"{len(c2w) + 1} poses", f"at least {chunk + 1}", "pass a longer camera path")
    return [c2w[start : start + chunk] for start in range(0, whole, chunk)]


def _isolated(work: Callable[..., Any], path: Path) -> Any:
    from moworld.data.isolation import run_isolated

    [found] = run_isolated(work, [(path,)], workers=1)
    if isinstance(found, InputError):
        raise found
    return found


def _read_poses(path: Path, heartbeat: Callable[[], None]) -> Any:
    from moworld.camera import Cameras, read_camera_file, translation_scale

    file = read_camera_file(path)  # the model's own lens is used, so a lens in pixels needs no image size here
    cameras = Cameras(file.intrinsics, file.w2c).relative_to(0)
    return cameras.scaled(translation_scale(cameras.w2c)).c2w[1:]


def _decode(path: Path, heartbeat: Callable[[], None]) -> Any:
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # the header is checked here, with this limit's own line
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_size(path, image.width, image.height)
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError:
        from moworld.video import read_frames, video_info

        info = video_info(path)
        _check_size(path, info.width, info.height)
        return read_frames(path, 0, 1)[0]
    except OSError as error:
        raise InputError(path, "", f"a damaged image ({error})", "an image or a video", "save the image again") from None


def _check_size(path: Path, width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE or width * height > MAX_PIXELS:
        found = f"{width}x{height}"
        raise InputError(path, "size", found, f"at least {MIN_SIDE} pixels a side, at most {MAX_PIXELS} in all", "resize it")
