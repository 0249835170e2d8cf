"""Decides whether known cameras belong to a clip's pictures, which mistake explains the contrary, and what cannot be decided.

The given cameras are compared with the pictures in every window of the trajectory, and with other readings of the same file
(`readings`) and other focal lengths. Pictures that several readings explain equally leave the question open, which is reported.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moworld.camera.cameras import Cameras
from moworld.camera.se3 import rotation_angle_degrees
from moworld.data.clips import Clip
from moworld.data.readings import Reading, other_readings, with_lens
from moworld.data.windows import Window, window_error, windows
from moworld.video import iterate_frames

Array = NDArray[np.float64]
LARGEST_ERROR = 1.5  # pixels: a window with a larger error contradicts the cameras; the contract's maximum
CLEARLY_BETTER, NOISE = 2.0, 0.15  # another reading is right if the error is more than 2 times its own plus 0.15 pixels
AS_GOOD, CLOSE = 1.15, 0.05  # a reading is as good with at most 1.15 times the error plus 0.05 pixels
LENSES = np.geomspace(0.5, 2.0, 25)  # factors of the focal length that are tried
LENS_TOLERANCE = 0.07  # of the focal length: smaller deviations are left to the pixel error
LENS_UNDECIDED = 1.3  # ratio of the longest to the shortest lens that fits as well: above it the pictures do not determine the lens
SAME_DEGREES, SAME_DIRECTION, SAME_LENGTH = 0.05, 0.02, 0.05  # within which relative motions of two readings are equal
SCREENED, LENS_WINDOWS = 6, 12  # windows in which every reading, and every lens, is tried
NOTHING = 5  # other readings that fit as well: the pictures hardly move
SHOWN = 3  # readings that a finding names
STANDING = 0.01  # of the median step: cameras with smaller steps stand still
TURNING = 0.02  # degrees per frame: cameras with smaller turns do not turn
STILL = 2  # consecutive steps without camera motion that are examined
SLOWEST = 0.25  # pixels per frame: slower pictures may stand still
MOVING_SHARE = 0.3  # of the clip's median displacement: pictures that move more do move


@dataclass(frozen=True)
class Verdict:
    """The result for one clip.

    error_px: largest error of a window, pixels; None without a window
    tested:   share of the clip's steps that are in a window
    lens:     focal length that fits best, as a multiple of the given; None if the pictures do not determine it
    mistake:  what is wrong and the reading that fits, or None
    undecided: what the pictures leave open, or None
    """

    error_px: float | None
    tested: float
    lens: float | None
    mistake: str | None
    undecided: str | None


def judge_cameras(clip: Clip, root: Path, cameras: Cameras) -> Verdict:
    """Returns the verdict on a clip's cameras, one per frame."""
    found = list(windows(iterate_frames(root / clip.video)))
    return judge_windows(found, cameras, (clip.height, clip.width))


def judge_windows(found: list[Window], cameras: Cameras, size_hw: tuple[int, int]) -> Verdict:
    """Returns the verdict on cameras by the windows of their pictures (height, width)."""
    if not found:
        return Verdict(None, 0.0, None, None, "everything: no window has enough corners that can be followed")
    trial = _Trial(found, cameras, size_hw)
    shortest, best, longest = trial.lens_range()
    readings, without_effect = list[Reading](), list[str]()
    for reading in other_readings(cameras):
        if not trial.same(reading):
            readings += [reading] if trial.possible(reading) else []
        elif "frame" not in reading.name:
            without_effect.append(reading.name)
    mistake = trial.contradicted(readings) or trial.beaten(readings) or trial.standing() or _lens_mistake(trial, shortest, best, longest)
    questions = trial.undecided(readings, shortest, longest)
    if without_effect:
        questions.append(f"the same motion: {', '.join(without_effect)}")
    undecided = None if mistake else "; ".join(questions) or None
    tested = sum(window.frames[-1] - window.frames[0] for window in found) / max(1, len(cameras) - 1)
    decided = longest / shortest <= LENS_UNDECIDED
    return Verdict(
        round(float(trial.given.max()), 4), round(min(1.0, tested), 4), round(best, 3) if decided else None, mistake, undecided
    )


class _Trial:
    """The windows of a clip, and the errors of its cameras in them."""

    def __init__(self, found: list[Window], cameras: Cameras, size_hw: tuple[int, int]) -> None:
        self.windows, self.cameras, self.size_hw = found, cameras, size_hw
        self.given = self._errors(cameras)
        self._known: dict[str, tuple[NDArray[np.int64], Array]] = {}
        self.bad = np.flatnonzero(self.given > LARGEST_ERROR)

    def _errors(self, cameras: Cameras, chosen: NDArray[np.int64] | None = None) -> Array:
        indices = range(len(self.windows)) if chosen is None else chosen.tolist()
        return np.array([window_error(self.windows[index], cameras, self.size_hw) for index in indices])

    def possible(self, reading: Reading) -> bool:
        """Returns whether a reading fits some windows well: bad ones if there are any, otherwise ones spread over the clip."""
        candidates = self.bad if len(self.bad) else np.arange(len(self.windows))
        inside = [i for i in _spread(candidates, SCREENED).tolist() if self._has(reading, self.windows[i])]
        return all(window_error(self.windows[index], reading.cameras, self.size_hw) <= LARGEST_ERROR for index in inside)

    @staticmethod
    def _has(reading: Reading, window: Window) -> bool:
        return window.frames[0] >= reading.first and window.frames[-1] <= reading.last

    def of(self, reading: Reading) -> tuple[NDArray[np.int64], Array]:
        """Returns the windows in which a reading has cameras, and its errors there."""
        if reading.name not in self._known:
            inside = np.array([i for i, window in enumerate(self.windows) if self._has(reading, window)], int)
            self._known[reading.name] = inside, self._errors(reading.cameras, inside)
        return self._known[reading.name]

    def same(self, reading: Reading) -> bool:
        """Returns whether a reading has the given cameras' motion in every window of its own, up to one scale."""
        ratios = []
        for window in (window for window in self.windows if self._has(reading, window)):
            one, other = (c.w2c[list(window.frames[1:])] @ c.c2w[window.frames[0]] for c in (self.cameras, reading.cameras))
            if rotation_angle_degrees(np.swapaxes(one[:, :3, :3], 1, 2) @ other[:, :3, :3]).max() > SAME_DEGREES:
                return False
            lengths = [float(np.linalg.norm(poses[:, :3, 3], axis=1).max()) for poses in (one, other)]
            apart = one[:, :3, 3] - other[:, :3, 3] * (lengths[0] / max(lengths[1], 1e-12))
            if np.linalg.norm(apart, axis=1).max() > SAME_DIRECTION * max(lengths[0], 1e-12):
                return False
            ratios.append(lengths[1] / max(lengths[0], 1e-12))
        return not ratios or max(ratios) <= (1 + SAME_LENGTH) * min(ratios)

    def contradicted(self, readings: list[Reading]) -> str | None:
        """Returns where the pictures contradict the cameras, and the reading that explains those windows; None if they do nowhere."""
        bad = self.bad
        if not len(bad):
            return None
        explaining = []
        for reading in readings:
            inside, errors = self.of(reading)
            where = np.isin(inside, bad)
            enough = where.sum() >= 0.8 * len(bad) and errors.max(initial=0) <= LARGEST_ERROR
            if enough and np.mean(errors[where]) * CLEARLY_BETTER <= self.given[inside[where]].mean():
                explaining.append((float(np.mean(errors)), reading))
        spans = _spans([(self.windows[i].frames[0], self.windows[i].frames[-1]) for i in bad])
        what = f"frames {spans}: the pictures contradict the cameras by {self.given[bad].max():.2f} pixels in {len(bad)} of {len(self.given)} windows"
        return f"{what}; {self._cause(explaining)}"

    def _cause(self, explaining: list[tuple[float, Reading]]) -> str:
        """Returns the mistake whose correction has the smallest error: a reading, or another lens in all windows."""
        _, best, _ = self.lens_range()
        error = self.lens_error(best)
        if error <= min(LARGEST_ERROR, self.lens_error(1.0) / CLEARLY_BETTER, *(AS_GOOD * other for other, _ in explaining)):
            return _wrong_lens(best)
        if explaining:
            return _look_like(explaining)
        centres = self.cameras.c2w[:, :3, 3]
        if not np.ptp(centres, axis=0).any():
            return "all camera centres are equal, but the pictures show parallax"
        return "no other reading of the file fits"

    def beaten(self, readings: list[Reading]) -> str | None:
        """Returns the readings that are clearly better than the given cameras; None if there is none."""
        better = []
        for reading in readings:
            inside, errors = self.of(reading)
            if not len(inside) or errors.max() > LARGEST_ERROR or "1 frame too" in reading.name:
                continue
            given = self.given[inside]
            if given.mean() > CLEARLY_BETTER * errors.mean() + NOISE or (given > CLEARLY_BETTER * errors + NOISE).mean() > 0.5:
                better.append((float(errors.mean()), reading))
        return f"another reading fits the pictures better: {_look_like(better)}" if better else None

    def standing(self) -> str | None:
        """Returns the frames in which the cameras stand still while the pictures move; None if there are none."""
        steps = np.linalg.norm(np.diff(self.cameras.c2w[:, :3, 3], axis=0), axis=1)
        turns = rotation_angle_degrees(np.swapaxes(self.cameras.w2c[:-1, :3, :3], 1, 2) @ self.cameras.w2c[1:, :3, :3])
        moving = steps[steps > STANDING * max(float(steps.max(initial=0)), 1e-12)]
        still = (steps <= STANDING * (float(np.median(moving)) if len(moving) else 0.0)) & (turns < TURNING)
        speeds = np.full(len(steps), np.nan)
        for window in self.windows:
            speeds[window.frames[0] : window.frames[-1]] = window.speeds
        least = max(SLOWEST, MOVING_SHARE * float(np.nanmedian(speeds)))
        for start, stop in [] if still.all() else _runs(still & ~np.isnan(speeds)):
            moved = float(speeds[start:stop].mean())
            if stop - start >= STILL and moved > least:
                return f"frames {start} to {stop}: the cameras stand still while the pictures move by {moved:.2f} pixels per frame"
        return None

    @cached_property
    def _lens_errors(self) -> Array:
        return np.array([self.lens_error(factor) for factor in LENSES])

    def lens_range(self) -> tuple[float, float, float]:
        """Returns factors of the focal length: the shortest lens that fits as well as the best one, the best, and the longest."""
        errors = self._lens_errors
        best = int(errors.argmin())
        good = np.flatnonzero(errors <= AS_GOOD * errors[best] + CLOSE)
        return float(LENSES[good[0]]), _vertex(errors, best), float(LENSES[good[-1]])

    def lens_error(self, factor: float) -> float:
        """Returns the mean error of the cameras with another focal length, in windows spread over the clip; each counts at most 10 pixels."""
        chosen = _spread(np.arange(len(self.windows)), LENS_WINDOWS)
        return float(np.minimum(self._errors(with_lens(self.cameras, factor), chosen), 10).mean())

    def undecided(self, readings: list[Reading], shortest: float, longest: float) -> list[str]:
        """Returns what the pictures leave open: readings with other motions that fit as well, and the lens."""
        equal = []
        for reading in readings:
            inside, errors = self.of(reading)
            if "frame" in reading.name and reading.name not in SHIFTS_SHOWN:
                continue
            if len(inside) and errors.max() <= LARGEST_ERROR and errors.mean() <= AS_GOOD * self.given[inside].mean() + CLOSE:
                equal.append(reading.name)
        open_questions = [f"fits as well: {name}" for name in equal]
        if len(equal) >= NOTHING:
            open_questions = [f"order and direction of motion: {len(equal)} other readings of the cameras fit as well"]
        if longest / shortest > LENS_UNDECIDED:
            open_questions.append(f"lens: {shortest:.2f} to {longest:.2f} times the focal length fit as well")
        return open_questions


SHIFTS_SHOWN = tuple(f"cameras 3 frames too {when}" for when in ("late", "early"))


def _lens_mistake(trial: _Trial, shortest: float, best: float, longest: float) -> str | None:
    if shortest <= 1 <= longest or abs(np.log(best)) < LENS_TOLERANCE:
        return None
    given, fitted = trial.lens_error(1.0), trial.lens_error(best)
    if given <= CLEARLY_BETTER * fitted + NOISE:
        return None
    return f"another lens fits the pictures better ({fitted:.2f} instead of {given:.2f} pixels): {_wrong_lens(best)}"


def _wrong_lens(factor: float) -> str:
    return f"the lens looks {1 / factor:.2f} times too long" if factor < 1 else f"the lens looks {factor:.2f} times too short"


def _vertex(errors: Array, best: int) -> float:
    """Returns the factor at the vertex of the parabola through the smallest error and its neighbours."""
    if best in (0, len(errors) - 1):
        return float(LENSES[best])
    left, middle, right = errors[best - 1 : best + 2]
    offset = 0.5 * (left - right) / max(left - 2 * middle + right, 1e-12)
    return float(LENSES[best] * (LENSES[1] / LENSES[0]) ** np.clip(offset, -1, 1))


def _spread(indices: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Returns at most `count` of some indices, evenly spread."""
    return indices[np.unique(np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int))]


def _look_like(explaining: list[tuple[float, Reading]]) -> str:
    """Returns the readings with the smallest errors, simplest first: those within a little of the best."""
    if not explaining:
        return ""
    limit = AS_GOOD * min(error for error, _ in explaining) + CLOSE
    names = [reading.name for error, reading in explaining if error <= limit]
    shifts = [name for name in names if "frame" in name]
    names = [name for name in names if name not in shifts][:SHOWN] or shifts[:1]
    return "these look like " + ", or ".join(names)


def _spans(spans: list[tuple[int, int]]) -> str:
    """Returns frame spans with touching ones joined: "0 to 24, 48 to 60"."""
    joined: list[tuple[int, int]] = []
    for first, last in spans:
        if joined and first <= joined[-1][1]:
            joined[-1] = joined[-1][0], last
        else:
            joined.append((first, last))
    return ", ".join(f"{first} to {last}" for first, last in joined)


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Returns runs [start, stop) of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
