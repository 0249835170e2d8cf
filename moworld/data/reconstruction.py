"""Geometry (paper 2, stage 2): known cameras are verified against the pictures, missing ones recovered by structure from motion."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moworld.camera.cameras import Cameras, translation_scale
from moworld.camera.formats import read_cameras, write_realestate10k
from moworld.camera.se3 import rotation_steps_degrees
from moworld.data.clips import Clip, iterate_frames
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
    min_registered_share: float = 0.6


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
    moving = steps[steps > 1e-6 * max(steps.max(), 1e-12)]
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

    sift = cv2.SIFT_create(nfeatures=count, contrastThreshold=0.02)
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
    return max((np.zeros(len(first), bool) if fit is None else fit.ravel().astype(bool) for fit in fits), key=lambda inliers: int(inliers.sum()))


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
    """Structure from motion over every nth frame (pycolmap, CPU); poses between are interpolated. Without enough of them the camera stays None."""
    import cv2
    import pycolmap

    pycolmap.logging.minloglevel = 3
    times = list(range(0, clip.num_frames, settings.sfm_every))
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch) / "images"
        images.mkdir()
        for i, frame in enumerate(iterate_frames(root / clip.video)):
            if i % settings.sfm_every == 0:
                cv2.imwrite(str(images / f"{i:06d}.png"), frame[..., ::-1])
        database = Path(scratch) / "database.db"
        options = pycolmap.FeatureExtractionOptions()
        options.use_gpu, options.sift.max_num_features = False, 1500
        pycolmap.extract_features(database, images, camera_mode=pycolmap.CameraMode.SINGLE, extraction_options=options)
        matching = pycolmap.FeatureMatchingOptions()
        matching.use_gpu = False
        pycolmap.match_sequential(database, matching_options=matching)
        models = pycolmap.incremental_mapping(database, images, Path(scratch) / "models")
        best = max(models.values(), key=lambda model: model.num_reg_images(), default=None)
        if best is None or best.num_reg_images() < 3:
            return replace(clip, registered_share=0.0)
        found = sorted((int(Path(image.name).stem), image) for image in best.images.values() if image.has_pose)
    share = round(len(found) / len(times), 4)
    if share < settings.min_registered_share:
        return replace(clip, registered_share=share)
    calibration = best.cameras[found[0][1].camera_id].calibration_matrix()
    intrinsics = np.array(
        [calibration[0, 0] / clip.width, calibration[1, 1] / clip.height, calibration[0, 2] / clip.width, calibration[1, 2] / clip.height]
    )
    w2c = np.tile(np.eye(4), (len(found), 1, 1))
    w2c[:, :3] = [image.cam_from_world().matrix() for _, image in found]
    index = np.array([frame for frame, _ in found], dtype=float)
    sparse = Cameras(np.tile(intrinsics, (len(found), 1)), w2c)
    frames = np.interp(np.arange(index[0], index[-1] + 1), index, np.arange(len(index)))
    camera = f"cameras/{clip.clip_id}.txt"
    dense = sparse.resample(
        np.concatenate([np.zeros(int(index[0])), frames, np.full(clip.num_frames - 1 - int(index[-1]), len(index) - 1.0)])
    )
    write_realestate10k(root / camera, dense, fps=clip.fps)
    return replace(clip, camera=camera, camera_sha256=sha256_file(root / camera), camera_origin="sfm", registered_share=share)
