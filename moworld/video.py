"""Video files: reading and writing frame by frame."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moworld.errors import InputError
from moworld.files import Pathlike, atomic_write

if TYPE_CHECKING:
    import av

Frames = NDArray[np.uint8]
ENCODERS = {  # suffix -> encoder of FFmpeg, and its options
    ".mp4": ("libx264", {"preset": "ultrafast"}),
    ".webm": ("libvpx-vp9", {"b": "0", "deadline": "realtime", "cpu-used": "6"}),
}
SUFFIXES = (*ENCODERS, ".gif")


@dataclass(frozen=True)
class VideoInfo:
    """The properties in a video's header; num_frames is 0 if the container does not state it."""

    num_frames: int
    fps: float
    height: int
    width: int
    codec: str


def video_info(path: Pathlike) -> VideoInfo:
    """Returns size, frame rate and codec of a video without decoding it. Raises InputError if it cannot be opened."""
    with _opened(path) as (_, stream):
        rate = stream.average_rate or stream.base_rate or Fraction(24)
        return VideoInfo(stream.frames, float(rate), stream.height, stream.width, stream.codec_context.name)


def read_frames(path: Pathlike, start: int = 0, stop: int | None = None) -> Frames:
    """Returns frames start to stop (exclusive) of a video: (T, H, W, 3) uint8 RGB.

    Raises InputError for a video that is unreadable, empty, or shorter than `stop`.
    """
    frames = list(iterate_frames(path, start, stop))
    if not frames or (stop is not None and len(frames) < stop - start):
        found = f"{start + len(frames)} frames" if frames else "no frame"
        raise InputError(path, "", found, f"frames {start} to {'the end' if stop is None else stop - 1}", "replace the file")
    return np.stack(frames)


def iterate_frames(path: Pathlike, start: int = 0, stop: int | None = None) -> Iterator[Frames]:
    """Yields frames start to stop (exclusive), (H, W, 3) uint8 RGB. Raises InputError for an unreadable video."""
    import av

    with _opened(path) as (container, stream):
        stream.thread_count = 1
        try:
            for index, frame in enumerate(container.decode(stream)):
                if stop is not None and index >= stop:
                    return
                if index >= start:
                    yield np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
        except av.FFmpegError as error:
            raise InputError(path, "", f"a broken stream ({error})", "a readable video", "replace the file") from None


@contextmanager
def _opened(path: Pathlike) -> "Iterator[tuple[av.container.InputContainer, av.VideoStream]]":
    """Opens a container; gives it and its first video stream."""
    import av

    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise InputError(path, "", f"{type(error).__name__}: {error}", "a readable video", "replace the file") from None
    with container:
        if not container.streams.video:
            raise InputError(path, "", "no video stream", "a readable video", "replace the file")
        yield container, container.streams.video[0]


def video_suffix(path: Pathlike, field: str = "--out") -> str:
    """Returns the suffix of a video to write, one of SUFFIXES. Raises InputError for another one."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(field, path, f"suffix {suffix!r}", f"one of {' '.join(SUFFIXES)}", "name the file so")
    return suffix


def write_video(path: Pathlike, frames: Iterable[Frames], fps: float, crf: int = 18) -> int:
    """Writes (H, W, 3) uint8 RGB frames as the suffix says, atomically; returns their number.

    .mp4 is H.264 and .webm is VP9, both yuv420p, for even sizes; .gif has the palette of each frame and a mean frame rate of `fps`.
    Equal frames give equal bytes: one encoder thread, no timestamps of the clock.
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

    codec, options = ENCODERS[suffix]
    count = 0
    stream: Any = None
    with av.open(file, "w", format=suffix[1:], options={"fflags": "+bitexact"} if suffix == ".webm" else {}) as container:
        for frame in frames:
            if stream is None:
                stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
                stream.width, stream.height, stream.pix_fmt = frame.shape[1], frame.shape[0], "yuv420p"
                stream.codec_context.thread_count = 1
                stream.options = {"crf": str(crf), "threads": "1", **options}
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
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
