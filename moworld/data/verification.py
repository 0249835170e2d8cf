"""Verifies known cameras by the epipolar geometry of features matched in the frames (paper 2, stage 2)."""

from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from moworld.camera.cameras import Cameras
from moworld.data.clips import Clip
from moworld.data.duplicates import frame_hash
from moworld.data.settings import GeometrySettings
from moworld.video import iterate_frames

Frames = NDArray[np.uint8]
MIN_MATCHES = 12
LOOK_EVERY_SECONDS = 0.5
SAME_PLACE_BITS = 12  # of 64: largest hash difference of frames that may show one place
SURE_MATCHES = 100  # smallest number of inliers: fewer may be one texture at two places
MOVED = 0.1  # of the width: largest median displacement, as such frames were taken from nearly the same place
LOOPS = 4


def verify_cameras(clip: Clip, root: Path, cameras: Cameras, settings: GeometrySettings) -> tuple[float | None, float | None]:
    """Returns the median over frame pairs of the median epipolar distance (pixels), and the share of matches within 3 pixels.

    (None, None) if fewer than two pairs have enough matches.
    """
    starts = np.linspace(0, clip.num_frames - 1 - settings.gap, settings.pairs).astype(int)
    keep = {int(i) for start in starts for i in (start, start + settings.gap)}
    frames = {i: frame for i, frame in enumerate(iterate_frames(root / clip.video)) if i in keep}
    distances = []
    for start in starts:
        matched = match_features(frames[int(start)], frames[int(start + settings.gap)], settings.features)
        if matched is not None:
            distances.append(camera_distances(*matched, cameras, int(start), int(start + settings.gap), (clip.height, clip.width)))
    if len(distances) < 2:
        return None, None
    return round(float(np.median([np.median(d) for d in distances])), 4), round(float(np.mean(np.concatenate(distances) < 3)), 4)


def match_features(first: Frames, second: Frames, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Returns SIFT matches of two frames that agree with one two-view geometry: two (n, 2) arrays of pixels; None below MIN_MATCHES."""
    # without precise upscaling OpenCV's features are a quarter of a pixel too far right and down
    sift = cv2.SIFT.create(nfeatures=count, contrastThreshold=0.02, enable_precise_upscale=True)
    (points, described), (other_points, other_described) = (
        sift.detectAndCompute(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), None) for frame in (first, second)
    )
    if described is None or other_described is None:
        return None
    matches = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(described, other_described)
    if len(matches) < MIN_MATCHES:
        return None
    one = np.array([points[match.queryIdx].pt for match in matches])
    other = np.array([other_points[match.trainIdx].pt for match in matches])
    agree = two_view_inliers(one, other)
    return (one[agree], other[agree]) if agree.sum() >= MIN_MATCHES else None


def two_view_inliers(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Returns which matches (n, 2) agree with the best homography or fundamental matrix fitted to them, (n,) bool.

    In tiled textures half of the matches are wrong, and those must not count against the cameras. The fit does not use the cameras.
    """
    fits = [np.zeros(len(first), bool)]
    for fit in (
        lambda: cv2.findHomography(first, second, cv2.USAC_MAGSAC, 2.0),  # for turns on the spot, and walls
        lambda: cv2.findFundamentalMat(first, second, cv2.USAC_MAGSAC, 1.0, 0.999, 2000),
    ):
        # OpenCV 5 fails an assertion, instead of returning an empty mask, for matches that no model fits and that share a few points.
        with suppress(cv2.error):
            mask = fit()[1]
            fits.append(np.zeros(len(first), bool) if mask is None else mask.ravel().astype(bool))
    return max(fits, key=lambda inliers: int(inliers.sum()))


def camera_distances(
    first: NDArray[np.float64], second: NDArray[np.float64], cameras: Cameras, i: int, j: int, size_hw: tuple[int, int]
) -> NDArray[np.float64]:
    """Returns the distance in pixels of each match (n,) to its epipolar line; for a pure rotation, to the predicted point.

    first, second: (n, 2) pixels as OpenCV counts them: 0 at the first pixel's centre, which is at 0.5 for `Cameras`
    """
    first, second = first + 0.5, second + 0.5
    scale = np.array([size_hw[1], size_hw[0], size_hw[1], size_hw[0]])
    (fx, fy, cx, cy), (gx, gy, dx, dy) = cameras.intrinsics[i] * scale, cameras.intrinsics[j] * scale
    k_i, k_j = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), np.array([[gx, 0, dx], [0, gy, dy], [0, 0, 1]])
    relative = cameras.w2c[j] @ cameras.c2w[i]
    rotation, translation = relative[:3, :3], relative[:3, 3]
    homogeneous = np.column_stack([first, np.ones(len(first))])
    infinite = homogeneous @ (k_j @ rotation @ np.linalg.inv(k_i)).T
    path = np.linalg.norm(np.diff(cameras.c2w[:, :3, 3], axis=0), axis=1)
    if np.linalg.norm(translation) < 0.25 * max(float(np.median(path[path > 0])) if (path > 0).any() else 0.0, 1e-9):
        return np.linalg.norm(infinite[:, :2] / infinite[:, 2:] - second, axis=1)
    lines = np.cross(k_j @ translation, infinite)
    target = np.column_stack([second, np.ones(len(second))])
    return np.abs((lines * target).sum(1)) / np.linalg.norm(lines[:, :2], axis=1).clip(1e-9)


def loop_error(clip: Clip, root: Path, cameras: Cameras, settings: GeometrySettings) -> float | None:
    """Returns the median distance in pixels of matches between distant frames that show the same place; None if no place is revisited.

    Places are found by image similarity, not by the cameras, because a trajectory that drifted does not show the revisit.
    """
    step = max(1, round(clip.fps * LOOK_EVERY_SECONDS))
    times = list(range(0, clip.num_frames, step))
    frames = {i: frame for i, frame in enumerate(iterate_frames(root / clip.video)) if i % step == 0}
    hashes = np.stack([frame_hash(frames[time]) for time in times])
    bits = np.unpackbits(hashes[:, None] ^ hashes[None], axis=2).sum(axis=2)
    apart = max(2, len(times) // 4)
    pairs = [(int(bits[a, b]), a, b) for a in range(len(times)) for b in range(a + apart, len(times)) if bits[a, b] <= SAME_PLACE_BITS]
    errors = []
    for _, a, b in sorted(pairs)[:LOOPS]:
        matched = match_features(frames[times[a]], frames[times[b]], settings.features)
        if matched is None or len(matched[0]) < SURE_MATCHES:
            continue
        if np.median(np.linalg.norm(matched[1] - matched[0], axis=1)) <= MOVED * clip.width:
            errors.append(np.median(camera_distances(*matched, cameras, times[a], times[b], (clip.height, clip.width))))
    return round(float(np.median(errors)), 4) if errors else None
