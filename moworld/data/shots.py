"""Splits a video into shots (paper 2): cuts, black frames and frozen stretches end a shot; letterbox bars are cropped."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from moworld.video import Frames

BLACK = 16.0  # brightest cell of a black frame's thumbnail
SPIKE = 3.0  # a cut changes this many times more than the frames before it; a fast turn does not
BINS = 8  # of each colour channel in the histograms that find cuts
STILL = 1.0  # grey levels between thumbnail cells and the first static frame: slow motion adds up, compression does not
BAR = 32  # brightest pixel of a letterbox bar: compression bleeds neighbouring colours into it
MIN_BAR = 0.03  # of a side: thinner bars are dark edges of the scene


@dataclass(frozen=True)
class Look:
    """Features of a frame for cut detection: a colour histogram (512,) and a grey 12x16 thumbnail."""

    histogram: NDArray[np.float64]
    thumbnail: NDArray[np.float64]

    @property
    def is_black(self) -> bool:
        return bool(self.thumbnail.max() < BLACK)


@dataclass(frozen=True)
class Dropped:
    """Frames start to stop (exclusive) that belong to no shot, and the reason: black or frozen."""

    start: int
    stop: int
    rule: str


@dataclass(frozen=True)
class Shot:
    """Consecutive frames of a video, starting at frame number `start`."""

    start: int
    frames: list[Frames]


def look(frame: Frames) -> Look:
    """Returns the cut-detection features of a frame (H, W, 3)."""
    small = frame[::4, ::4].reshape(-1, 3).astype(np.int64) * BINS // 256
    histogram = np.bincount(small @ np.array([BINS * BINS, BINS, 1]), minlength=BINS**3) / len(small)
    return Look(histogram, cv2.resize(frame, (16, 12), interpolation=cv2.INTER_AREA).mean(axis=-1))


def change(before: Look, after: Look) -> float:
    """Returns how much two frames differ, 0 to 1: the larger of the histogram distance and one minus the thumbnails' correlation.

    The correlation finds cuts between dark shots with similar colours. A change to or from black counts as a cut.
    """
    histograms = np.abs(before.histogram - after.histogram).sum() / 2
    if before.is_black or after.is_black:
        return float(before.is_black != after.is_black)
    one, other = (seen.thumbnail - seen.thumbnail.mean() for seen in (before, after))
    scale = np.sqrt((one**2).sum() * (other**2).sum())
    correlation = (one * other).sum() / scale if scale > 0 else 1.0
    return float(max(histograms, min(1.0, 1 - correlation)))


def shots(frames: Iterator[Frames], threshold: float, max_frames: int, still_frames: int) -> Iterator[Shot | Dropped]:
    """Yields shots of at most `max_frames` frames, and the dropped frames between them, in the order of the video.

    A cut changes more than `threshold` and more than `SPIKE` times the usual change of its shot. Black frames, and an image that stays the same
    for more than `still_frames` frames, end a shot and are dropped; of a static image the first frame is kept.
    """
    shot, changes, static = Shot(0, []), list[float](), 0
    black_from, number = -1, -1
    before: Look | None = None
    first: Look | None = None  # of the static frames
    for number, frame in enumerate(frames):
        seen = look(frame)
        if seen.is_black:
            black_from = number if black_from < 0 else black_from
            yield from _ended(shot, static, still_frames)
            shot, changes, static, before, first = Shot(number + 1, []), [], 0, None, None
            continue
        if black_from >= 0:
            yield Dropped(black_from, number, "black")
            shot, black_from = Shot(number, []), -1
        amount = change(before, seen) if before is not None else 0.0
        is_static = first is not None and float(np.abs(seen.thumbnail - first.thumbnail).max()) < STILL
        usual = float(np.mean(changes[-4:])) if changes else 0.0
        is_cut = amount > threshold and amount > SPIKE * usual
        resumes = static > still_frames and not is_static
        if is_cut or resumes or len(shot.frames) == max_frames:
            yield from _ended(shot, static if not is_static else 0, still_frames)
            shot, changes = Shot(number, []), []
        elif not is_static:
            changes.append(amount)
        static, first = (static + 1, first) if is_static else (0, seen)
        shot.frames.append(frame)
        before = seen
    if black_from >= 0:
        yield Dropped(black_from, number + 1, "black")
    else:
        yield from _ended(shot, static, still_frames)


def _ended(shot: Shot, static: int, still_frames: int) -> Iterator[Shot | Dropped]:
    """Yields a shot without the static stretch at its end, then that stretch."""
    if not shot.frames:
        return
    end = shot.start + len(shot.frames)
    static = min(static, len(shot.frames) - 1) if static > still_frames else 0
    yield Shot(shot.start, shot.frames[: len(shot.frames) - static])
    if static:
        yield Dropped(end - static, end, "frozen")


def content_box(frames: list[Frames], samples: int = 16) -> tuple[int, int, int, int]:
    """Returns top, bottom, left, right (exclusive ends) of the image inside black bars, even sizes; the whole frame without bars.

    A bar is dark in every sampled frame. Bars come in pairs, so a dark floor is not a bar.
    """
    chosen = [frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, samples).astype(int))]
    brightest = np.max([frame.max(axis=2) for frame in chosen], axis=0)
    (top, bottom), (left, right) = _inner(np.percentile(brightest, 98, axis=1)), _inner(np.percentile(brightest, 98, axis=0))
    return top, bottom, left, right


def _inner(levels: NDArray[np.floating]) -> tuple[int, int]:
    bright = np.flatnonzero(levels > BAR)
    if not len(bright):
        return 0, len(levels)
    start, stop = int(bright[0]), int(bright[-1]) + 1
    before, after = start, len(levels) - stop
    thin = MIN_BAR * len(levels)
    little = stop - start < len(levels) / 2  # a title on black, not an image between bars
    if little or min(before, after) < thin or abs(before - after) > max(thin, 0.25 * max(before, after)):
        return 0, len(levels)
    start, stop = start + start % 2, stop - stop % 2
    return start, stop
