"""Video containers: opens files, chooses the video stream, reads the header."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moworld.errors import InputError
from moworld.files import Pathlike

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

Frames = NDArray[np.uint8]
PLAYLISTS = {"concat", "dash", "hls", "imf", "rtsp", "sdp"}  # formats that name other files or hosts
PREVIEW_AREA = 1 / 4  # of the largest stream's pixels: a smaller stream is a preview
PREVIEW_FPS = 5.0  # a slower stream beside one of at least twice this rate is a preview


@dataclass(frozen=True)
class VideoInfo:
    """The properties in a video's header; num_frames is 0 if the container does not state it. Size: of the coded frames."""

    num_frames: int
    fps: float
    height: int
    width: int
    codec: str
    seconds: float = 0.0  # 0 if the container does not state it


@dataclass(frozen=True)
class Opened:
    """An open container, its chosen video stream, and the streams that are not decoded, in words."""

    container: "InputContainer"
    stream: "VideoStream"
    omitted: tuple[str, ...]


def video_info(path: Pathlike) -> VideoInfo:
    """Returns size, frame rate and codec of a video without decoding it. Raises InputError if it cannot be opened."""
    with opened(path) as source:
        stream = source.stream
        seconds = _seconds(source) or 0.0
        return VideoInfo(stream.frames, float(header_rate(stream)), stream.height, stream.width, stream.codec_context.name, seconds)


def header_rate(stream: "VideoStream") -> Fraction:
    """Returns FFmpeg's guess of the frame rate; a WebM of a browser states its clock, 1000 Hz, as average and base rate."""
    return stream.guessed_rate or stream.average_rate or stream.base_rate or Fraction(24)


@contextmanager
def opened(path: Pathlike) -> "Iterator[Opened]":
    """Opens a container and chooses its video stream. Raises InputError for unreadable files, playlists and files without video."""
    import av

    try:
        container = av.open(f"file:{Path(path)}", container_options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError, ValueError) as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {getattr(error, 'strerror', error)}"
        raise InputError(path, "", found, "a readable video", "replace the file") from None
    with container:
        if PLAYLISTS & set(container.format.name.split(",")):
            raise InputError(path, "", f"a playlist ({container.format.name})", "a video file", "use the files that it names")
        yield _chosen(path, container)


def _chosen(path: Pathlike, container: "InputContainer") -> Opened:
    """Chooses the film: no cover, thumbnail or preview; of the rest the default stream, the largest, the first.

    A preview has less than a quarter of the largest stream's pixels, or less than 5 pictures per second beside a stream of at least 10.
    """
    import av

    still = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails | av.stream.Disposition.still_image
    known = [stream for stream in container.streams.video if stream.codec_context is not None and stream.height and stream.width]
    moving = [stream for stream in known if not stream.disposition & still]
    if len(moving) > 1:
        moving = [stream for stream in moving if stream.frames != 1] or moving
    if not moving:
        found = "only a cover picture" if known else "no video stream" if not container.streams.video else "no video stream of a known codec"
        raise InputError(path, "", found, "a readable video", "replace the file")
    area = max(stream.height * stream.width for stream in moving)
    fastest = max(header_rate(stream) for stream in moving)
    films = [
        stream
        for stream in moving
        if stream.height * stream.width >= PREVIEW_AREA * area and (header_rate(stream) >= PREVIEW_FPS or fastest < 2 * PREVIEW_FPS)
    ]
    order = [(not s.disposition & av.stream.Disposition.default, -s.height * s.width, s.index) for s in films or moving]
    stream = container.streams[min(order)[2]]
    others = len(container.streams.video) - 1
    audio = len(container.streams.audio)
    omitted = [f"{others} other video {'stream' if others == 1 else 'streams'}"] * bool(others) + ["audio"] * bool(audio)
    return Opened(container, stream, tuple(omitted))  # type: ignore[arg-type]


def promised_frames(stream: "VideoStream") -> int:
    """Returns the number of frames in the index of MP4, MOV and AVI, after edit lists; 0 for containers without an index of all frames."""
    return len(stream.index_entries) if stream.frames else 0


def promised_seconds(source: Opened) -> float | None:
    """Returns the duration that the header states for the video stream alone; None if it does not."""
    alone = not source.container.streams.audio and len(source.container.streams.video) == 1
    stated = source.container.format.name.startswith("matroska")
    return _seconds(source, alone) if stated else None


def _seconds(source: Opened, alone: bool = True) -> float | None:
    """Returns the stream's duration; that of the file if `alone`; None if unknown."""
    import av

    stream = source.stream
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return source.container.duration / av.time_base if alone and source.container.duration else None
