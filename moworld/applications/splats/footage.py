"""Videos with cameras as a fit needs them: clips of a clips folder, a video beside a camera file, and rollouts of a model.

Cameras are relative to the first frame and scaled so that they spread by a root mean square of 2 (scene units); `units` converts back.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moworld.camera import Cameras, read_cameras, translation_scale
from moworld.camera.cameras import cover_crop, resize_to_cover
from moworld.camera.controls import controls_to_c2w, parse_controls
from moworld.data.clips import Clip, read_manifest
from moworld.data.frames import model_depth
from moworld.data.points import read_ply
from moworld.errors import InputError
from moworld.inference.session import WorldSession, stream
from moworld.model.world import WorldModel
from moworld.video import iterate_frames, video_info

Frames = NDArray[np.uint8]
Cloud = tuple[NDArray[np.float32], Frames]  # points (N, 3), colours (N, 3)
LEAST_FRAMES = 4
CAMERAS = (".txt", ".npz", ".json")  # of the camera file beside a video


@dataclass(frozen=True, eq=False)
class Footage:
    """Frames (T, H, W, 3) uint8 with cameras in scene units; depth (T', h, w) along the view axis or a cloud, in scene units, if known.

    units: of the camera file per scene unit; unit_name says which
    """

    name: str
    frames: Frames
    cameras: Cameras
    units: float
    unit_name: str
    depth: NDArray[np.float32] | None = None
    cloud: Cloud | None = None

    def chosen(self, indices: NDArray[np.int64]) -> "Footage":
        """Returns the footage of some frames, with the same units and the same first camera."""
        cameras = Cameras(self.cameras.intrinsics[indices], self.cameras.w2c[indices])
        depth = None if self.depth is None else self.depth[indices]
        return Footage(self.name, self.frames[indices], cameras, self.units, self.unit_name, depth, self.cloud)


def footage_of(
    name: str, frames: Frames, cameras: Cameras, unit_name: str, depth: NDArray[np.floating] | None = None, cloud: Cloud | None = None
) -> Footage:
    """Returns footage of frames and cameras in any world, with depth in the cameras' units and a cloud in their world.

    Raises InputError for fewer than LEAST_FRAMES frames, another number of cameras, and cameras that do not move.
    """
    if len(frames) < LEAST_FRAMES:
        raise InputError(name, "", f"{len(frames)} frames", f"at least {LEAST_FRAMES}", "pass a longer video")
    if len(cameras) != len(frames):
        raise InputError(name, "cameras", f"{len(cameras)} cameras for {len(frames)} frames", "one for each frame", "pass its camera file")
    if float(np.ptp(cameras.c2w[:, :3, 3], axis=0).max()) == 0.0:
        raise InputError(name, "cameras", "a camera that stays at one place", "one that moves", "pass a video that shows a place from two sides")
    units = translation_scale(cameras.w2c)
    if cloud is not None:
        w2c = cameras.w2c[0]
        cloud = (((cloud[0] @ w2c[:3, :3].T + w2c[:3, 3]) / units).astype(np.float32), cloud[1])
    scaled = None if depth is None else (depth / units).astype(np.float32)
    return Footage(name, frames, cameras.relative_to(0).scaled(units), units, unit_name, scaled, cloud)


def fitted_size(height: int, width: int, limit: int) -> tuple[int, int]:
    """Returns the size of a picture scaled down to at most `limit` pixels of height."""
    return (height, width) if height <= limit else (limit, max(1, round(width * limit / height)))


def read_clip(folder: Path, clip_id: str, height: int) -> Footage:
    """Returns a clip of a clips folder, "" for its only or first one. Raises InputError for an unknown clip and one without cameras."""
    clips = {clip.clip_id: clip for clip in read_manifest(folder)}
    if not clips or (clip_id and clip_id not in clips):
        some = ", ".join(list(clips)[:8])
        raise InputError(folder / "manifest.parquet", "clip_id", clip_id or "no clip", f"one of {some}" if some else "a clip", "use --clip")
    clip: Clip = clips[clip_id or next(iter(clips))]
    if clip.camera is None:
        raise InputError(folder / "manifest.parquet", f"camera of {clip.clip_id}", "none", "a camera file", "run complete_geometry first")
    size_hw = fitted_size(clip.height, clip.width, height)
    cloud = None if clip.points is None or clip.depth is not None else read_ply(folder / clip.points)
    depth = model_depth(folder, clip, size_hw, size_hw)
    if depth is not None:
        depth = depth * (clip.translation_scale or 1.0)
    frames, cameras = _frames(folder / clip.video, size_hw), read_cameras(folder / clip.camera)
    cameras = cameras.cropped(*cover_crop((clip.height, clip.width), size_hw))
    if depth is not None and len(depth) < len(frames):  # depth is stored for whole groups of four
        frames, cameras = frames[: len(depth)], cameras.slice(0, len(depth))
    return footage_of(clip.clip_id, frames, cameras, "map units" if clip.source == "game" else "units of the camera file", depth, cloud)


def read_video(path: Path, cameras: Path | None, height: int) -> Footage:
    """Returns a video with the cameras of a file, by default the one of its name beside it. Raises InputError if there is none."""
    beside = next((file for suffix in CAMERAS if (file := path.with_suffix(suffix)).is_file()), None)
    if (source := cameras or beside) is None:
        fix = "pass --cameras FILE, or import the video: moworld data import and the step complete_geometry recover its cameras"
        raise InputError(path, "cameras", "no camera file", f"{path.stem}.txt beside the video", fix)
    info = video_info(path)
    size_hw = fitted_size(info.height, info.width, height)
    known = read_cameras(source, (info.height, info.width)).cropped(*cover_crop((info.height, info.width), size_hw))
    return footage_of(str(path), _frames(path, size_hw), known, "units of the camera file")


def _frames(path: Path, size_hw: tuple[int, int]) -> Frames:
    frames = [resize_to_cover(frame, size_hw) for frame in iterate_frames(path)]
    return np.stack(frames) if frames else np.zeros((0, *size_hw, 3), np.uint8)


def roll_out(world: WorldModel, first: Frames, actions: str, prompt: str, seed: int) -> Footage:
    """Returns the frames that a model generates from a picture under keys, with the cameras that it was given, in model units."""
    config, session = world.config, WorldSession(world)
    keys = parse_controls(actions)
    keys += [frozenset()] * (-len(keys) % session.chunk_frames)
    chunks: Iterable[list[frozenset[str]]] = (keys[start : start + session.chunk_frames] for start in range(0, len(keys), session.chunk_frames))
    frames = list(session.open(first, prompt=prompt, seed=seed))
    for part in stream(session, chunks):
        frames.extend(part)
    c2w = controls_to_c2w(keys, step=config.move_units, degrees=config.yaw_degrees)
    return footage_of("the rollout", np.stack(frames), Cameras.from_c2w(config.intrinsics, c2w), "model units")
