"""Known cameras are verified, not believed: epipolar geometry of features matched in the frames (paper 2, stage 2)."""

from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moworld.camera.cameras import Cameras
from moworld.data.clips import Clip
from moworld.data.duplicates import frame_hash
from moworld.settings import Settings
from moworld.video import iterate_frames

Frames = NDArray[np.uint8]
MIN_MATCHES = 12
LOOK_EVERY_SECONDS = 0.5
SAME_PLACE_BITS = 12  # of 64: frames that may show one place
SURE_MATCHES = 100  # in them that agree with each other: fewer may be one texture in two places
MOVED = 0.1  # of the width, at most, between them: frames so alike were taken from nearly the same place
LOOPS = 4


class GeometrySettings(Settings):
    """`pairs` of frames `gap` apart are matched to verify a clip; structure from motion takes every `sfm_every`th frame, in windows,
    and follows points through all of them.

    sfm_window, sfm_overlap: frames of a window, and how many of them the next one shares
    sfm_features: SIFT features a frame
    """

    pairs: int = 8
    gap: int = 3
    features: int = 600
    sfm_every: int = 3
    sfm_features: int = 2000
    sfm_window: int = 160
    sfm_overlap: int = 20


def verify_cameras(clip: Clip, root: Path, cameras: Cameras, settings: GeometrySettings) -> tuple[float | None, float | None]:
    """Median over pairs of the median distance (pixels) between matches and where the cameras put them, and the share within 3 pixels.

    (None, None) when fewer than two pairs have enough matches to say anything.
    """
    wanted = np.linspace(0, clip.num_frames - 1 - settings.gap, settings.pairs).astype(int)
    keep = {int(i) for start in wanted for i in (start, start + settings.gap)}
    frames = {i: frame for i, frame in enumerate(iterate_frames(root / clip.video)) if i in keep}
    distances = []
    for start in wanted:
        matched = match_features(frames[int(start)], frames[int(start + settings.gap)], settings.features)
        if matched is not None:
            distances.append(camera_distances(*matched, cameras, int(start), int(start + settings.gap), (clip.height, clip.width)))
    if len(distances) < 2:
        return None, None
    return round(float(np.median([np.median(d) for d in distances])), 4), round(float(np.mean(np.concatenate(distances) < 3)), 4)


def match_features(first: Frames, second: Frames, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """SIFT matches of two frames that agree with one two-view geometry: two (n, 2) arrays of pixels, or None below MIN_MATCHES."""
    import cv2

    sift = cv2.SIFT.create(nfeatures=count, contrastThreshold=0.02)
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
    """Which matches (n, 2) agree with the best homography or fundamental matrix that they themselves suggest, (n,).

    Tiled textures match half of their features wrongly; those say nothing of the cameras. The fit knows no cameras, so it favours none.
    """
    import cv2

    fits = [np.zeros(len(first), bool)]
    for fit in (
        lambda: cv2.findHomography(first, second, cv2.USAC_MAGSAC, 2.0),  # turns on the spot, and walls
        lambda: cv2.findFundamentalMat(first, second, cv2.USAC_MAGSAC, 1.0, 0.999, 2000),
    ):
        # Matches that no model fits, of which most fall on a few points, end in a failed assertion inside OpenCV 5, not in an empty mask.
        with suppress(cv2.error):
            mask = fit()[1]
            fits.append(np.zeros(len(first), bool) if mask is None else mask.ravel().astype(bool))
    return max(fits, key=lambda inliers: int(inliers.sum()))


def camera_distances(
    first: NDArray[np.float64], second: NDArray[np.float64], cameras: Cameras, i: int, j: int, size_hw: tuple[int, int]
) -> NDArray[np.float64]:
    """Distance in pixels of each match (n,) to its epipolar line; under rotation alone, to the point that the rotation predicts."""
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
    x, y, z = k_j @ translation
    lines = infinite @ np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]).T
    target = np.column_stack([second, np.ones(len(second))])
    return np.abs((lines * target).sum(1)) / np.linalg.norm(lines[:, :2], axis=1).clip(1e-9)


def loop_error(clip: Clip, root: Path, cameras: Cameras, settings: GeometrySettings) -> float | None:
    """Median distance in pixels of matches between frames far apart in time that show one place; None where no place is seen again.

    The places are found by the pictures, not by the cameras: a trajectory that has drifted does not know that it came back.
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
        if matched is not None and len(matched[0]) >= SURE_MATCHES and _shift(*matched) <= MOVED * clip.width:
            errors.append(np.median(camera_distances(*matched, cameras, times[a], times[b], (clip.height, clip.width))))
    return round(float(np.median(errors)), 4) if errors else None


def _shift(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Median way of matches (n, 2), in their unit."""
    return float(np.median(np.linalg.norm(second - first, axis=1)))
