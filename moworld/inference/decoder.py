"""Decodes one untrusted picture in a process of its own: a file on stdin, its pixels on stdout. Run as a script, so it imports only Pillow.

Arguments: the directory of Pillow's package, and the seconds of a processor (`CPU_SECONDS`).

The process limits itself to `CPU_SECONDS`, `MEMORY_BYTES` writes no file, and has the lowest priority. See `moworld.inference.pictures`.
"""

import io
import os
import resource
import signal
import struct
import sys

CPU_SECONDS = 1.5  # of a processor, after the imports; 25 million pixels take up to 1 s
MEMORY_BYTES = 2**30  # address space: 25 million pixels need 0.1 GB twice, the libraries 0.2 GB
HEADER = struct.Struct("!II")  # height and width; then height * width * 3 bytes
LONG_SIDE = 4096  # pixels; a larger picture is reduced by an integer factor, so that less is sent
MIN_SIDE, MAX_PIXELS = 16, 25_000_000
MAX_SCANS = 64  # of a JPEG: each one is decoded into the whole picture, however few bytes it has; cameras and encoders write at most 12
FORMATS = ("JPEG", "PNG", "WEBP")


def refusal(data: bytes, width: int, height: int) -> tuple[str, str, str, str]:
    """Returns field, found, expected and fix for a picture that is not decoded, judged by its header; four times "" for any other.

    A small file may contain a huge picture, or a JPEG of thousands of scans.
    """
    if width * height > MAX_PIXELS or min(width, height) < MIN_SIDE:
        return "size", f"{width}x{height}", f"{MIN_SIDE}x{MIN_SIDE} to {MAX_PIXELS} pixels", "resize it"
    if data[:2] == b"\xff\xd8" and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        return "", f"a JPEG of {scans} scans", f"at most {MAX_SCANS}", "save it again as a baseline JPEG"
    return "", "", "", ""


def main() -> int:
    """Writes the picture's header and pixels; or one line, field, found, expected and fix with tabs between them, to stderr, and returns 1."""
    sys.path.append(sys.argv[1])  # of Pillow: `-I -S` keeps what a stranger or another package could load
    from PIL import Image, ImageOps

    Image.preinit()  # its plugins
    Image.MAX_IMAGE_PIXELS = None  # `refusal` has the limit
    signal.setitimer(signal.ITIMER_PROF, float(sys.argv[2]))  # ends the process, also inside of a library; RLIMIT_CPU has whole seconds
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(10)
    data = sys.stdin.buffer.read()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if (reason := refusal(data, picture.width, picture.height))[1]:
                return _refuse(*reason)
            picture.draft("RGB", (2048, 2048))
            pixels = ImageOps.exif_transpose(picture).convert("RGB")
        if (factor := max(pixels.size) // LONG_SIDE) > 1:
            pixels = pixels.reduce(factor)
    except Exception as error:  # the decoder may raise anything for a hostile file
        return _refuse("", type(error).__name__, "a picture", "send a JPEG, PNG or WebP")
    sys.stdout.buffer.write(HEADER.pack(pixels.height, pixels.width) + pixels.tobytes())
    return 0


def _refuse(field: str, found: str, expected: str, fix: str) -> int:
    print(field, found, expected, fix, sep="\t", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
