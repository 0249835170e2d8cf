"""Pictures: decoding within bounds, JPEG encoding, and the first frames that a model folder offers."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from moworld.errors import InputError
from moworld.files import Pathlike
from moworld.video import Frames

PICTURE_BYTES = 6 * 2**20
PICTURE_PIXELS = 25_000_000


def read_picture(data: bytes) -> Frames:
    """Returns (H, W, 3) uint8 RGB of a JPEG, PNG or WebP from an untrusted source.

    The size is checked before the pixels are decoded: a small file may contain a huge picture.
    Raises InputError for other formats, corrupt data, and pictures that are too large or smaller than 16x16.
    """
    if len(data) > PICTURE_BYTES:
        raise InputError("picture", "", f"{len(data)} bytes", f"at most {PICTURE_BYTES}", "send a smaller file")
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as picture:
            if picture.width * picture.height > PICTURE_PIXELS or min(picture.size) < 16:
                found = f"{picture.width}x{picture.height}"
                raise InputError("picture", "size", found, f"16x16 to {PICTURE_PIXELS} pixels", "resize it")
            picture.draft("RGB", (2048, 2048))
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except InputError:
        raise
    except Exception as error:  # the decoder may raise anything for a hostile file
        raise InputError("picture", "", f"{type(error).__name__}", "a picture", "send a JPEG, PNG or WebP") from None


def encode_jpeg(frame: Frames, quality: int = 88) -> bytes:
    """Returns a frame (H, W, 3) uint8 RGB as JPEG."""
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def model_pictures(folder: Pathlike) -> list[Frames]:
    """Returns the pictures of a model folder to start from: pictures/*.png, sorted by name."""
    return [read_picture(path.read_bytes()) for path in sorted(Path(folder, "pictures").glob("*.png"))]
