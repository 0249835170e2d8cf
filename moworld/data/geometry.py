"""Geometry (paper 2, stage 2): known cameras are verified against the pictures, missing ones recovered; jumps split a clip, measures judge it."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moworld.camera.cameras import Cameras, translation_scale
from moworld.camera.formats import read_cameras, write_realestate10k
from moworld.data.clips import Clip
from moworld.data.following import followed_shares
from moworld.data.points import Colours, Points, with_points
from moworld.data.structure import Backend, Structure, colmap
from moworld.data.trajectory import measure_trajectory, stretches
from moworld.data.verification import GeometrySettings, loop_error, verify_cameras
from moworld.files import sha256_file
from moworld.video import iterate_frames, read_frames, write_video

__all__ = ["GeometrySettings", "JumpLimits", "complete_clip"]

Found = tuple[Points, Colours]


@dataclass(frozen=True)
class JumpLimits:
    """A step beyond either is a jump: degrees between neighbouring frames, and multiples of the median step."""

    rotation_degrees: float
    translation: float


def complete_clip(clip: Clip, folder: Path, settings: GeometrySettings, limits: JumpLimits, backend: Backend = colmap) -> list[Clip]:
    """A clip with cameras, its measures and its point cloud; several where its trajectory jumps.

    New files are written into `folder`. Fields stay None where there is nothing to say; a camera that was not found stays None.
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
    measures: dict[str, Any] = measure_trajectory(cameras)
    return replace(
        with_points(clip, folder, cloud),
        translation_scale=clip.translation_scale or translation_scale(cameras.w2c),
        epipolar_error_px=error,
        epipolar_inliers=inliers,
        loop_error_px=loop_error(clip, folder, cameras, settings),
        **measures,
    )


def recover_cameras(clip: Clip, folder: Path, settings: GeometrySettings, backend: Backend = colmap) -> tuple[Clip, Found | None]:
    """Structure from motion; the clip is cut to its longest run of frames whose cameras were found.

    `registered_share` is the share of the clip's frames whose cameras were found in that run. Where nothing was found it is 0 and the camera stays None.
    What is measured here is of the whole reconstruction: of one that went wrong, a part between two jumps may look right.
    returns: the clip, and the points and colours that were found with its cameras
    """
    with tempfile.TemporaryDirectory() as scratch:
        _write_pictures(clip, folder, Path(scratch) / "images")
        structures = backend(Path(scratch) / "images", Path(scratch), settings)
    times = longest_run(sorted(structures[0].poses), 2 * settings.sfm_every) if structures else []
    if len(times) < 3:
        return replace(clip, registered_share=0.0), None
    found, first, last, tried = structures[0], times[0], times[-1], clip.num_frames
    dense = _dense(found, times, (clip.height, clip.width))
    if len(dense) < clip.num_frames:
        clip = _cut_video(clip, folder, first, last + 1, clip.video)
    camera = f"cameras/{clip.clip_id}.txt"
    write_realestate10k(folder / camera, dense, fps=clip.fps)
    share, lowest = followed_shares(clip, folder, dense, settings.gap)
    recovered = replace(
        clip,
        camera=camera,
        camera_sha256=sha256_file(folder / camera),
        camera_origin="sfm",
        registered_share=round(len(times) / tried, 4),
        reprojection_error_px=round(float(found.errors.mean()), 4),
        track_length=round(float(found.track_lengths.mean()), 4),
        parallax_degrees=round(float(np.median(found.parallax)), 4),
        lens_error=round(found.lens_error, 5),
        followed_share=share,
        followed_share_lowest=lowest,
    )
    return recovered, (found.points, found.colours)


def _dense(found: Structure, times: list[int], size_hw: tuple[int, int]) -> Cameras:
    """Cameras of every frame between those that were found."""
    lens = found.intrinsics / [size_hw[1], size_hw[0], size_hw[1], size_hw[0]]
    sparse = Cameras(np.tile(lens, (len(times), 1)), np.stack([found.poses[time] for time in times]))
    return sparse.resample(np.interp(np.arange(times[0], times[-1] + 1), times, np.arange(len(times))))


def longest_run(times: list[int], largest_gap: int) -> list[int]:
    """The longest stretch of ascending frame numbers whose neighbours are at most `largest_gap` apart; the first of equals."""
    runs: list[list[int]] = []
    for time in times:
        if not runs or time - runs[-1][-1] > largest_gap:
            runs.append([])
        runs[-1].append(time)
    return max(runs, key=len, default=[])


def _cut(clip: Clip, folder: Path, cameras: Cameras, start: int, stop: int, name: str) -> Clip:
    """Frames start to stop of a clip as a clip of their own, with every file that goes by frames."""
    part = _cut_video(replace(clip, clip_id=name), folder, start, stop, f"videos/{name}.mp4")
    camera = f"cameras/{name}.txt"
    write_realestate10k(folder / camera, cameras.slice(start, stop), fps=clip.fps)
    keep: dict[str, Any] = {"depth": None, "actions": None}
    cutters: dict[str, Callable[[Path, Path, int, int], None]] = {"depth": _cut_depth, "actions": _cut_actions}
    for kind, cut in cutters.items():
        source = getattr(clip, kind)
        if source is not None:
            keep[kind] = f"{Path(source).parent}/{name}{Path(source).suffix}"
            cut(folder / source, folder / str(keep[kind]), start, stop)
    return replace(part, camera=camera, camera_sha256=sha256_file(folder / camera), **keep)


def _cut_video(clip: Clip, folder: Path, start: int, stop: int, target: str) -> Clip:
    frames = read_frames(folder / clip.video, start, stop)
    write_video(folder / target, frames, clip.fps)
    return replace(clip, video=target, num_frames=stop - start, video_sha256=sha256_file(folder / target))


def _cut_depth(source: Path, target: Path, start: int, stop: int) -> None:
    with np.load(source) as archive:
        np.savez_compressed(target, depth=archive["depth"][start:stop])


def _cut_actions(source: Path, target: Path, start: int, stop: int) -> None:
    from moworld.files import read_json, write_json

    write_json(target, read_json(source)[start : stop - 1])  # one lies between two frames


def _write_pictures(clip: Clip, folder: Path, images: Path) -> None:
    """Write every frame as a picture NUMBER.png."""
    import cv2

    images.mkdir()
    for index, frame in enumerate(iterate_frames(folder / clip.video)):
        cv2.imwrite(str(images / f"{index:06d}.png"), frame[..., ::-1])
