"""Splits a video into shots (paper 2), from a small thumbnail of each frame and its change since the frame before.

Cuts, jump cuts, dissolves, fades, black, white and frozen stretches end a shot. Flashes, whip pans, pictures in the picture and
repeated frames do not. Letterbox bars are found for cropping.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from moworld.video import Frames

HEIGHT, WIDTH, BLOCK = 24, 32, (6, 8)  # of a thumbnail and its blocks
BLUR, REACH = 0.8, 2  # cells: of thumbnails before they are compared, and how far a block may move
FLOOR = 1.5  # grey levels added to a frame's contrast: in the dark, noise is not a change
QUIET_SHARE = 40  # percentile of the blocks' changes: a picture in the picture covers fewer blocks
REPEATED = 0.004  # change of a repeated frame
NEAR = 4  # frames on each side with which a change is compared
SPIKE = 2.2  # a cut changes this many times more than the frames around it; a fast turn does not
JUMP, JUMP_SPIKE = 0.12, 5.0  # a jump cut changes little, but far more than the frames around it
FLASH = 6  # longest flash, in frames
RETURNED = 0.5  # of a change: a smaller one to an image before it means that the image is back
LENGTHS = (6, 8, 12, 16, 20, 24, 32, 40, 48)  # of dissolves, in frames
UNLIKE = 0.45  # change between the two ends of a dissolve
MIXED = 0.55  # share of a frame's variance that the ends of a dissolve explain
FADED = 0.88  # contrast in the middle of a dissolve, relative to its ends
FLAT = 4.0  # grey levels between the 5th and the 95th percentile of a uniform frame
DARK, BRIGHT = 20.0, 235.0  # mean of a black and of a white frame
FADE_FRAMES, FADE_STEP = 48, 1.02  # longest fade, and its smallest growth of contrast per frame
STILL = 1.0  # grey levels between neighbourhoods of thumbnails and the first static frame: slow motion adds up, compression does not
BAR = 32  # brightest pixel of a letterbox bar: compression bleeds neighbouring colours into it
MIN_BAR = 0.03  # of a side: thinner bars are dark edges of the scene

Thumbnails = NDArray[np.uint8]


@dataclass(frozen=True)
class Dropped:
    """Frames start to stop (exclusive) that belong to no shot, and the reason: black, white, fade, dissolve, frozen or damaged."""

    start: int
    stop: int
    rule: str


@dataclass(frozen=True)
class Shot:
    """Consecutive frames start to stop (exclusive) of a video."""

    start: int
    stop: int


class Looks:
    """Collects the thumbnails (N, 24, 32) and changes (N,) of frames; the first change is 0."""

    def __init__(self) -> None:
        self._thumbnails: list[Thumbnails] = []
        self._changes: list[float] = []
        self._before: NDArray[np.float32] | None = None

    def add(self, frame: Frames) -> None:
        """Adds a frame (H, W, 3)."""
        colours = cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float32)
        self._changes.append(compensated_change(self._before, colours) if self._before is not None else 0.0)
        self._thumbnails.append(np.rint(colours.mean(axis=-1)).astype(np.uint8))
        self._before = colours

    def of(self, chosen: NDArray[np.int64]) -> tuple[Thumbnails, NDArray[np.float64]]:
        """Returns thumbnails (N, 24, 32) and changes (N,) of chosen frames; a change is the largest since the chosen frame before."""
        thumbnails = np.stack([self._thumbnails[index] for index in chosen]) if len(chosen) else np.zeros((0, HEIGHT, WIDTH), np.uint8)
        starts = [0, *(int(index) + 1 for index in chosen[:-1])]
        changes = [max(self._changes[start : index + 1]) for start, index in zip(starts, chosen.tolist(), strict=True)]
        return thumbnails, np.array([0.0, *changes[1:]][: len(chosen)])


def change(before: NDArray[np.floating], after: NDArray[np.floating]) -> float:
    """Returns how much two thumbnails (H, W) or (H, W, C) differ: 0 for equal ones, about 1 for unrelated ones.

    It is the difference without the mean, relative to the contrast, in the 40 % of the blocks that differ least. Each block may move
    by `REACH` cells: what moves is not a change.
    """
    one, other = (cv2.GaussianBlur(np.atleast_3d(image).astype(np.float32), (0, 0), BLUR) for image in (before, after))
    one, other = (np.atleast_3d(image - image.mean(axis=(0, 1))) for image in (one, other))
    contrast = (one.std() + other.std()) / 2 + FLOOR
    height, width = other.shape[:2]
    rows, columns = min(BLOCK[0], height), min(BLOCK[1], width)
    around = cv2.copyMakeBorder(one, REACH, REACH, REACH, REACH, cv2.BORDER_REPLICATE)
    around = np.atleast_3d(around)
    least = np.full((height // rows, width // columns), np.inf)
    for y in range(2 * REACH + 1):
        for x in range(2 * REACH + 1):
            difference = np.abs(around[y : y + height, x : x + width] - other).mean(axis=-1)[: height // rows * rows, : width // columns * columns]
            least = np.minimum(least, difference.reshape(height // rows, rows, width // columns, columns).mean(axis=(1, 3)))
    return float(np.percentile(least, QUIET_SHARE) / contrast)


def compensated_change(before: NDArray[np.floating], after: NDArray[np.floating]) -> float:
    """Returns the smaller of `change` and the change after the shift of the whole image is undone, for shifts of less than half of it."""
    plain = change(before, after)
    if plain < JUMP / 2:
        return plain
    (x, y) = _shift(before, after)
    if abs(x) >= WIDTH / 2 or abs(y) >= HEIGHT / 2:
        return plain
    left, right, top, bottom = _overlap(x, y)
    return min(plain, change(_moved(before, x, y)[top:bottom, left:right], after[top:bottom, left:right]))


def _shift(before: NDArray[np.floating], after: NDArray[np.floating]) -> tuple[float, float]:
    """Returns by how many cells (x, y) the image moved, by phase correlation."""
    one, other = (np.atleast_3d(image).mean(axis=-1, dtype=np.float32) for image in (before, after))
    (x, y), _ = cv2.phaseCorrelate(one, other, cv2.createHanningWindow((WIDTH, HEIGHT), cv2.CV_32F))
    return x, y


def _moved(image: NDArray[np.floating], x: float, y: float) -> NDArray[np.floating]:
    return cv2.warpAffine(image, np.array([[1, 0, x], [0, 1, y]]), (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)


def _overlap(*shifts: float) -> tuple[int, int, int, int]:
    """Returns left, right, top, bottom of the cells that all images cover; shifts: x and y in turn."""
    xs, ys = (*shifts[::2], 0.0), (*shifts[1::2], 0.0)
    return int(np.ceil(max(xs))), WIDTH + int(np.floor(min(xs))), int(np.ceil(max(ys))), HEIGHT + int(np.floor(min(ys)))


def find_shots(
    looks: tuple[Thumbnails, NDArray[np.float64]],
    threshold: float,
    max_frames: int,
    still_frames: int,
    breaks: NDArray[np.int64] | None = None,
    spoilt: NDArray[np.bool_] | None = None,
) -> list[Shot | Dropped]:
    """Returns shots of at most `max_frames` frames, and the dropped frames between them, in the order of the video.

    threshold:    change at a cut, see `change`; a smaller one is a cut if it stands out from the frames around it
    still_frames: an image that stays the same for more frames is dropped, except for its first frame
    looks:        thumbnails and changes, see `Looks`
    breaks:       frames before which time is missing: a shot ends there whatever they show
    spoilt:       (N,) frames that are damaged
    """
    thumbnails, changes = looks
    rules = _uniform(thumbnails)
    cuts = _hard_cuts(thumbnails, changes, threshold)
    if breaks is not None:
        cuts[breaks] = True
    _mark_dissolves(thumbnails, cuts, rules)
    _mark_still(thumbnails, cuts, rules, still_frames)
    if spoilt is not None:
        rules[spoilt] = "damaged"
    edges = np.flatnonzero(cuts | np.r_[True, rules[1:] != rules[:-1]]) if len(rules) else np.zeros(0, int)
    parts: list[Shot | Dropped] = []
    for start, stop in zip(edges.tolist(), [*edges[1:].tolist(), len(rules)], strict=True):
        if rule := str(rules[start]):
            joins = parts and isinstance(parts[-1], Dropped) and parts[-1].rule == rule and parts[-1].stop == start
            parts[-1:] = [Dropped(parts[-1].start, stop, rule)] if joins else [*parts[-1:], Dropped(start, stop, rule)]
        else:
            parts += [Shot(first, min(first + max_frames, stop)) for first in range(start, stop, max_frames)]
    return parts


def _uniform(thumbnails: Thumbnails) -> NDArray[np.str_]:
    """Returns the rule of each frame: black, white, fade beside them, or ""."""
    rules = np.full(len(thumbnails), "", dtype="<U8")
    flat = thumbnails.reshape(len(thumbnails), -1)
    low, high = np.percentile(flat, (5, 95), axis=1) if len(flat) else (np.zeros(0), np.zeros(0))
    means, contrast = flat.mean(axis=1), flat.std(axis=1)
    uniform = high - low < FLAT
    rules[uniform & (means < DARK)], rules[uniform & (means > BRIGHT)] = "black", "white"
    for index in np.flatnonzero(rules != ""):
        for step in (-1, 1):
            last, now = index, index + step
            while 0 <= now < len(rules) and rules[now] == "" and abs(now - index) <= FADE_FRAMES and contrast[now] > FADE_STEP * contrast[last] + 0.1:
                last, now = now, now + step
            if abs(now - index) > 3:  # the last frame of the ramp is a whole picture
                rules[min(index - step * -1, last) if step > 0 else last + 1 : last if step > 0 else index] = "fade"
    return rules


def _hard_cuts(thumbnails: Thumbnails, changes: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Returns whether there is a cut before each frame: a change that stands out from those around it, and is not a flash."""
    cuts = np.zeros(len(changes), bool)
    for index in np.flatnonzero(changes > min(JUMP, threshold)).tolist():
        before = [c for c in changes[max(1, index - 2 * NEAR) : index] if c > REPEATED][-NEAR:]
        after = [c for c in changes[index + 1 : index + 1 + 2 * NEAR] if c > REPEATED][:NEAR]
        around = sorted([0.0, 0.0, *before, *after])[-2]  # without the largest, which is another cut nearby
        alone = changes[index] > threshold and changes[index] > SPIKE * around
        cuts[index] = (alone or changes[index] > JUMP_SPIKE * around) and not _is_flash(thumbnails, index, changes[index])
    return cuts


def _is_flash(thumbnails: Thumbnails, index: int, changed: float) -> bool:
    """Returns whether the image before frame `index` comes back soon after it, or that of the frame was there shortly before."""
    back = [(index - 1, other) for other in range(index + 1, min(index + 1 + FLASH, len(thumbnails)))]
    ago = [(other, index) for other in range(max(0, index - 1 - FLASH), index - 1)]
    return any(compensated_change(thumbnails[one].astype(np.float32), thumbnails[other].astype(np.float32)) < RETURNED * changed for one, other in back + ago)


def _mark_dissolves(thumbnails: Thumbnails, cuts: NDArray[np.bool_], rules: NDArray[np.str_]) -> None:
    """Marks the frames of dissolves: mixtures of two unlike images, which have less contrast than either."""
    contrast = thumbnails.reshape(len(thumbnails), -1).std(axis=1)
    ended = np.cumsum(cuts | (rules != ""))  # equal at both ends of a window without a cut or a marked frame after its first
    found: list[tuple[float, int, int]] = []
    for length in LENGTHS:
        count = len(thumbnails) - length
        if count <= 0:
            break
        first, last, middle = contrast[:count], contrast[length:], contrast[length // 2 : length // 2 + count]
        plausible = (middle < FADED * (first + last) / 2) & (ended[:count] == ended[length:]) & (rules[:count] == "")
        for start in np.flatnonzero(plausible).tolist():
            if score := _mixture(thumbnails[start : start + length + 1]):
                found.append((score, start, start + length))
    for _, start, end in sorted(found, reverse=True):
        if not (rules[start : end + 1] == "dissolve").any():
            rules[start + 1 : end] = "dissolve"


def _mixture(images: Thumbnails) -> float:
    """Returns how clearly a window of frames (T, H, W) is a dissolve: 0 for no, about 1 for a clear one.

    At a quarter, half and three quarters of it, least squares explain the frame by its two ends, moved as the camera moves, and the
    share of the second one grows.
    """
    first, last = images[0].astype(np.float32), images[-1].astype(np.float32)
    unlike = compensated_change(first, last)
    if unlike < UNLIKE:
        return 0.0
    explained, shares, length = 1.0, [0.0], len(images) - 1
    for offset in (length // 2, length // 4, length - length // 4):
        middle = images[offset].astype(np.float32)
        share, fit = _share(first, last, middle)
        if fit < MIXED or not 0.05 < share < 0.95:
            return 0.0
        explained, shares = min(explained, fit), [*shares, share]
    half, quarter, rest = shares[1:]
    return explained * min(unlike, 1.0) * (rest - quarter) if quarter < half < rest and 0.2 < half < 0.8 else 0.0


def _share(first: NDArray[np.float32], last: NDArray[np.float32], middle: NDArray[np.float32]) -> tuple[float, float]:
    """Returns the share of the last image in a mixture of two, and how much of the middle's variance they explain."""
    best = (0.0, 0.0)
    for (x, y), (u, v) in (((0.0, 0.0), (0.0, 0.0)), (_shift(first, middle), _shift(last, middle))):
        left, right, top, bottom = _overlap(x, y, u, v)
        if right - left < WIDTH / 2 or bottom - top < HEIGHT / 2:
            continue
        ends = [_moved(image, *shift)[top:bottom, left:right].ravel() for image, shift in ((first, (x, y)), (last, (u, v)))]
        system, target = np.stack([*ends, np.ones_like(ends[0])], axis=1), middle[top:bottom, left:right].ravel()
        weights, *_ = np.linalg.lstsq(system, target, rcond=None)
        fit = 1 - float(((system @ weights - target) ** 2).mean() / max(target.var(), FLOOR))
        if fit > best[1] and min(weights[:2]) > 0:
            best = float(weights[1] / (weights[0] + weights[1])), fit
    return best


def _mark_still(thumbnails: Thumbnails, cuts: NDArray[np.bool_], rules: NDArray[np.str_], still_frames: int) -> None:
    """Marks the frames of static stretches, except for the first of each."""
    first = 0
    smooth: NDArray[np.float32] | None = None
    for index in range(len(rules) + 1):
        if index < len(rules):
            now = cv2.blur(thumbnails[index].astype(np.float32), (3, 3))
            if smooth is not None and not cuts[index] and rules[index] == "" and float(np.abs(now - smooth).max()) < STILL:
                continue
        if index - 1 - first > still_frames:
            rules[first + 1 : index] = "frozen"
        first, smooth = index, now if index < len(rules) and rules[index] == "" else None


def profiles(frame: Frames) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Returns the brightness of rows (H,) and columns (W,): the 98th percentile of the pixels' brightest channel."""
    brightest = frame.max(axis=2)
    return np.percentile(brightest, 98, axis=1).astype(np.uint8), np.percentile(brightest, 98, axis=0).astype(np.uint8)


def content_box(seen: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> tuple[int, int, int, int]:
    """Returns top, bottom, left, right (exclusive ends) of the image inside black bars; the whole frame without bars.

    seen: `profiles` of frames of one shot. A bar is dark in all of them. Bars come in pairs, so a dark floor is not a bar.
    """
    rows, columns = (np.max(np.stack(levels), axis=0) for levels in zip(*seen, strict=True))
    (top, bottom), (left, right) = _inner(rows), _inner(columns)
    return top, bottom, left, right


def _inner(levels: NDArray[np.uint8]) -> tuple[int, int]:
    bright = np.flatnonzero(levels > BAR)
    if not len(bright):
        return 0, len(levels)
    start, stop = int(bright[0]), int(bright[-1]) + 1
    before, after = start, len(levels) - stop
    thin = MIN_BAR * len(levels)
    little = stop - start < len(levels) / 2  # a title on black, not an image between bars
    if little or min(before, after) < thin or abs(before - after) > max(thin, 0.25 * max(before, after)):
        return 0, len(levels)
    return start + start % 2, stop - stop % 2
