"""Tracks points through a video: the input of structure from motion. Every match is near its position one frame earlier.

Descriptors matched over long gaps confuse repeats of a texture, and two-view geometry does not detect it: a brick wall agrees with itself
one brick further. Between consecutive frames the step is small, and matches without a rival predict where the others moved.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from moworld.data.verification import MIN_MATCHES, two_view_inliers

Frames = NDArray[np.uint8]
Points = NDArray[np.float32]
Ids = NDArray[np.int64]

MOST = 1200  # tracked points at a time
APART = 12  # pixels between new points
WINDOW = 15  # pixels of the tracked patch
THERE_AND_BACK = 0.7  # pixels: largest forward-backward error
BORDER = 3
RATIO = 0.8  # of the distances to the best and second best descriptor: above it a match has a rival
NEIGHBOURS = 5  # matches without a rival that predict a point's motion


@dataclass(frozen=True)
class Observations:
    """Tracked points in one image: track ids (N,) and positions (N, 2) in pixels, with 0 at the first pixel's centre."""

    ids: Ids
    points: Points


def follow(images: Iterable[tuple[int, Frames]], keyframes: set[int], features: int) -> dict[int, Observations]:
    """Returns the observations of every image of a sequence (number, (H, W, 3) uint8): all tracked points, and in `keyframes` all features too.

    features: SIFT features per image; their matches without a rival guide the tracked points and form tracks themselves
    """
    observations: dict[int, Observations] = {}
    live, used = Observations(np.zeros(0, np.int64), np.zeros((0, 2), np.float32)), 0
    last: tuple[Frames, Observations, Points] | None = None  # image, SIFT features as tracks, their descriptors
    for number, image in images:
        grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
        points, vectors = _described(grey, features)
        ids = used + np.arange(len(points))
        used += len(points)
        if last is not None:
            before, described, descriptors = last
            pairs = matched(described.points, descriptors, points, vectors)
            ids[pairs[:, 1]] = described.ids[pairs[:, 0]]
            live = _stepped(before, grey, live, described.points[pairs[:, 0]], points[pairs[:, 1]])
        fresh = _corners(grey, live.points)
        live = Observations(np.concatenate([live.ids, used + np.arange(len(fresh))]), np.concatenate([live.points, fresh]))
        used += len(fresh)
        last = grey, Observations(ids, points), vectors
        observations[number] = live
        if number in keyframes:
            observations[number] = Observations(np.concatenate([live.ids, ids]), np.concatenate([live.points, points]))
    return observations


def matched(points: Points, vectors: Points, other_points: Points, other_vectors: Points) -> NDArray[np.int64]:
    """Returns indices (n, 2) of features that are mutual best matches, have no rival and agree with one two-view geometry.

    points, vectors: positions (N, 2) and unit descriptors (N, 128) of the features of one image; other_...: those of the next
    """
    if min(len(vectors), len(other_vectors)) < 2:
        return np.zeros((0, 2), np.int64)
    distances = np.sqrt(np.maximum(2 - 2 * vectors @ other_vectors.T, 0))
    rows, best = np.arange(len(distances)), distances.argmin(axis=1)
    nearest = distances[rows, best]
    mutual = distances.argmin(axis=0)[best] == rows
    distances[rows, best] = np.inf
    sure = mutual & (nearest < RATIO * distances.min(axis=1))
    pairs = np.column_stack([rows[sure], best[sure]])
    return pairs[_agreeing(points[pairs[:, 0]], other_points[pairs[:, 1]])]


def _stepped(before: Frames, after: Frames, live: Observations, from_: Points, to: Points) -> Observations:
    """Returns the tracked points in the next image, without the lost ones. The guides moved from `from_` to `to`, both (n, 2)."""
    if not len(live.ids):
        return live
    there, found = _there_and_back(before, after, live.points, from_, to)
    kept = np.flatnonzero(found)
    kept = kept[_agreeing(live.points[kept], there[kept])]
    return Observations(live.ids[kept], there[kept])


def followed(images: list[Frames]) -> tuple[Points, Points]:
    """Returns corners spread over the first of some greyscale images (H, W) uint8 and their positions in the last: pixels, both (n, 2).

    Each corner is tracked independently, forwards and backwards. No two-view geometry filters them, so a wrong majority removes none.
    """
    nowhere = np.zeros((0, 2), np.float32)
    first = last = _corners(images[0], nowhere)
    for before, after in pairwise(images):
        if len(last):
            there, found = tracked_step(before, after, last)
            first, last = first[found], there[found]
    return first, last


def tracked_step(before: Frames, after: Frames, points: Points) -> tuple[Points, NDArray[np.bool_]]:
    """Returns positions (N, 2) of points (N, 2) in the next greyscale image, and which of them (N,) lead back to their origin."""
    nowhere = np.zeros((0, 2), np.float32)
    return _there_and_back(before, after, points, nowhere, nowhere)


def _there_and_back(before: Frames, after: Frames, points: Points, from_: Points, to: Points) -> tuple[Points, NDArray[np.bool_]]:
    """Returns positions (N, 2) of points in the next image, and whether each is inside it and leads back to its origin (N,)."""
    there = _flow(before, after, points, from_, to)
    back = _flow(after, before, there, to, from_)
    inside = np.all((there >= BORDER) & (there < np.array(after.shape[::-1]) - BORDER), axis=1)
    return there, inside & (np.linalg.norm(back - points, axis=1) < THERE_AND_BACK)


def _flow(before: Frames, after: Frames, points: Points, from_: Points, to: Points) -> Points:
    """Returns positions (N, 2) by Lucas and Kanade, initialised from the nearest guides; (-1, -1) for lost points."""
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
    """Returns which matches (n, 2) agree with one two-view geometry; all of them if there are too few to decide."""
    return two_view_inliers(first.astype(np.float64), second.astype(np.float64)) if len(first) >= MIN_MATCHES else np.ones(len(first), bool)


def _described(grey: Frames, count: int) -> tuple[Points, Points]:
    """Returns positions and unit RootSIFT descriptors of an image's features."""
    found, vectors = cv2.SIFT.create(nfeatures=count, contrastThreshold=0.02).detectAndCompute(grey, None)
    if vectors is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32)
    shares = vectors / np.abs(vectors).sum(axis=1, keepdims=True).clip(1e-9)
    return np.array([point.pt for point in found], np.float32), np.sqrt(shares).astype(np.float32)


def _corners(grey: Frames, taken: Points) -> Points:
    """Returns new corners to track, away from the tracked points `taken`."""
    free = np.full(grey.shape, 255, np.uint8)
    for x, y in taken:
        cv2.circle(free, (int(x), int(y)), APART, 0, -1)
    count = MOST - len(taken)
    found = cv2.goodFeaturesToTrack(grey, count, 0.01, APART, mask=free, blockSize=5) if count > 0 else None
    return np.zeros((0, 2), np.float32) if found is None else np.asarray(found[:, 0], dtype=np.float32)
