"""Splits a video into shots (paper 2), from a small thumbnail of each frame and its change since the frame before.

Cuts, jump cuts, dissolves, fades, black, white and frozen stretches end a shot. Flashes, whip pans, pictures in the picture and
repeated frames do not. Letterbox bars are found for cropping.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from moworld.video import Frames

HEIGHT, WIDTH, BLOCK = 24, 32, (6, 8)  # of a thumbnail and its blocks
BLUR, REACH = 0.8, 2  # cells: of thumbnails before they are compared, and how far a block may move
FARTHEST = 0.4  # of the image: a larger shift between two frames leaves too little in common
FLOOR = 0.7  # grey levels added to a frame's contrast: in the dark, noise is not a change
QUIET_SHARE = 50  # percentile of the blocks' changes: a picture in the picture covers fewer blocks
REPEATED = 0.02  # change of a repeated frame, which compression refines, or of a camera that hardly moves
NEAR, FAR = 4, 40  # changes on each side with which a change is compared, and the frames in which they are looked for
SPIKE = 2.2  # a cut changes this many times more than the frames around it; a fast turn does not
JUMP, JUMP_SPIKE = 0.12, 3.2  # a jump cut changes little, but far more than the frames around it
FLASH = 6  # longest flash, in frames
RETURNED = 0.5  # of a change: a smaller one to an image before it means that the image is back
LENGTHS = (6, 8, 12, 16, 24, 32, 48)  # of the parts of dissolves that are looked at, in frames
UNLIKE = 0.2  # change between the two ends of a part of a dissolve
MIXED = 0.6  # share of the variance of a dissolve's frames that its ends explain
LINEAR = 0.25  # how far the last end's share may be from growing in proportion to time
ALONE = 0.85  # share of the variance of a dissolve's middle that one end explains at most
BETTER = 1.25  # times the variance that one end leaves, relative to what both leave: in a moving shot, either end does
OVERLAP = 0.4  # of the image that must be covered by both ends
RAISED, FASTEST = 1.3, 75  # times the change of the frames around, of this percentile
DIP = 0.8  # smallest contrast in a whole dissolve, relative to its ends
FADED = 1.02  # contrast in the middle of a part, relative to its ends
FLAT = 2.5  # grey levels between the 5th and the 95th percentile of a uniform frame
DARK, BRIGHT = 20.0, 235.0  # mean of a black and of a white frame
FADE_FRAMES, FADE_STEP = 48, 1.02  # longest fade, and its smallest growth of contrast per frame
STILL = 1.5  # grey levels between neighbourhoods of thumbnails and the first static frame: slow motion adds up, compression does not
BAR = 32  # brightest pixel of a letterbox bar: compression bleeds neighbouring colours into it
MIN_BAR = 0.03  # of a side: thinner bars are dark edges of the scene

Thumbnails = NDArray[np.uint8]
Motion = NDArray[np.float32]


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

    It is the difference without its median, a change of exposure, relative to the contrast, in the half of the blocks that differs least. Each block may move
    by `REACH` cells: what moves is not a change.
    """
    one, other = (cv2.GaussianBlur(np.atleast_3d(image).astype(np.float32), (0, 0), BLUR) for image in (before, after))
    contrast = (one.std(axis=(0, 1)).mean() + other.std(axis=(0, 1)).mean()) / 2 + FLOOR
    one, other = np.atleast_3d(one), np.atleast_3d(other)
    other = other - np.median(other - one, axis=(0, 1))
    height, width = other.shape[:2]
    rows, columns = min(BLOCK[0], height), min(BLOCK[1], width)
    around = np.atleast_3d(cv2.copyMakeBorder(one, REACH, REACH, REACH, REACH, cv2.BORDER_REPLICATE))
    least = np.full((height // rows, width // columns), np.inf)
    for y in range(2 * REACH + 1):
        for x in range(2 * REACH + 1):
            difference = np.abs(around[y : y + height, x : x + width] - other).mean(axis=-1)[: height // rows * rows, : width // columns * columns]
            least = np.minimum(least, difference.reshape(height // rows, rows, width // columns, columns).mean(axis=(1, 3)))
    return float(np.percentile(least, QUIET_SHARE) / contrast)


def compensated_change(before: NDArray[np.floating], after: NDArray[np.floating]) -> float:
    """Returns the smaller of `change` and the change after the shift of the whole image is undone, for shifts of less than two fifths."""
    plain = change(before, after)
    if plain < JUMP / 2:
        return plain
    (x, y) = _shift(before, after)
    if abs(x) >= FARTHEST * WIDTH or abs(y) >= FARTHEST * HEIGHT:
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
    heartbeat: Callable[[], None] = lambda: None,
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
    _mark_dissolves(thumbnails, changes, cuts, rules, heartbeat)
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
    for start, stop in _runs(rules == "white"):
        if stop - start <= FLASH and start > 0 and stop < len(rules) and change(thumbnails[start - 1], thumbnails[stop]) < JUMP:
            rules[start:stop] = ""  # a flash
    for index in np.flatnonzero(rules != ""):
        for step in (-1, 1):
            last, now = index, index + step
            while 0 <= now < len(rules) and rules[now] == "" and abs(now - index) <= FADE_FRAMES and contrast[now] > FADE_STEP * contrast[last] + 0.1:
                last, now = now, now + step
            if abs(now - index) > 3:  # the last frame of the ramp is a whole picture
                first, end = (index + 1, last) if step > 0 else (last + 1, index)
                rules[first:end] = "fade"
    return rules


def _hard_cuts(thumbnails: Thumbnails, changes: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Returns whether there is a cut before each frame: a change that stands out from those around it, and is not a flash."""
    cuts = np.zeros(len(changes), bool)
    for index in np.flatnonzero(changes > min(JUMP, threshold)).tolist():
        earlier = [c for c in changes[max(1, index - FAR) : index] if c > REPEATED][-NEAR:]
        later = [c for c in changes[index + 1 : index + 1 + FAR] if c > REPEATED][:NEAR]
        around = sorted([0.0, 0.0, *earlier, *later])[-2]  # without the largest, which is another cut nearby
        alone = changes[index] > threshold and changes[index] > SPIKE * around
        cuts[index] = (alone or changes[index] > JUMP_SPIKE * around) and not _is_flash(thumbnails, index, changes[index])
    return cuts


def _is_flash(thumbnails: Thumbnails, index: int, changed: float) -> bool:
    """Returns whether the image before frame `index` comes back soon after it, or that of the frame was there shortly before."""
    back = [(index - 1, other) for other in range(index + 1, min(index + 1 + FLASH, len(thumbnails)))]
    ago = [(other, index) for other in range(max(0, index - 1 - FLASH), index - 1)]
    same = RETURNED * min(change(thumbnails[index - 1], thumbnails[index]), changed)
    return any(change(thumbnails[one], thumbnails[other]) < same for one, other in back + ago)


def _mark_dissolves(
    thumbnails: Thumbnails, changes: NDArray[np.float64], cuts: NDArray[np.bool_], rules: NDArray[np.str_], heartbeat: Callable[[], None]
) -> None:
    """Marks the frames of dissolves: mixtures of two unlike images, which have less contrast than either, and change faster than the frames around."""
    contrast = thumbnails.reshape(len(thumbnails), -1).std(axis=1)
    ended = np.cumsum(cuts | (rules != ""))  # equal at both ends of a window without a cut or a marked frame after its first
    votes = np.zeros(len(thumbnails), int)
    motions = _Motions(thumbnails)
    for length in LENGTHS:
        count = len(thumbnails) - length
        if count <= 0:
            break
        first, last, middle = contrast[:count], contrast[length:], contrast[length // 2 : length // 2 + count]
        plausible = (middle < FADED * (first + last) / 2) & (ended[:count] == ended[length:]) & (rules[:count] == "")
        stride = max(1, length // 6)
        for start in (stride * np.flatnonzero(plausible[::stride])).tolist():
            heartbeat()
            if _is_mixture(motions, start, length):
                votes[start + 1 : start + length] += 1
    for start, stop in _runs(votes > 0):
        ends = contrast[max(start - 1, 0)], contrast[min(stop, len(contrast) - 1)]
        if contrast[start:stop].min() < DIP * (ends[0] + ends[1]) / 2 and _is_raised(changes, votes, cuts, start, stop):
            rules[start:stop] = "dissolve"


def _is_raised(changes: NDArray[np.float64], votes: NDArray[np.int64], cuts: NDArray[np.bool_], start: int, stop: int) -> bool:
    """Returns whether frames start to stop change faster than those around: a dissolve adds to the camera's motion."""
    around = np.r_[max(1, start - FAR) : start, stop : min(stop + FAR, len(changes))]
    around = around[(votes[around] == 0) & ~cuts[around]]
    return len(around) < NEAR or float(np.percentile(changes[start:stop], FASTEST)) > RAISED * float(np.percentile(changes[around], FASTEST))


def _runs(marked: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Returns start and stop (exclusive) of each run of marked frames."""
    edges = np.flatnonzero(np.diff(np.r_[False, marked, False].astype(np.int8))).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


class _Motions:
    """Frames, and the affine motion from any of them to another, chained from those between neighbours, which are found when needed."""

    def __init__(self, thumbnails: Thumbnails) -> None:
        self.images = thumbnails.astype(np.float32)
        self._steps: dict[int, Motion] = {}

    def between(self, source: int, target: int) -> Motion:
        """Returns the motion (2, 3) from coordinates of frame `target` to those of frame `source`."""
        total = np.eye(3)
        for index in range(min(source, target), max(source, target)):
            if index not in self._steps:
                self._steps[index] = self._step(index)
            total = total @ np.vstack([self._steps[index], [0, 0, 1]])
        return np.asarray((total if source < target else np.linalg.inv(total))[:2], np.float32)

    def _step(self, index: int) -> Motion:
        one, other = self.images[index], self.images[index + 1]
        start = np.eye(2, 3, dtype=np.float32)
        start[:, 2] = -np.array(_shift(one, other))
        for guess in (np.eye(2, 3, dtype=np.float32), start):
            with suppress(cv2.error):  # did not converge
                return np.asarray(cv2.findTransformECC(other, one, guess, cv2.MOTION_AFFINE, (3, 20, 1e-3), None, 3)[1])
        return np.eye(2, 3, dtype=np.float32)


def _is_mixture(motions: _Motions, begin: int, length: int) -> bool:
    """Returns whether the frames from `begin` to `begin + length` are part of a dissolve.

    Least squares explain its frames by its two ends, aligned with them, and its middle by neither alone; the share of the last end grows
    in proportion to time.
    """
    first, last = motions.images[begin], motions.images[begin + length]
    if change(first, last) < UNLIKE or compensated_change(first, last) < UNLIKE:
        return False
    for offset in (length // 2, length // 4, length - length // 4):
        share, explained, alone = _share(motions, begin, begin + offset, begin + length)
        if abs(share - offset / length) > LINEAR or explained < MIXED:
            return False
        if offset == length // 2 and (alone > ALONE or (1 - alone) < BETTER * (1 - explained)):
            return False
    return True


def _share(motions: _Motions, first: int, at: int, last: int) -> tuple[float, float, float]:
    """Returns the last image's share in a mixture, and the parts of the middle's variance explained by both ends and by the better one."""
    middle = motions.images[at]
    (one, seen), (other, visible) = (_aligned(motions.images[end], middle, motions.between(end, at)) for end in (first, last))
    inside = seen & visible
    if inside.sum() < OVERLAP * inside.size:
        return 0.0, 0.0, 0.0
    target = middle[inside]
    system = np.stack([one[inside], other[inside], np.ones_like(target)], axis=1)
    weights, explained = _fit(system, target)
    alone = max(_fit(system[:, [0, 2]], target)[1], _fit(system[:, 1:], target)[1])
    return float(weights[1] / (weights[0] + weights[1])) if min(weights[:2]) > 0 else 0.0, explained, alone


def _aligned(image: NDArray[np.float32], target: NDArray[np.float32], chained: Motion) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Returns an image after the affine motion that brings it onto the target, and where it covers it. chained: a first guess of it."""
    x, y = _shift(image, target)
    best, inside = image, np.ones_like(image, bool)
    for start in (np.eye(2, 3, dtype=np.float32), np.array([[1, 0, -x], [0, 1, -y]], np.float32), chained.copy()):
        try:
            _, motion = cv2.findTransformECC(target, image, start, cv2.MOTION_AFFINE, (3, 12, 1e-3), None, 3)
        except cv2.error:  # did not converge: the start is as good as it gets
            continue
        flags, size = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, (WIDTH, HEIGHT)
        moved, covered = cv2.warpAffine(image, motion, size, flags=flags), cv2.warpAffine(np.ones_like(image), motion, size, flags=flags) > 0.99
        if covered.sum() >= OVERLAP * covered.size and _correlation(moved[covered], target[covered]) > _correlation(best[inside], target[inside]):
            best, inside = moved, covered
    return best, inside


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    one, other = one - one.mean(), other - other.mean()
    return float((one * other).mean() / (one.std() * other.std() + 1e-6))


def _fit(system: NDArray[np.float32], target: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Returns the weights of least squares, and the share of the target's variance that they explain."""
    weights, *_ = np.linalg.lstsq(system, target, rcond=None)
    return weights, 1 - float(((system @ weights - target) ** 2).mean() / max(target.var(), FLOOR))


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
