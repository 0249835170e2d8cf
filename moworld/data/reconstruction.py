"""Geometry (paper 2, stage 2): known cameras are verified against the pictures, missing ones recovered by structure from motion."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moworld.camera.cameras import Cameras, translation_scale
from moworld.camera.formats import read_cameras, write_realestate10k
from moworld.camera.se3 import rotation_steps_degrees
from moworld.data.clips import Clip, iterate_frames, read_frames, write_video
from moworld.files import Pathlike, sha256_file
from moworld.settings import Settings

Frames = NDArray[np.uint8]
MIN_MATCHES = 12


class GeometrySettings(Settings):
    """`pairs` of frames `gap` apart are matched to verify a clip; structure from motion takes every `sfm_every`th frame."""

    pairs: int = 8
    gap: int = 3
    features: int = 600
    sfm_every: int = 3


def complete_clip(clip: Clip, folder: Pathlike, settings: GeometrySettings) -> Clip:
    """The clip with cameras (recovered ones are written into `folder`) and its geometric measures; fields stay None where there is nothing to say."""
    root = Path(folder)
    if clip.camera is None:
        clip = recover_cameras(clip, root, settings)
        if clip.camera is None:
            return clip
    cameras = read_cameras(root / clip.camera)
    error, inliers = verify_cameras(clip, root, cameras, settings)
    centres = cameras.c2w[:, :3, 3]
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    moving = steps[steps > 0.01 * max(steps.max(), 1e-12)]  # less is a camera that stands still, and jitter of its recovered pose
    return replace(
        clip,
        translation_scale=clip.translation_scale or translation_scale(cameras.w2c),
        epipolar_error_px=error,
        epipolar_inliers=inliers,
        max_rotation_step_degrees=round(float(rotation_steps_degrees(cameras.w2c).max()), 4),
        max_translation_step=round(float(steps.max() / np.median(moving)), 4) if len(moving) else 0.0,
        path_length=round(float(steps.sum()), 4),
    )


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

    fits = (
        cv2.findHomography(first, second, cv2.USAC_MAGSAC, 2.0)[1],  # turns on the spot, and walls
        cv2.findFundamentalMat(first, second, cv2.USAC_MAGSAC, 1.0, 0.999, 2000)[1],
    )
    return max(
        (np.zeros(len(first), bool) if fit is None else fit.ravel().astype(bool) for fit in fits), key=lambda inliers: int(inliers.sum())
    )


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


def recover_cameras(clip: Clip, root: Path, settings: GeometrySettings) -> Clip:
    """Structure from motion over every nth frame; the clip is cut to its longest run of frames whose cameras were found.

    `registered_share` is that run's share of the frames that were tried. Where nothing was found it is 0 and the camera stays None.
    """
    with tempfile.TemporaryDirectory() as scratch:
        tried = _write_every(clip, root, Path(scratch) / "images", settings.sfm_every)
        found = _registered(Path(scratch) / "images", Path(scratch))
    times = longest_run(sorted(found), 2 * settings.sfm_every)
    if len(times) < 3:
        return replace(clip, registered_share=0.0)
    first, last, share = times[0], times[-1], round(len(times) / len(tried), 4)
    sparse = Cameras(*(np.stack(part) for part in zip(*(found[time] for time in times), strict=True)))
    sparse = replace(sparse, intrinsics=sparse.intrinsics / [clip.width, clip.height, clip.width, clip.height])
    dense = sparse.resample(np.interp(np.arange(first, last + 1), times, np.arange(len(times))))
    if len(dense) < clip.num_frames:
        frames = read_frames(root / clip.video, first, last + 1)
        write_video(root / clip.video, frames, clip.fps)
        clip = replace(clip, num_frames=len(dense), video_sha256=sha256_file(root / clip.video))
    camera = f"cameras/{clip.clip_id}.txt"
    write_realestate10k(root / camera, dense, fps=clip.fps)
    return replace(clip, camera=camera, camera_sha256=sha256_file(root / camera), camera_origin="sfm", registered_share=share)


def longest_run(times: list[int], largest_gap: int) -> list[int]:
    """The longest stretch of ascending frame numbers whose neighbours are at most `largest_gap` apart; the first of equals."""
    runs: list[list[int]] = []
    for time in times:
        if not runs or time - runs[-1][-1] > largest_gap:
            runs.append([])
        runs[-1].append(time)
    return max(runs, key=len, default=[])


def _write_every(clip: Clip, root: Path, images: Path, step: int) -> list[int]:
    """Write every nth frame and the last one as pictures; returns their numbers."""
    import cv2

    images.mkdir()
    wanted = [index for index in range(clip.num_frames) if index % step == 0 or index == clip.num_frames - 1]
    for index, frame in enumerate(iterate_frames(root / clip.video)):
        if index in wanted:
            cv2.imwrite(str(images / f"{index:06d}.png"), frame[..., ::-1])
    return wanted


def _registered(images: Path, scratch: Path) -> dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Frame number -> (fx, fy, cx, cy in pixels), w2c (4, 4), of the largest model that pycolmap finds. One thread: the same each time."""
    import pycolmap

    pycolmap.logging.minloglevel = 3
    pycolmap.set_random_seed(0)
    database, options = scratch / "database.db", pycolmap.FeatureExtractionOptions()
    options.use_gpu, options.num_threads, options.sift.max_num_features = False, 1, 1500
    pycolmap.extract_features(database, images, camera_mode=pycolmap.CameraMode.SINGLE, extraction_options=options)
    matching, mapping = pycolmap.FeatureMatchingOptions(), pycolmap.IncrementalPipelineOptions()
    matching.use_gpu, matching.num_threads, mapping.num_threads, mapping.min_model_size = False, 1, 1, 3
    pycolmap.match_sequential(database, matching_options=matching)
    models = pycolmap.incremental_mapping(database, images, scratch / "models", options=mapping)
    if not models:
        return {}
    best = max(models.values(), key=lambda model: model.num_reg_images())
    found = {}
    for image in best.images.values():
        if image.has_pose:
            k = best.cameras[image.camera_id].calibration_matrix()
            w2c = np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]])
            found[int(Path(image.name).stem)] = (np.array([k[0, 0], k[1, 1], k[0, 2], k[1, 2]]), w2c)
    return found
