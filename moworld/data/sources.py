"""Imports videos from files, folders and URIs as clips (paper 2): cut into shots, scaled down, transcoded, with their cameras.

A camera file has the video's stem (.txt, .npz) or is in a folder of that name (poses.npy). An invalid camera file is an error.
An unreadable video is an error if it was named itself, and listed as rejected if it was found in a folder.
"""

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from moworld.camera import Cameras, read_cameras, translation_scale
from moworld.data.captions import read_caption_file
from moworld.data.clips import Clip, with_cameras, write_manifest
from moworld.data.game import record_game
from moworld.data.isolation import run_isolated
from moworld.data.settings import DataSettings
from moworld.data.shots import Dropped, content_box, shots
from moworld.data.splits import assign_splits, require_splits, source_of
from moworld.errors import InputError
from moworld.files import Pathlike, atomic_folder, open_uri, sha256_file, write_json
from moworld.video import Frames, VideoInfo, iterate_frames, video_info, write_video

SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v")
MAX_PIXELS = 8192 * 8192  # of a frame: a larger size is a damaged header or exhausts memory
MAX_FRAMES = 24 * 60 * 60 * 60  # a day at 60 frames per second

Box = tuple[int, int, int, int]  # top, bottom, left, right of the image in a frame, ends exclusive


def collect_clips(
    out: Pathlike, settings: DataSettings, seed: int, kept: Pathlike | None = None, required: Iterable[str] = ()
) -> dict[str, Any]:
    """Makes a clips folder from the sources of the settings: manifest, files and summary.json, atomically; returns the summary.

    kept:     folder of game episodes recorded before (see `record_game`)
    required: splits that must have a clip; an empty one is refused before videos are decoded, and without videos before anything else
    Raises InputError if no source is named, a source is invalid, no clip results, or a required split is empty.
    """
    if settings.game is None and settings.videos is None:
        raise InputError("data", "game, videos", "neither", "a source of clips", "set data.game or data.videos in the profile")
    levels = Counter(split for split, _, _ in settings.game.episodes()) if settings.game is not None else Counter[str]()
    required = tuple(required)
    if settings.videos is None:
        require_splits("data", levels, required)
    with atomic_folder(out) as folder:
        clips: list[Clip] = []
        summary: dict[str, Any] = {"seed": seed, "rejected": []}
        if settings.game is not None:
            rows, summary["game"] = record_game(folder, settings.game, seed, Path(kept) if kept else None)
            clips += rows
        if settings.videos is not None:
            rows, summary["rejected"] = import_videos(settings.videos, folder, settings, [name for name in required if not levels[name]])
            clips += rows
        if not clips:
            raise InputError(settings.videos or "data", "", "no clip", "at least one clip", f"see the reasons: {summary['rejected'][:3]}")
        counts = Counter(clip.split for clip in clips)
        require_splits(settings.videos or "data", counts, required)
        write_manifest(folder, clips)
        summary |= {"clips": len(clips), "frames": sum(clip.num_frames for clip in clips), "splits": dict(sorted(counts.items()))}
        write_json(folder / "summary.json", summary)
    return summary


def import_videos(
    source: str, folder: Path, settings: DataSettings, required: Iterable[str] = ()
) -> tuple[list[Clip], list[dict[str, str]]]:
    """Returns clips of every shot of a video, folder or list of videos, or fsspec URI, written into a clips folder; and rejections with reasons.

    required: splits that must have a source
    Raises InputError for a source without video, a named video that cannot be read, an invalid camera file, and a required split
    without a source.
    """
    clips: list[Clip] = []
    rejected: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="videos-") as scratch:
        paths, alone = _local_videos(source, Path(scratch))
        sources = [source_of(path, settings.source_pattern) for path in paths]
        splits = assign_splits(sources, settings)
        require_splits(source, Counter(splits.values()), required)
        stems = [path.stem for path in paths]
        names = [re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem if stems.count(path.stem) == 1 else path.name)[:80] for path in paths]
        names = [name if names.count(name) == 1 else f"{name}-{number}" for number, name in enumerate(names)]
        parts = [Path(scratch) / f".part-{number}" for number in range(len(paths))]
        tasks = zip(paths, names, [splits[name] for name in sources], parts, [settings] * len(paths), strict=True)
        results = run_isolated(_import_video, list(tasks), settings.workers)
        shown = tqdm(results, total=len(paths), desc="videos", unit="video", disable=None)
        for path, part, result in zip(paths, parts, shown, strict=True):
            if isinstance(result, InputError):
                if alone:
                    raise result
                rule = "readable" if result.file == str(path) else "camera"
                rejected.append({"video": path.name, "rule": rule, "value": str(result)})
            else:
                rows, short = result
                for file in sorted(path for row in rows for path in row.files()):
                    (folder / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.move(part / file, folder / file)
                clips += rows
                rejected += short
            shutil.rmtree(part, ignore_errors=True)
    return clips, rejected


def find_camera(video: Path) -> Path | None:
    """Returns the camera file or folder of a video: same stem, or a well-known name beside the only video of its folder."""
    candidates = [video.with_suffix(".txt"), video.with_suffix(".npz"), video.with_suffix("") / "poses.npy"]
    if sum(path.suffix.lower() in SUFFIXES for path in video.parent.iterdir()) == 1:
        candidates += [video.parent / "poses.npy", video.parent / "camera.npz"]
    return next((path for path in candidates if path.exists()), None)


def _import_video(
    path: Path, name: str, split: str, folder: Path, settings: DataSettings, heartbeat: Callable[[], None]
) -> tuple[list[Clip], list[dict[str, str]]]:
    """Returns the clips of one video, written into `folder`, and its rejected parts with reasons."""
    info = _check_header(path)
    caption, fault = read_caption_file(path)
    clips, rejected, seen = list[tuple[int, Clip, Box, tuple[int, int]]](), list[dict[str, str]](), 0
    if fault:
        rejected.append({"video": path.name, "rule": "caption", "value": fault})  # the caption alone: the video is imported without it
    still = max(2, round(settings.still_seconds * info.fps))
    for part in shots(_with_heartbeat(path, heartbeat), settings.cut_threshold, settings.max_frames, still):
        if isinstance(part, Dropped):
            rejected.append({"video": path.name, "rule": part.rule, "value": f"frames {part.start} to {part.stop - 1}"})
            seen = part.stop
            continue
        seen = part.start + len(part.frames)
        if len(part.frames) < settings.min_frames:
            found = f"frames {part.start} to {seen - 1}: {len(part.frames)} < {settings.min_frames}"
            rejected.append({"video": path.name, "rule": "min_frames", "value": found})
            continue
        box = content_box(part.frames)
        size_hw = _scaled((box[1] - box[0], box[3] - box[2]), settings.max_height)
        clip_id = f"{name}-{len(clips):02d}"
        clip = Clip(clip_id, "video", name, split, len(part.frames), info.fps, *size_hw, f"videos/{clip_id}.mp4", "", caption=caption)
        write_video(folder / clip.video, (_resized(frame, box, size_hw) for frame in part.frames), info.fps, settings.crf)
        clips.append((part.start, replace(clip, video_sha256=sha256_file(folder / clip.video)), box, part.frames[0].shape[:2]))
        heartbeat()
    if seen == 0:
        raise InputError(path, "", "no frame", "a readable video", "replace the file")
    camera_path = find_camera(path)
    if camera_path is None:
        return [clip for _, clip, _, _ in clips], rejected
    cameras = read_cameras(camera_path)
    if len(cameras) != seen:
        expected = f"{seen}, one for each frame of the video"
        raise InputError(camera_path, "rows", f"{len(cameras)} cameras", expected, "use the camera file of this video")
    return [_with_cameras(clip, cameras.slice(first, first + clip.num_frames), box, hw, folder) for first, clip, box, hw in clips], rejected


def _check_header(path: Path) -> VideoInfo:
    """Returns the header's facts; raises InputError for an implausible size or rate, which a damaged or malicious header has."""
    info = video_info(path)
    if not min(info.height, info.width) >= 16 or info.height * info.width > MAX_PIXELS:
        raise InputError(path, "size", f"{info.width}x{info.height}", "16 to 8192 pixels per side", "replace the file, or scale it down")
    if not 0.5 <= info.fps <= 1000 or info.num_frames > MAX_FRAMES:
        found = f"{info.fps:g} frames per second, {info.num_frames} frames"
        raise InputError(path, "rate", found, "a plausible rate and length", "replace the file")
    return info


def _with_heartbeat(path: Path, heartbeat: Callable[[], None]) -> Iterator[Frames]:
    """Yields the frames of a video and reports progress."""
    for number, frame in enumerate(iterate_frames(path)):
        if number % 16 == 0:
            heartbeat()
        yield frame


def _with_cameras(clip: Clip, cameras: Cameras, box: Box, size_hw: tuple[int, int], folder: Path) -> Clip:
    (top, bottom, left, right), (height, width) = box, size_hw
    cropped = cameras.cropped(left / width, top / height, right / width, bottom / height)
    return with_cameras(clip, folder, cropped, camera_origin="file", translation_scale=translation_scale(cameras.w2c))


def _resized(frame: Frames, box: Box, size_hw: tuple[int, int]) -> Frames:
    inside = frame[box[0] : box[1], box[2] : box[3]]
    same = inside.shape[:2] == size_hw
    return inside if same else np.asarray(cv2.resize(inside, size_hw[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _scaled(image_hw: tuple[int, int], max_height: int) -> tuple[int, int]:
    """Returns the size with the same aspect ratio, at most max_height high, both sides even."""
    factor = min(1.0, max_height / image_hw[0])
    height, width = (max(2, round(side * factor / 2) * 2) for side in image_hw)
    return height, width


def _local_videos(source: str, scratch: Path) -> tuple[list[Path], bool]:
    """Returns videos of the source on the local disk, and whether it named a single one. Remote ones are fetched with their camera files."""
    if "://" in source:
        return _fetched(source, scratch)
    path = Path(source)
    if not path.exists():
        raise InputError(path, "", "no such file or folder", "a video or a folder of videos", "check data.videos")
    if path.suffix == ".txt" and path.is_file():
        return _listed(path, scratch), False
    if path.is_file():
        return [path], True
    videos = sorted(item for item in path.rglob("*") if item.suffix.lower() in SUFFIXES and item.is_file())
    if not videos:
        raise InputError(path, "", "no video", f"files that end in {' '.join(SUFFIXES)}", "check data.videos")
    return videos, False


def _listed(listing: Path, scratch: Path) -> list[Path]:
    """Returns the videos of a list: one path or URI per line, relative to the list; empty lines and lines that start with # are ignored."""
    lines = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines()]
    videos: list[Path] = []
    for number, line in enumerate(lines, start=1):
        if line and not line.startswith("#"):
            source = line if "://" in line else str(listing.parent / line)
            try:
                videos += _local_videos(source, scratch / str(number))[0]
            except InputError as error:
                raise InputError(listing, f"line {number}", f"{line}: {error.found}", error.expected, "fix the line") from None
    if not videos:
        raise InputError(listing, "", "no video", "one path or URI per line", "fill the list")
    return videos


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
    place = scratch / (Path(base).name or "root")  # so that paths end as at their origin, for data.source_pattern
    place.mkdir(parents=True, exist_ok=True)
    for name in names:
        if Path(name).suffix.lower() not in (*SUFFIXES, ".txt", ".npz", ".npy"):
            continue
        target = place / name[len(base) :].lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_uri(system.unstrip_protocol(name)) as stream:
            target.write_bytes(stream.read())
    return _local_videos(str(place), scratch)[0], alone
