"""Video files: reading and writing frame by frame."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moworld.errors import InputError
from moworld.files import Pathlike, atomic_write

if TYPE_CHECKING:
    import av

Frames = NDArray[np.uint8]


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


def write_video(path: Pathlike, frames: Iterable[Frames], fps: float, crf: int = 18) -> int:
    """Writes H.264 (yuv420p) from (H, W, 3) uint8 RGB frames with even sizes, atomically; returns their number.

    Equal frames give equal bytes: one encoder thread, no timestamps of the clock.
    Raises InputError for no frame, frames of different sizes and odd sizes.
    """
    import av

    rate, count, stream = Fraction(fps).limit_denominator(1001), 0, None
    with atomic_write(path) as file, av.open(file, "w", format="mp4") as container:
        for frame in frames:
            if stream is None:
                height, width = frame.shape[:2]
                if height % 2 or width % 2:
                    raise InputError(path, "frame size", f"{width}x{height}", "an even width and height", "resize the frames")
                stream = container.add_stream("libx264", rate=rate)
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                stream.codec_context.thread_count = 1
                stream.options = {"crf": str(crf), "preset": "ultrafast", "threads": "1"}
            if frame.shape != (height, width, 3):
                raise InputError(path, f"frame {count}", f"shape {frame.shape}", f"({height}, {width}, 3)", "pass frames of one size")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            count += 1
        if stream is None:
            raise InputError(path, "", "no frame", "at least one frame", "pass at least one frame")
        container.mux(stream.encode(None))
    return count
