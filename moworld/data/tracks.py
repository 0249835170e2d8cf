"""Points followed through a video, what structure from motion starts from: what is matched lies near where it was one frame ago.

Descriptors matched over long gaps take one repeat of a texture for another, and two-view geometry does not object: a wall of bricks agrees with
itself one brick further. From frame to frame the step is small, and matches without a rival say where even a fence's next post may not be looked for.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moworld.data.verification import MIN_MATCHES, two_view_inliers

Frames = NDArray[np.uint8]
Points = NDArray[np.float32]
Ids = NDArray[np.int64]

MOST = 1200  # points that are followed at a time
APART = 12  # pixels between them when they are taken up
WINDOW = 15  # pixels of the patch that is followed
THERE_AND_BACK = 0.7  # pixels by which a point may miss itself when it is followed back
BORDER = 3
RATIO = 0.8  # of the distances to the best and the second best descriptor: above it a match has a rival
NEIGHBOURS = 5  # matches without a rival that say where a point went


@dataclass(frozen=True)
class Sight:
    """Followed points in one picture: ids (N,) and places (N, 2) in pixels, the first pixel's centre at 0."""

    ids: Ids
    points: Points


@dataclass(frozen=True)
class _Described:
    """SIFT features of a picture: places (N, 2), unit descriptors (N, 128), and the id of the chain of matches that each belongs to."""

    points: Points
    vectors: Points
    ids: Ids


def follow(pictures: Iterable[tuple[int, Frames]], wanted: set[int], features: int) -> dict[int, Sight]:
    """What the pictures of a sequence (number, (H, W, 3) uint8) show: all that is followed and, in wanted ones, all that is described as well.

    features: SIFT features a picture, whose matches without a rival guide the others and form tracks themselves
    """
    import cv2

    sights: dict[int, Sight] = {}
    live, used = Sight(np.zeros(0, np.int64), np.zeros((0, 2), np.float32)), 0
    last: tuple[Frames, _Described] | None = None
    for number, picture in pictures:
        grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
        points, vectors = _described(grey, features)
        ids = used + np.arange(len(points))
        used += len(points)
        if last is not None:
            before, described = last
            pairs = matched(described, vectors, points)
            ids[pairs[:, 1]] = described.ids[pairs[:, 0]]
            live = _stepped(before, grey, live, described.points[pairs[:, 0]], points[pairs[:, 1]])
        fresh = _corners(grey, live.points)
        live = Sight(np.concatenate([live.ids, used + np.arange(len(fresh))]), np.concatenate([live.points, fresh]))
        used += len(fresh)
        last = grey, _Described(points, vectors, ids)
        every = number in wanted
        sights[number] = Sight(np.concatenate([live.ids, ids]), np.concatenate([live.points, points])) if every else live
    return sights


def matched(first: _Described, vectors: Points, points: Points) -> NDArray[np.int64]:
    """(n, 2) indices of features that are each other's best match, have no rival, and agree with one two-view geometry."""
    if min(len(first.vectors), len(vectors)) < 2:
        return np.zeros((0, 2), np.int64)
    distances = np.sqrt(np.maximum(2 - 2 * first.vectors @ vectors.T, 0))
    rows, best = np.arange(len(distances)), distances.argmin(axis=1)
    nearest = distances[rows, best]
    mutual = distances.argmin(axis=0)[best] == rows
    distances[rows, best] = np.inf
    sure = mutual & (nearest < RATIO * distances.min(axis=1))
    pairs = np.column_stack([rows[sure], best[sure]])
    return pairs[_agreeing(first.points[pairs[:, 0]], points[pairs[:, 1]])]


def _stepped(before: Frames, after: Frames, live: Sight, from_: Points, to: Points) -> Sight:
    """Live points in the next picture, without those that are lost. The guides moved from `from_` to `to`, (n, 2) both."""
    if not len(live.ids):
        return live
    there, found = _there_and_back(before, after, live.points, from_, to)
    kept = np.flatnonzero(found)
    kept = kept[_agreeing(live.points[kept], there[kept])]
    return Sight(live.ids[kept], there[kept])


def followed(pictures: list[Frames]) -> tuple[Points, Points]:
    """Corners spread over the first of some greyscale pictures (H, W) uint8 and where they are in the last: pixels, (n, 2) both.

    Each is followed for itself, from picture to picture and back. No two-view geometry is asked, so what the most agree on outvotes nothing.
    """
    nowhere = np.zeros((0, 2), np.float32)
    first = last = _corners(pictures[0], nowhere)
    for before, after in pairwise(pictures):
        if len(last):
            there, found = _there_and_back(before, after, last, nowhere, nowhere)
            first, last = first[found], there[found]
    return first, last


def _there_and_back(before: Frames, after: Frames, points: Points, from_: Points, to: Points) -> tuple[Points, NDArray[np.bool_]]:
    """Where points (N, 2) are in the next picture (N, 2), and whether they are inside it and lead back to where they came from (N,)."""
    there = _flow(before, after, points, from_, to)
    back = _flow(after, before, there, to, from_)
    inside = np.all((there >= BORDER) & (there < np.array(after.shape[::-1]) - BORDER), axis=1)
    return there, inside & (np.linalg.norm(back - points, axis=1) < THERE_AND_BACK)


def _flow(before: Frames, after: Frames, points: Points, from_: Points, to: Points) -> Points:
    """Where points (N, 2) went by Lucas and Kanade, searched from where the nearest guides went; (-1, -1) where they were lost."""
    import cv2

    if len(from_) >= NEIGHBOURS:
        nearest = np.argpartition(((points[:, None] - from_) ** 2).sum(axis=2), NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
        guess, levels = points + np.median((to - from_)[nearest], axis=1).astype(np.float32), 1
    else:
        guess, levels = points.copy(), 4
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.01)
    options: dict[str, Any] = {"winSize": (WINDOW, WINDOW), "maxLevel": levels, "criteria": criteria, "flags": cv2.OPTFLOW_USE_INITIAL_FLOW}
    found, status, _ = cv2.calcOpticalFlowPyrLK(before, after, points.reshape(-1, 1, 2), guess.reshape(-1, 1, 2), **options)
    return np.where(status == 1, found[:, 0], -1.0).astype(np.float32)


def _agreeing(first: Points, second: Points) -> NDArray[np.bool_]:
    """Which of the matches (n, 2) agree with one two-view geometry; all where there are too few to say."""
    return two_view_inliers(first.astype(np.float64), second.astype(np.float64)) if len(first) >= MIN_MATCHES else np.ones(len(first), bool)


def _described(grey: Frames, count: int) -> tuple[Points, Points]:
    """Places and unit descriptors (square roots of SIFT's shares: Hellinger's distance) of a picture's features."""
    import cv2

    found, vectors = cv2.SIFT.create(nfeatures=count, contrastThreshold=0.02).detectAndCompute(grey, None)
    if vectors is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32)
    shares = vectors / np.abs(vectors).sum(axis=1, keepdims=True).clip(1e-9)
    return np.array([point.pt for point in found], np.float32), np.sqrt(shares).astype(np.float32)


def _corners(grey: Frames, taken: Points) -> Points:
    """Corners to follow from here on, where none is followed yet."""
    import cv2

    free = np.full(grey.shape, 255, np.uint8)
    for x, y in taken:
        cv2.circle(free, (int(x), int(y)), APART, 0, -1)
    room = MOST - len(taken)
    found = cv2.goodFeaturesToTrack(grey, room, 0.01, APART, mask=free, blockSize=5) if room > 0 else None
    return np.zeros((0, 2), np.float32) if found is None else np.asarray(found[:, 0], dtype=np.float32)
