"""Writes videos: H.264 or VP9 with BT.709 colours, or GIF; the same bytes for the same frames."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np

from moworld.errors import InputError
from moworld.files import VIDEO_SUFFIXES, Pathlike, atomic_write
from moworld.video.container import Frames

BT709 = 1  # of ITU-T H.273: matrix, primaries and transfer function
LIMITED = 1  # luma 16 to 235
ENCODERS = {  # suffix -> encoder of FFmpeg, and its options
    ".mp4": ("libx264", {"preset": "ultrafast"}),
    ".webm": ("libvpx-vp9", {"b": "0", "deadline": "realtime", "cpu-used": "6"}),
}
SUFFIXES = VIDEO_SUFFIXES


def video_suffix(path: Pathlike, field: str = "--out") -> str:
    """Returns the suffix of a video to write, one of SUFFIXES. Raises InputError for another one."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(field, path, f"suffix {suffix!r}", f"one of {' '.join(SUFFIXES)}", "name the file so")
    return suffix


def write_video(path: Pathlike, frames: Iterable[Frames], fps: float, crf: int = 18) -> int:
    """Writes (H, W, 3) uint8 RGB frames as the suffix says, atomically; returns their number.

    .mp4 is H.264 and .webm is VP9, both yuv420p, BT.709, limited range, tagged as such, for even sizes; .gif has the palette of each frame
    and a mean frame rate of `fps`. Equal frames give equal bytes: one encoder thread, no timestamps of the clock.
    Raises InputError for another suffix, no frame, frames of different sizes, and odd sizes where they are not possible.
    """
    suffix = video_suffix(path, str(path))
    checked = _same_size(path, frames, even=suffix != ".gif")
    with atomic_write(path) as file:
        count = _write_gif(file, checked, fps) if suffix == ".gif" else _encode(file, checked, fps, suffix, crf)
        if not count:
            raise InputError(path, "", "no frame", "at least one frame", "pass at least one frame")
    return count


def _same_size(path: Pathlike, frames: Iterable[Frames], even: bool) -> Iterator[Frames]:
    shape = None
    for number, frame in enumerate(frames):
        if shape is None:
            shape = frame.shape
            if even and (shape[0] % 2 or shape[1] % 2):
                raise InputError(path, "frame size", f"{shape[1]}x{shape[0]}", "an even width and height", "resize the frames")
        if frame.shape != (*shape[:2], 3):
            raise InputError(path, f"frame {number}", f"shape {frame.shape}", f"({shape[0]}, {shape[1]}, 3)", "pass frames of one size")
        yield np.ascontiguousarray(frame)


def _encode(file: IO[bytes], frames: Iterable[Frames], fps: float, suffix: str, crf: int) -> int:
    import av
    from av.video.reformatter import Colorspace, VideoReformatter

    codec, options = ENCODERS[suffix]
    count, reformatter = 0, VideoReformatter()
    stream: Any = None
    with av.open(file, "w", format=suffix[1:], options={"fflags": "+bitexact"} if suffix == ".webm" else {}) as container:
        for frame in frames:
            if stream is None:
                stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
                stream.width, stream.height, stream.pix_fmt = frame.shape[1], frame.shape[0], "yuv420p"
                stream.codec_context.thread_count = 1
                stream.codec_context.colorspace = stream.codec_context.color_primaries = stream.codec_context.color_trc = BT709
                stream.codec_context.color_range = LIMITED
                stream.options = {"crf": str(crf), "threads": "1", **options}
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(reformatter.reformat(picture, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=LIMITED)))
            count += 1
        if stream is not None:
            container.mux(stream.encode(None))
    return count


def _write_gif(file: IO[bytes], frames: Iterable[Frames], fps: float) -> int:
    """Writes a GIF whose frames last 10 ms or a multiple, alternating so that the mean is right."""
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    if images:
        ends = [10 * round(100 * (number + 1) / fps) for number in range(len(images))]
        durations = [max(10, end - start) for start, end in pairwise([0, *ends])]
        images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    return len(images)
