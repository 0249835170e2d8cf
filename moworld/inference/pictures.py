"""Pictures: decoding within bounds, JPEG encoding, and the first frames that a model folder offers."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from moworld.errors import InputError
from moworld.files import Pathlike
from moworld.inference import decoder
from moworld.video import Frames

PICTURE_BYTES, PICTURE_PIXELS = 6 * 2**20, decoder.MAX_PIXELS
SECONDS = 20.0  # for a decoder to start and end on a machine whose cores are busy; its own limit is `decoder.CPU_SECONDS` of a core


def read_untrusted(data: bytes, cpu_seconds: float = decoder.CPU_SECONDS) -> Frames:
    """Returns (H, W, 3) uint8 RGB of a JPEG, PNG or WebP of a stranger, decoded in a process of limited time and memory.

    cpu_seconds: of a processor that decoding may take
    A side above `decoder.LONG_SIDE` is reduced. Raises InputError as `read_picture` does, and for a picture that exceeds the limits.
    """
    _check_bytes(data)
    command = [sys.executable, "-I", "-S", str(Path(decoder.__file__)), str(Path(Image.__file__).parents[1]), str(cpu_seconds)]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise _too_costly(f"not decoded within {SECONDS:g} s") from None
    if done.returncode == 1 and (reason := done.stderr.decode(errors="replace").strip("\n").splitlines()):
        field, found, expected, fix = (*reason[-1].split("\t"), "", "", "")[:4]
        raise InputError("picture", field, found, expected, fix)
    if done.returncode:  # killed at its limit
        raise _too_costly(f"over {cpu_seconds:g} s of a processor or {decoder.MEMORY_BYTES // 2**20} MiB to decode")
    height, width = decoder.HEADER.unpack_from(done.stdout)
    return np.frombuffer(done.stdout, np.uint8, offset=decoder.HEADER.size).reshape(height, width, 3)


def read_picture(data: bytes) -> Frames:
    """Returns (H, W, 3) uint8 RGB of a JPEG, PNG or WebP of the model or of this program. Bounds are checked before pixels are decoded.

    Raises InputError for other formats, corrupt data, and pictures that are too large or smaller than 16x16.
    """
    _check_bytes(data)
    try:
        with Image.open(io.BytesIO(data), formats=decoder.FORMATS) as picture:
            check_picture("picture", data, picture.width, picture.height)
            picture.draft("RGB", (2048, 2048))
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # raised before `check_picture` is reached
        raise InputError("picture", "size", str(error).partition(",")[0], f"{decoder.MAX_PIXELS} pixels at most", "resize it") from None
    except Exception as error:  # the decoder may raise anything for a hostile file
        raise InputError("picture", "", f"{type(error).__name__}", "a picture", "send a JPEG, PNG or WebP") from None


def check_picture(file: Pathlike, data: bytes, width: int, height: int) -> None:
    """Raises InputError if a picture of this header is not to be decoded (see `decoder.refusal`)."""
    field, found, expected, fix = decoder.refusal(data, width, height)
    if found:
        raise InputError(file, field, found, expected, fix)


def _check_bytes(data: bytes) -> None:
    if len(data) > PICTURE_BYTES:
        raise InputError("picture", "", f"{len(data) / 2**20:.1f} MiB", f"at most {PICTURE_BYTES // 2**20} MiB", "send a smaller file")


def _too_costly(found: str) -> InputError:
    return InputError("picture", "", found, "a picture that decodes quickly", "save it again as a plain JPEG or PNG")


def encode_jpeg(frame: Frames, quality: int = 88) -> bytes:
    """Returns a frame (H, W, 3) uint8 RGB as JPEG."""
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def encode_png(frame: Frames) -> bytes:
    """Returns a frame (H, W, 3) uint8 RGB as PNG, without loss."""
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "PNG")
    return stream.getvalue()


def model_pictures(folder: Pathlike) -> list[Frames]:
    """Returns the pictures of a model folder to start from: pictures/*.png, sorted by name."""
    return [read_picture(path.read_bytes()) for path in sorted(Path(folder, "pictures").glob("*.png"))]
