"""Video files: one reader and one writer, frame by frame."""

from collections.abc import Iterable, Iterator
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
    """What a video's header says: num_frames is 0 where the container does not say."""

    num_frames: int
    fps: float
    height: int
    width: int
    codec: str


def video_info(path: Pathlike) -> VideoInfo:
    """Size, rate and codec of a video without decoding it. Raises InputError when it cannot be opened."""
    with _opened(path) as (_, stream):
        rate = stream.average_rate or stream.base_rate or Fraction(24)
        return VideoInfo(stream.frames, float(rate), stream.height, stream.width, stream.codec_context.name)


def read_frames(path: Pathlike, start: int = 0, stop: int | None = None) -> Frames:
    """Frames start to stop (exclusive) of a video: (T, H, W, 3) uint8 RGB.

    Raises InputError for an unreadable video, an empty one, and one that ends before `stop`.
    """
    frames = list(iterate_frames(path, start, stop))
    if not frames or (stop is not None and len(frames) < stop - start):
        found = f"{start + len(frames)} frames" if frames else "no frame"
        raise InputError(path, "", found, f"frames {start} to {'the end' if stop is None else stop - 1}", "replace the file")
    return np.stack(frames)


def iterate_frames(path: Pathlike, start: int = 0, stop: int | None = None) -> Iterator[Frames]:
    """The same frames one after another, (H, W, 3) uint8 RGB, for videos that should not lie in memory whole."""
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


class _opened:
    """A container and its first video stream, closed at the end."""

    def __init__(self, path: Pathlike) -> None:
        self.path = path

    def __enter__(self) -> "tuple[av.container.InputContainer, av.VideoStream]":
        import av

        try:
            self.container = av.open(str(self.path))
        except (av.FFmpegError, OSError) as error:
            raise InputError(self.path, "", f"{type(error).__name__}: {error}", "a readable video", "replace the file") from None
        if not self.container.streams.video:
            self.container.close()
            raise InputError(self.path, "", "no video stream", "a readable video", "replace the file")
        return self.container, self.container.streams.video[0]

    def __exit__(self, *_: object) -> None:
        self.container.close()


def write_video(path: Pathlike, frames: Iterable[Frames], fps: float, crf: int = 18) -> int:
    """Write H.264 (yuv420p) from (H, W, 3) uint8 RGB frames with even sizes; returns their number.

    One encoder thread and no clock: equal frames give equal bytes. The file takes its name when it is complete.
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
                raise InputError(path, f"frame {count}", f"shape {frame.shape}", f"({height}, {width}, 3)", "give frames of one size")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            count += 1
        if stream is None:
            raise InputError(path, "", "no frame", "at least one frame", "give frames to write")
        container.mux(stream.encode(None))
    return count
