"""Decodes a video: pictures with their times, and which of them a damaged stream spoils."""

import math
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moworld.errors import InputError
from moworld.files import Pathlike
from moworld.video.container import Frames, Opened, header_rate, opened, promised_frames, promised_seconds
from moworld.video.normalise import Form, Normaliser, form_of, turn_of

if TYPE_CHECKING:
    import av

HARMLESS = re.compile(r"mmco: unref short failure|deprecated|repeated \d+ more times|number of reference frames .* exceeds max")
DAMAGE = re.compile(r"corrupt|undecodable|conceal|damage|truncated|lost|missing", re.IGNORECASE)  # in a warning


@dataclass(frozen=True)
class Picture:
    """A picture as a player shows it.

    image:  (H, W, 3) uint8 RGB, BT.709
    time:   seconds since the container's zero; NaN if the container states no time
    damage: why the picture is spoilt, or ""
    form:   how the frame was stored
    combs:  idet's verdict on it: tff, bff, progressive, undetermined; "" if it was not requested
    """

    image: Frames
    time: float
    damage: str
    form: Form
    combs: str = ""


class Decoder:
    """Iterates over the pictures of a video.

    After the last picture, `missing` says in words what the container promised and did not hold, or "". `omitted` names other streams.
    Errors of the decoder spoil the pictures until the next key frame; what the decoder conceals is never taken for a picture.
    Raises InputError for files that cannot be opened and for forms that are not supported.
    """

    def __init__(self, path: Pathlike, limit: float | None = None, field_order: str = "", detect_combs: bool = False) -> None:
        """limit: largest height of the pictures; field_order: tff or bff for interlaced frames that do not say so; detect_combs: see Picture."""
        self.path, self._limit, self._field_order, self._detect_combs = path, limit, field_order, detect_combs
        self.missing, self.rate = "", 0.0
        self.omitted: tuple[str, ...] = ()
        self._damage, self._since = "", -math.inf  # reason, and the time of the packet that showed it
        self._normaliser: Normaliser | None = None
        self._waiting: deque[tuple[float, str]] = deque()  # time and damage of the frames inside the filters
        self._rotation, self._turn = 0, (False, False, False)
        self._packets = 0

    def __iter__(self) -> Iterator[Picture]:
        with opened(self.path) as source:
            stream = source.stream
            stream.thread_count = 1
            self.omitted, self.rate = source.omitted, float(header_rate(stream))
            last = -math.inf
            for frame in self._frames(source):
                for picture in self._pictures(frame, stream):
                    last = max(last, picture.time) if not math.isnan(picture.time) else last
                    yield picture
            if self._normaliser is not None:
                yield from self._ready(self._normaliser.flush())
            self._compare(source, last)

    def _pictures(self, frame: "av.VideoFrame", stream: "av.VideoStream") -> Iterator[Picture]:
        """Yields the pictures that are ready once this frame is in the filters."""
        interlaced = self._field_order or ("auto" if frame.interlaced_frame else "")
        if not interlaced and self._normaliser is not None:
            interlaced = self._normaliser.form.field_order  # bwdif leaves progressive frames as they are
        if self._normaliser is None or frame.rotation != self._rotation:
            self._rotation, self._turn = frame.rotation, turn_of(self.path, frame)
        form = form_of(frame, stream.sample_aspect_ratio, interlaced, self._turn, self.path)
        if self._normaliser is None or self._normaliser.form != form:
            if self._normaliser is not None:
                yield from self._ready(self._normaliser.flush())
            self._normaliser = Normaliser(form, self._limit, self._detect_combs and not interlaced)
        time = float(frame.time) if frame.time is not None else math.nan
        self._waiting.append((time, self._damage_of(frame, time)))
        yield from self._ready(self._normaliser.push(frame))

    def _ready(self, images: list[tuple[Frames, str]]) -> Iterator[Picture]:
        form = self._normaliser.form  # type: ignore[union-attr]
        for image, combs in images:
            time, damage = self._waiting.popleft()
            yield Picture(image, time, damage, form, combs)

    def _damage_of(self, frame: "av.VideoFrame", time: float) -> str:
        if self._damage and frame.key_frame and not frame.is_corrupt and (time > self._since or math.isnan(time)):
            self._damage = ""
        if frame.is_corrupt and not self._damage:
            self._damage, self._since = "the decoder marks the frame as corrupt", time
        return self._damage

    def _frames(self, source: Opened) -> "Iterator[av.VideoFrame]":
        """Yields decoded frames, and notes damage. A container that breaks off ends the iteration."""
        import av

        packets = source.container.demux(source.stream)
        while True:
            try:
                packet, reason = _watched(lambda: next(packets, None))
                frames: list[Any] = []
                if packet is not None:
                    self._packets += packet.size > 0
                    frames, wrong = _watched(packet.decode, [])
                    reason = reason or wrong or ("a packet is marked as corrupt" if packet.is_corrupt else "")
            except av.FFmpegError as error:
                raise InputError(self.path, "", f"a broken stream ({error})", "a readable video", "replace the file") from None
            if reason:
                stamp = packet.pts if packet is not None else None
                self._damage, self._since = reason, float(stamp * packet.time_base) if stamp is not None else -math.inf
            if packet is None:
                self.missing = reason
                return
            yield from frames

    def _compare(self, source: Opened, last: float) -> None:
        """Compares what came with what the container promises."""
        promised, seconds = promised_frames(source.stream), promised_seconds(source)
        if self.missing:
            self.missing = f"the container breaks off: {self.missing}"
        elif promised > self._packets:
            self.missing = f"the index promises {promised} frames, the file holds {self._packets}"
        elif seconds and last > -math.inf and last + max(0.5, 3 / self.rate) < seconds:
            self.missing = f"the header promises {seconds:.2f} s, the last picture is at {last:.2f} s"


def _watched(work: Any, failed: Any = None) -> tuple[Any, str]:
    """Returns the value of `work()`, or `failed` if FFmpeg refuses its input; and FFmpeg's complaint about damage, or ""."""
    import av
    import av.logging

    level = av.logging.get_level()
    av.logging.set_level(av.logging.WARNING)
    value, error = failed, ""
    try:
        with av.logging.Capture() as messages:
            try:
                value = work()
            except av.FFmpegError as refused:
                error = refused.strerror or type(refused).__name__
    finally:
        av.logging.set_level(level)
    for grade, _, text in messages:
        if not HARMLESS.search(text) and (grade <= av.logging.ERROR or DAMAGE.search(text)):
            error = error or text.strip()
    return value, error


def iterate_frames(path: Pathlike, start: int = 0, stop: int | None = None) -> Iterator[Frames]:
    """Yields frames start to stop (exclusive) as a player shows them, (H, W, 3) uint8 RGB.

    Raises InputError for a video that cannot be read or is damaged before `stop`.
    """
    decoder = Decoder(path)
    for index, picture in enumerate(decoder):
        if stop is not None and index >= stop:
            return
        if picture.damage:
            raise InputError(path, f"frame {index}", f"a broken stream ({picture.damage})", "a readable video", "replace the file")
        if index >= start:
            yield picture.image
    if decoder.missing:
        raise InputError(path, "", f"a broken stream ({decoder.missing})", "a readable video", "replace the file")


def read_frames(path: Pathlike, start: int = 0, stop: int | None = None) -> Frames:
    """Returns frames start to stop (exclusive) of a video: (T, H, W, 3) uint8 RGB.

    Raises InputError for a video that is unreadable, empty, or shorter than `stop`.
    """
    frames = list(iterate_frames(path, start, stop))
    if not frames or (stop is not None and len(frames) < stop - start):
        found = f"{start + len(frames)} frames" if frames else "no frame"
        raise InputError(path, "", found, f"frames {start} to {'the end' if stop is None else stop - 1}", "replace the file")
    return np.stack(frames)
