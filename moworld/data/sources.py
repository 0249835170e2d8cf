"""Videos from files, folders and URIs as clips (paper 2): cut at shot changes, scaled down, transcoded, with their camera file.

A camera file has the video's stem (.txt, .npz) or stands in a folder of that name (poses.npy). A wrong one is an error; a video
that cannot be read is an error when it was named alone, and listed as rejected when it was found in a folder.
"""

import hashlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from moworld.camera import Cameras, read_cameras, translation_scale
from moworld.camera.formats import write_realestate10k
from moworld.data.clips import Clip, Frames, iterate_frames, video_info, write_manifest, write_video
from moworld.data.game import GameSettings, record_game
from moworld.errors import InputError
from moworld.files import Pathlike, atomic_folder, open_uri, sha256_file, write_json
from moworld.settings import Settings

SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v")
BLACK = 16.0  # brightest cell of a black frame's thumbnail
SPIKE = 3.0  # a cut changes so many times more than the frames before it: a fast turn does not
BINS = 8  # of each colour channel in the histograms that find cuts


class DataSettings(Settings):
    """The profile's section `data`: the size that is trained on, and the two sources of clips."""

    height: int = Field(64, ge=16, multiple_of=16)
    width: int = Field(96, ge=16, multiple_of=16)
    game: GameSettings | None = None
    videos: str | None = None  # a video, a folder or an fsspec URI of either
    min_frames: int = Field(33, ge=5)  # shorter shots are rejected
    max_frames: int = Field(2001, ge=5)  # longer shots are cut into clips of this length
    max_height: int = Field(240, ge=32)  # videos are scaled down to it
    cut_threshold: float = Field(0.35, gt=0, le=1)  # how much two frames differ at a shot cut, 0 to 1
    validation_share: float = Field(0.0, ge=0, lt=1)  # of imported videos, by a hash of their name
    crf: int = Field(18, ge=0, le=51)


def collect_clips(out: Pathlike, settings: DataSettings, seed: int) -> dict[str, Any]:
    """Make a clips folder from the sources of the settings: manifest, files and summary.json, complete or not at all.

    Raises InputError when no source is named, a source is bad, or no clip came of it.
    """
    if settings.game is None and settings.videos is None:
        raise InputError("data", "game, videos", "neither", "a source of clips", "give data.game or data.videos in the profile")
    with atomic_folder(out) as folder:
        clips: list[Clip] = []
        summary: dict[str, Any] = {"seed": seed, "rejected": []}
        if settings.game is not None:
            rows, summary["game"] = record_game(folder, settings.game, seed)
            clips += rows
        if settings.videos is not None:
            rows, summary["rejected"] = import_videos(settings.videos, folder, settings)
            clips += rows
        if not clips:
            raise InputError(settings.videos or "data", "", "no clip", "at least one clip", f"see why: {summary['rejected'][:3]}")
        write_manifest(folder, clips)
        summary |= {"clips": len(clips), "frames": sum(clip.num_frames for clip in clips)}
        summary["splits"] = {split: sum(clip.split == split for clip in clips) for split in sorted({clip.split for clip in clips})}
        write_json(folder / "summary.json", summary)
    return summary


def import_videos(source: str, folder: Path, settings: DataSettings) -> tuple[list[Clip], list[dict[str, str]]]:
    """Clips of every shot of a video, a folder of videos or an fsspec URI, written into a clips folder; and what was rejected and why.

    Raises InputError for a source that holds no video, a named video that cannot be read, and a wrong camera file.
    """
    clips: list[Clip] = []
    rejected: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="videos-") as scratch:
        paths, alone = _local_videos(source, Path(scratch))
        stems = [path.stem for path in paths]
        for path in paths:
            name = path.stem if stems.count(path.stem) == 1 else path.name
            try:
                rows, short = _import_video(path, re.sub(r"[^A-Za-z0-9._-]+", "-", name), folder, settings)
            except UnreadableVideo as error:
                if alone:
                    raise InputError(error.file, error.field, error.found, error.wanted, error.mend) from None
                rejected.append({"video": path.name, "rule": "readable", "value": str(error)})
                continue
            clips += rows
            rejected += short
    return clips, rejected


class UnreadableVideo(InputError):
    """A video that cannot be decoded, told apart from a wrong camera file."""


def find_camera(video: Path) -> Path | None:
    """The camera file or folder that belongs to a video: same stem, or alone beside it under its well-known name."""
    for candidate in (video.with_suffix(".txt"), video.with_suffix(".npz"), video.with_suffix("") / "poses.npy"):
        if candidate.exists():
            return candidate
    only = sum(path.suffix.lower() in SUFFIXES for path in video.parent.iterdir()) == 1
    known = [video.parent / name for name in ("poses.npy", "camera.npz") if only and (video.parent / name).exists()]
    return known[0] if known else None


def shots(frames: Iterator[Frames], threshold: float, max_frames: int) -> Iterator[list[Frames]]:
    """Runs of at most max_frames between shot cuts: a cut changes more than `threshold` and than its shot usually does."""
    shot: list[Frames] = []
    changes: list[float] = []
    before = None
    for frame in frames:
        look = _look(frame)
        amount = change(before, look) if before is not None else 0.0
        usual = float(np.mean(changes[-4:])) if changes else 0.0
        if (amount > threshold and amount > SPIKE * usual) or len(shot) == max_frames:
            yield shot
            shot, changes = [], []
        else:
            changes.append(amount)
        shot.append(frame)
        before = look
    if shot:
        yield shot


def change(before: tuple[np.ndarray, np.ndarray], after: tuple[np.ndarray, np.ndarray]) -> float:
    """How much two frames differ, 0 to 1: the larger of the histograms' distance and of what their thumbnails do not share.

    The second finds cuts between dark shots, whose colours are alike; going into and out of black counts as a cut.
    """
    histograms = np.abs(before[0] - after[0]).sum() / 2
    black = [bool(look[1].max() < BLACK) for look in (before, after)]
    if black[0] or black[1]:
        return float(black[0] != black[1])
    one, other = (look[1] - look[1].mean() for look in (before, after))
    scale = np.sqrt((one**2).sum() * (other**2).sum())
    correlation = (one * other).sum() / scale if scale > 0 else 1.0
    return float(max(histograms, min(1.0, 1 - correlation)))


def _look(frame: Frames) -> tuple[np.ndarray, np.ndarray]:
    """Colour histogram and 12x16 grey thumbnail of a frame."""
    import cv2

    small = frame[::4, ::4].reshape(-1, 3).astype(np.int64) * BINS // 256
    histogram = np.bincount(small @ np.array([BINS * BINS, BINS, 1]), minlength=BINS**3) / len(small)
    return histogram, cv2.resize(frame, (16, 12), interpolation=cv2.INTER_AREA).mean(axis=-1)


def _import_video(path: Path, name: str, folder: Path, settings: DataSettings) -> tuple[list[Clip], list[dict[str, str]]]:
    clips: list[tuple[int, Clip]] = []  # first frame in the video, row
    rejected, start = [], 0
    try:
        info = video_info(path)
        size_hw = _scaled((info.height, info.width), settings.max_height)
        frames = _resized(path, size_hw)
        for number, part in enumerate(shots(frames, settings.cut_threshold, settings.max_frames)):
            if len(part) < settings.min_frames:
                rejected.append({"video": path.name, "rule": "min_frames", "value": f"shot {number}: {len(part)} < {settings.min_frames}"})
            else:
                clip_id = f"{name}-{number:02d}"
                clip = Clip(clip_id, "video", name, _split(name, settings), len(part), info.fps, *size_hw, f"videos/{clip_id}.mp4", "")
                write_video(folder / clip.video, part, info.fps, settings.crf)
                clip = replace(clip, video_sha256=sha256_file(folder / clip.video), caption=_sidecar_caption(path))
                clips.append((start, clip))
            start += len(part)
        if start == 0:
            raise InputError(path, "", "no frame", "a readable video", "replace the file")
    except InputError as error:
        for _, clip in clips:
            (folder / clip.video).unlink()
        raise UnreadableVideo(error.file, error.field, error.found, error.wanted, error.mend) from None
    camera_path = find_camera(path)
    if camera_path is None:
        return [clip for _, clip in clips], rejected
    cameras = _cameras(camera_path, start)
    return [_with_cameras(clip, cameras.slice(first, first + clip.num_frames), folder) for first, clip in clips], rejected


def _with_cameras(clip: Clip, cameras: Cameras, folder: Path) -> Clip:
    relative = f"cameras/{clip.clip_id}.txt"
    write_realestate10k(folder / relative, cameras, fps=clip.fps)
    scale, digest = translation_scale(cameras.w2c), sha256_file(folder / relative)
    return replace(clip, camera=relative, camera_sha256=digest, camera_origin="file", translation_scale=scale)


def _cameras(path: Path, num_frames: int) -> Cameras:
    cameras = read_cameras(path)
    if len(cameras) != num_frames:
        raise InputError(
            path, "rows", f"{len(cameras)} cameras", f"{num_frames}, one for each frame of the video", "take the video's own camera"
        )
    return cameras


def _resized(path: Path, size_hw: tuple[int, int]) -> Iterator[Frames]:
    import cv2

    for frame in iterate_frames(path):
        same = frame.shape[:2] == size_hw
        yield frame if same else np.asarray(cv2.resize(frame, size_hw[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _scaled(image_hw: tuple[int, int], max_height: int) -> tuple[int, int]:
    """The size with the same aspect, at most max_height high, both even."""
    factor = min(1.0, max_height / image_hw[0])
    height, width = (max(2, round(side * factor / 2) * 2) for side in image_hw)
    return height, width


def _split(name: str, settings: DataSettings) -> str:
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
    return "validation" if share < settings.validation_share else "train"


def _sidecar_caption(path: Path) -> str | None:
    sidecar = path.with_suffix(".prompt.txt")
    return sidecar.read_text(encoding="utf-8").strip() or None if sidecar.exists() else None


def _local_videos(source: str, scratch: Path) -> tuple[list[Path], bool]:
    """Videos of the source on the local disk, and whether it named a single one. Remote ones are fetched with their camera files."""
    if "://" in source:
        return _fetched(source, scratch)
    path = Path(source)
    if not path.exists():
        raise InputError(path, "", "no such file or folder", "a video or a folder of videos", "check data.videos")
    if path.is_file():
        return [path], True
    videos = sorted(item for item in path.rglob("*") if item.suffix.lower() in SUFFIXES and item.is_file())
    if not videos:
        raise InputError(path, "", "no video", f"files that end in {' '.join(SUFFIXES)}", "check data.videos")
    return videos, False


def _fetched(uri: str, scratch: Path) -> tuple[list[Path], bool]:
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(uri)
        alone = system.isfile(root)
        names = sorted(system.find(system._parent(root) if alone else root))
    except (OSError, ValueError, ImportError) as error:
        raise InputError(uri, "", f"{type(error).__name__}: {error}", "a readable URI", "check data.videos") from None
    if alone:
        stem = root.rsplit(".", 1)[0]
        names = [name for name in names if name == root or name.startswith((stem + ".", stem + "/"))]
    base = system._parent(root) if alone else root
    for name in names:
        if Path(name).suffix.lower() not in (*SUFFIXES, ".txt", ".npz", ".npy"):
            continue
        target = scratch / name[len(base) :].lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_uri(system.unstrip_protocol(name)) as stream:
            target.write_bytes(stream.read())
    videos, _ = _local_videos(str(scratch), scratch)
    return videos, alone
