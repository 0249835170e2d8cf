"""Camera geometry (paper 2, stage 2): known cameras are verified against the images, missing ones recovered, and clips split at jumps.

Recovered cameras are also checked with tracked corners that no two-view geometry filtered. Matches filtered by one agree with cameras
that made the same error: a sky that is not at infinity, or a wrong majority motion.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from moworld.camera.cameras import Cameras, translation_scale
from moworld.camera.formats import read_cameras
from moworld.camera.lens import Rectifier, rectified
from moworld.camera.se3 import rotation_angle_degrees, rotation_steps_degrees
from moworld.data.clips import Clip, with_cameras
from moworld.data.depth import clip_depth
from moworld.data.points import Colours, Points, with_points
from moworld.data.settings import GeometrySettings
from moworld.data.tracks import followed
from moworld.data.verdict import judge_cameras
from moworld.data.verification import camera_distances, loop_error, verify_cameras
from moworld.files import read_json, sha256_file, write_json
from moworld.video import iterate_frames, read_frames, write_video

if TYPE_CHECKING:
    from moworld.data.structure import Backend, Structure

STANDING = 0.01  # of the largest step: smaller steps are jitter of a static camera
FOLLOWED_PIXELS = 3.0  # largest error of a corner that agrees with the cameras
FEWEST_CORNERS = 50  # smallest number of corners of a usable frame pair
Frames = NDArray[np.uint8]
Found = tuple[Points, Colours]


@dataclass(frozen=True)
class JumpLimits:
    """Largest steps that are no jump: degrees between consecutive frames, and multiples of the median translation step."""

    rotation_degrees: float
    translation: float


def complete_clip(clip: Clip, folder: Path, settings: GeometrySettings, limits: JumpLimits, backend: "Backend | None" = None) -> list[Clip]:
    """Returns a clip with cameras, measures and point cloud; several clips if its trajectory jumps.

    New files are written into `folder`. Measures that cannot be computed, and a camera that was not found, stay None.
    """
    cloud = None
    if clip.camera is None:
        clip, cloud = recover_cameras(clip, folder, settings, backend)
        if clip.camera is None:
            return [clip]
    cameras = read_cameras(folder / clip.camera)
    parts = stretches(cameras, limits.rotation_degrees, limits.translation)
    if len(parts) == 1:
        return [_measured(clip, folder, cameras, settings, cloud)]
    made = []
    for number, (start, stop) in enumerate(parts):
        part = _cut(clip, folder, cameras, start, stop, f"{clip.clip_id}-{number}")
        if clip.followed_share_lowest is not None:
            part = replace(part, followed_share_lowest=followed_shares(part, folder, cameras.slice(start, stop), settings.gap)[1])
        made.append(_measured(part, folder, cameras.slice(start, stop), settings, None) if stop - start > settings.gap + 1 else part)
    for path in {clip.video, clip.camera}:
        (folder / str(path)).unlink()
    return made


def _measured(clip: Clip, folder: Path, cameras: Cameras, settings: GeometrySettings, cloud: Found | None) -> Clip:
    error, inliers = verify_cameras(clip, folder, cameras, settings)
    verdict = judge_cameras(clip, folder, cameras)
    measures: dict[str, Any] = measure_trajectory(cameras)
    return replace(
        with_points(clip, folder, cloud),
        translation_scale=clip.translation_scale or translation_scale(cameras.w2c),
        epipolar_error_px=error,
        epipolar_inliers=inliers,
        window_error_px=verdict.error_px,
        verified_share=verdict.tested,
        camera_faults=int(verdict.mistake is not None),
        camera_mistake=verdict.mistake,
        camera_undecided=verdict.undecided,
        lens_ratio=verdict.lens,
        lens_origin=clip.lens_origin or "given",
        loop_error_px=loop_error(clip, folder, cameras, settings),
        **measures,
    )


def recover_cameras(clip: Clip, folder: Path, settings: GeometrySettings, backend: "Backend | None" = None) -> tuple[Clip, Found | None]:
    """Recovers cameras by structure from motion and cuts the clip to its longest run of frames with cameras.

    `registered_share` is that run's share of the clip's frames. If nothing is found it is 0 and the camera stays None.
    Measures describe the whole reconstruction: after a failure, a part between two jumps may look right.
    returns: the clip, and the points and colours found with its cameras
    """
    from moworld.data.structure import colmap  # there is no pycolmap for every platform

    with tempfile.TemporaryDirectory() as scratch:
        _write_images(clip, folder, Path(scratch) / "images")
        structures = (backend or colmap)(Path(scratch) / "images", Path(scratch), settings)
    tried = clip.num_frames
    if structures and not structures[0].ordered and len(structures[0].poses) >= 3:
        clip, structures = _photographs(clip, folder, structures[0])
    times = longest_run(sorted(structures[0].poses), 2 * settings.sfm_every) if structures else []
    if len(times) < 3:
        return replace(clip, registered_share=0.0), None
    found, first, last = structures[0], times[0], times[-1]
    dense = _dense(found, times, (clip.height, clip.width))
    if len(dense) < clip.num_frames:
        clip = _cut_video(clip, folder, first, last + 1, clip.video)
    share, lowest = followed_shares(clip, folder, dense, settings.gap)
    recovered = with_cameras(
        clip,
        folder,
        dense,
        camera_origin="sfm",
        registered_share=round(len(times) / tried, 4),
        reprojection_error_px=round(float(found.errors.mean()), 4),
        track_length=round(float(found.track_lengths.mean()), 4),
        parallax_degrees=round(float(np.median(found.parallax)), 4),
        lens_error=round(found.lens_error, 5),
        lens_origin=found.lens_origin,
        motion_error=round(found.motion_error, 5),
        followed_share=share,
        followed_share_lowest=lowest,
    )
    return recovered, (found.points, found.colours)


def _photographs(clip: Clip, folder: Path, found: "Structure") -> tuple[Clip, list["Structure"]]:
    """Returns a clip of the photographs whose cameras were found, without lens distortion, and the structure with their new numbers."""
    numbers = sorted(found.poses)
    frames = (frame for number, frame in enumerate(iterate_frames(folder / clip.video)) if number in found.poses)
    write_video(folder / clip.video, list(rectified(frames, found.distortion)), clip.fps)
    clip = replace(clip, num_frames=len(numbers), video_sha256=sha256_file(folder / clip.video))
    intrinsics = found.intrinsics
    if found.distortion is not None:
        size_hw = clip.height, clip.width
        intrinsics = Rectifier(found.distortion, size_hw).intrinsics * [clip.width, clip.height, clip.width, clip.height]
    poses = {index: found.poses[number] for index, number in enumerate(numbers)}
    return clip, [replace(found, poses=poses, intrinsics=intrinsics, distortion=None)]


def _dense(found: "Structure", times: list[int], size_hw: tuple[int, int]) -> Cameras:
    """Returns cameras of every frame between the found ones, interpolated."""
    lens = found.intrinsics / [size_hw[1], size_hw[0], size_hw[1], size_hw[0]]
    sparse = Cameras(np.tile(lens, (len(times), 1)), np.stack([found.poses[time] for time in times]))
    return sparse.resample(np.interp(np.arange(times[0], times[-1] + 1), times, np.arange(len(times))))


def longest_run(times: list[int], largest_gap: int) -> list[int]:
    """Returns the longest run of ascending frame numbers with gaps of at most `largest_gap`; the first of equally long ones."""
    runs = np.split(np.array(times, int), np.flatnonzero(np.diff(times) > largest_gap) + 1)
    return max(runs, key=len).tolist()


def _cut(clip: Clip, folder: Path, cameras: Cameras, start: int, stop: int, name: str) -> Clip:
    """Returns frames start to stop of a clip as a new clip, with all per-frame files."""
    part = _cut_video(replace(clip, clip_id=name), folder, start, stop, f"videos/{name}.mp4")
    part = with_cameras(part, folder, cameras.slice(start, stop))
    if clip.depth is not None:
        part = replace(part, depth=f"depth/{name}.npz")
        np.savez_compressed(folder / str(part.depth), depth=clip_depth(clip, folder)[start:stop])
    if clip.actions is not None:
        part = replace(part, actions=f"actions/{name}.json")
        write_json(folder / str(part.actions), read_json(folder / clip.actions)[start : stop - 1])  # one action per pair of frames
    return part


def _cut_video(clip: Clip, folder: Path, start: int, stop: int, target: str) -> Clip:
    write_video(folder / target, read_frames(folder / clip.video, start, stop), clip.fps)
    return replace(clip, video=target, num_frames=stop - start, video_sha256=sha256_file(folder / target))


def _write_images(clip: Clip, folder: Path, images: Path) -> None:
    """Writes every frame as NUMBER.png."""
    images.mkdir()
    for index, frame in enumerate(iterate_frames(folder / clip.video)):
        cv2.imwrite(str(images / f"{index:06d}.png"), frame[..., ::-1])


def translation_steps(cameras: Cameras) -> NDArray[np.float64]:
    """Returns (T - 1,) distances of consecutive centres in multiples of the median step of moving frames; zeros if nothing moves."""
    steps = np.linalg.norm(np.diff(cameras.c2w[:, :3, 3], axis=0), axis=1)
    moving = steps[steps > STANDING * max(float(steps.max(initial=0.0)), 1e-12)]
    return np.asarray(steps / np.median(moving) if len(moving) else np.zeros_like(steps))


def measure_trajectory(cameras: Cameras) -> dict[str, float]:
    """Returns measures of T >= 2 cameras: largest steps, jitter in degrees (mean change of consecutive turns), path length in native units."""
    relative = np.swapaxes(cameras.w2c[:-1, :3, :3], -1, -2)
    turns = cameras.w2c[1:, :3, :3] @ relative
    changes = rotation_angle_degrees(turns[1:] @ np.swapaxes(turns[:-1], -1, -2)) if len(turns) > 1 else np.zeros(1)
    return {
        "max_rotation_step_degrees": round(float(rotation_steps_degrees(cameras.w2c).max()), 4),
        "max_translation_step": round(float(translation_steps(cameras).max()), 4),
        "jitter_degrees": round(float(changes.mean()), 4),
        "path_length": round(float(np.linalg.norm(np.diff(cameras.c2w[:, :3, 3], axis=0), axis=1).sum()), 4),
    }


def stretches(cameras: Cameras, max_rotation_degrees: float, max_translation: float) -> list[tuple[int, int]]:
    """Returns runs of frames [start, stop) between jumps: steps above the given rotation (degrees) or translation (median steps)."""
    jumps = (rotation_steps_degrees(cameras.w2c) > max_rotation_degrees) | (translation_steps(cameras) > max_translation)
    edges = [0, *(np.flatnonzero(jumps) + 1).tolist(), len(cameras)]
    return list(pairwise(edges))


def followed_shares(clip: Clip, root: Path, cameras: Cameras, gap: int) -> tuple[float | None, float | None]:
    """Returns the share of tracked corners within 3 pixels of the cameras' prediction: its mean over frame pairs, and the lowest pair's.

    cameras: one per frame of the clip
    gap:     frames between a pair's first and last; the next pair starts where one ends
    returns: (None, None) if fewer than two pairs have enough corners
    """
    shares = []
    for start, frames in _stretches(root / clip.video, gap):
        first, last = (points.astype(np.float64) for points in followed(frames))
        if len(first) >= FEWEST_CORNERS:
            distances = camera_distances(first, last, cameras, start, start + gap, (clip.height, clip.width))
            shares.append(float((distances < FOLLOWED_PIXELS).mean()))
    return (round(float(np.mean(shares)), 4), round(min(shares), 4)) if len(shares) > 1 else (None, None)


def _stretches(video: Path, gap: int) -> Iterator[tuple[int, list[Frames]]]:
    """Yields stretches of gap + 1 greyscale frames (H, W) with the number of the first; consecutive stretches share one frame."""
    frames: list[Frames] = []
    for number, frame in enumerate(iterate_frames(video)):
        frames.append(np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), dtype=np.uint8))
        if len(frames) > gap:
            yield number - gap, frames
            frames = frames[-1:]
