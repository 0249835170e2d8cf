"""Times of a video's frames: its real rate, missing frames, and the choice of frames that gives a constant rate."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from moworld.errors import InputError
from moworld.files import Pathlike

REGULAR = (0.5, 1.5)  # of the usual interval: outside, frames are missing or doubled
VARIABLE_SHARE = 0.05  # of the time in other intervals: above, the rate is variable
BACKWARD_SHARE = 0.05  # of the frames whose time does not advance: above, the times cannot be used
JITTER_SECONDS = 0.012  # of a single time: a header's rate that differs less over the whole video is right
SAME_RATE = 2e-4  # relative difference below which a header's rate is right whatever the length
ROUNDING = 0.1  # of an interval
LOWER = 0.99  # times a rate: a lower wanted rate is reached by resampling
PAUSE_SECONDS = 1.0  # a longer interval is a break of any rate
MAX_DENOMINATOR = 1001


@dataclass(frozen=True)
class Timeline:
    """Frames of a video at a constant rate.

    fps:        of the chosen frames
    source_fps: mean rate of the source's frames
    times:      (T,) seconds of all source frames
    chosen:     (N,) int indices of source frames, increasing
    breaks:     positions in `chosen` before which time is missing or jumps
    resampled:  whether the rate differs from the source's
    """

    fps: float
    source_fps: float
    times: NDArray[np.float64]
    chosen: NDArray[np.int64]
    breaks: NDArray[np.int64]
    resampled: bool


def timeline(path: Pathlike, times: NDArray[np.float64], nominal: float, wanted: float | None = None) -> Timeline:
    """Returns the frames of a constant rate.

    A regular source keeps all its frames; an interval above 1.5 usual ones is a break, a frame within half of one is left out.
    A variable rate is resampled: the rate that the frames sustain for 95 % of the time, each time its nearest frame.

    times:   (N,) seconds of the frames, NaN where unknown; without any, the nominal rate is believed
    nominal: frames per second of the header
    wanted:  a lower rate to resample to
    Raises InputError if times run backwards or are missing.
    """
    if len(times) < 3 or np.isnan(times).all():
        return _at(np.arange(len(times)) / nominal, nominal, nominal, wanted)
    steps = np.diff(times)
    wrong = int((~(steps > 0)).sum())
    if wrong > max(2, BACKWARD_SHARE * len(steps)):
        raise InputError(path, "timestamps", f"{wrong} of {len(times)} times missing or not after the one before", "increasing times", "replace the file")
    forward = steps[steps > 0]
    usual = float(np.median(forward))
    regular = (forward > REGULAR[0] * usual) & (forward < REGULAR[1] * usual)
    flowing = forward <= max(PAUSE_SECONDS, REGULAR[1] * usual)
    source_fps = flowing.sum() / forward[flowing].sum()
    if forward[flowing & ~regular].sum() <= VARIABLE_SHARE * forward[flowing].sum():
        measured = regular.sum() / forward[regular].sum()
        same = abs(nominal / measured - 1) < max(SAME_RATE, JITTER_SECONDS / forward[regular].sum())
        fps = nominal if same else float(Fraction(measured).limit_denominator(MAX_DENOMINATOR))
        return _at(times, fps, source_fps, wanted)
    sustained = _sustained(forward[flowing])
    return _resampled(times, min(sustained, wanted or sustained), source_fps)


def _at(times: NDArray[np.float64], fps: float, source_fps: float, wanted: float | None) -> Timeline:
    """Returns all frames of a regular source, or those of a lower wanted rate."""
    if wanted is not None and wanted < LOWER * fps:
        return _resampled(times, wanted, source_fps)
    kept, breaks, last = list[int](), list[int](), -np.inf
    for index, time in enumerate(times):
        if kept and 0 <= time - last < REGULAR[0] / fps:
            continue
        if kept and not 0 < time - last < REGULAR[1] / fps:
            breaks.append(len(kept))
        kept.append(index)
        last = time
    return Timeline(fps, float(source_fps), times, np.array(kept, np.int64), np.array(breaks, np.int64), False)


def _sustained(steps: NDArray[np.float64]) -> float:
    """Returns the rate whose interval is not exceeded for 95 % of the time."""
    order = np.sort(steps)
    share = np.cumsum(order) / order.sum()
    interval = order[min(int(np.searchsorted(share, 1 - VARIABLE_SHARE)), len(order) - 1)]
    return float(Fraction(1 / interval).limit_denominator(MAX_DENOMINATOR)) if interval < 1 else 1 / float(interval)


def _resampled(times: NDArray[np.float64], fps: float, source_fps: float) -> Timeline:
    """Returns the frames nearest to a grid of 1 / fps within each stretch without a break."""
    kept, breaks = [np.zeros(0, np.int64)], list[int]()
    steps = np.diff(times)
    ends = np.flatnonzero(~((steps > 0) & (steps <= REGULAR[1] / fps))) + 1
    for start, stop in zip([0, *ends], [*ends, len(times)], strict=True):
        own = times[start:stop]
        grid = own[0] + np.arange(int((own[-1] - own[0]) * fps + ROUNDING) + 1) / fps
        right = np.clip(np.searchsorted(own, grid), 1, max(len(own) - 1, 1)) if len(own) > 1 else np.zeros(len(grid), int)
        nearest = right - (grid - own[right - 1] <= own[right] - grid) if len(own) > 1 else right
        breaks.append(sum(map(len, kept)))
        kept.append(start + np.unique(nearest))
    chosen = np.concatenate(kept)
    return Timeline(float(fps), float(source_fps), times, chosen.astype(np.int64), np.array(breaks[1:], np.int64), True)
