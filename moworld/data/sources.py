"""Videos from files, folders and URIs as clips (paper 2): cut at shot changes, scaled down, transcoded, with their camera file.

A camera file has the video's stem (.txt, .npz) or stands in a folder of that name (poses.npy). A wrong one is an error; a video
that cannot be read is an error when it was named alone, and listed as rejected when it was found in a folder.
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from tqdm import tqdm

from moworld.camera import Cameras, read_cameras, translation_scale
from moworld.camera.formats import write_realestate10k
from moworld.data.clips import Clip, write_manifest
from moworld.data.game import GameSettings, record_game
from moworld.data.isolation import isolated
from moworld.data.shots import Dropped, content_box, shots
from moworld.errors import InputError
from moworld.files import Pathlike, atomic_folder, open_uri, sha256_file, write_json
from moworld.settings import Settings
from moworld.video import Frames, VideoInfo, iterate_frames, video_info, write_video

SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v")
MAX_PIXELS = 8192 * 8192  # of a frame: more is a damaged header, or takes the memory
MAX_FRAMES = 24 * 60 * 60 * 60  # a day at 60 frames a second

Box = tuple[int, int, int, int]  # top, bottom, left, right of the picture in a frame, ends exclusive


class DataSettings(Settings):
    """The profile's section `data`: the size that is trained on, and the two sources of clips."""

    height: int = Field(64, ge=16, multiple_of=16)
    width: int = Field(96, ge=16, multiple_of=16)
    game: GameSettings | None = None
    videos: str | None = None  # a video, a folder, a .txt list of either, or an fsspec URI of one of them
    min_frames: int = Field(33, ge=5)  # shorter shots are rejected
    max_frames: int = Field(2001, ge=5)  # longer shots are cut into clips of this length
    max_height: int = Field(240, ge=32)  # videos are scaled down to it
    cut_threshold: float = Field(0.35, gt=0, le=1)  # how much two frames differ at a shot cut, 0 to 1
    still_seconds: float = Field(1.0, gt=0)  # a picture that stands for longer is cut out
    workers: int = Field(2, ge=1)  # videos that are decoded at a time, each in a process of its own
    validation_share: float = Field(0.0, ge=0, lt=1)  # of imported videos, by a hash of their name
    crf: int = Field(18, ge=0, le=51)
    licences: dict[Literal["game", "video"], str] = Field(
        default={}, description="SPDX identifier of each source's footage; gates may ask for it"
    )


def collect_clips(out: Pathlike, settings: DataSettings, seed: int, kept: Pathlike | None = None) -> dict[str, Any]:
    """Make a clips folder from the sources of the settings: manifest, files and summary.json, complete or not at all.

    Raises InputError when no source is named, a source is bad, or no clip came of it.
    """
    if settings.game is None and settings.videos is None:
        raise InputError("data", "game, videos", "neither", "a source of clips", "give data.game or data.videos in the profile")
    with atomic_folder(out) as folder:
        clips: list[Clip] = []
        summary: dict[str, Any] = {"seed": seed, "rejected": []}
        if settings.game is not None:
            rows, summary["game"] = record_game(folder, settings.game, seed, Path(kept) if kept else None)
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
    """Clips of every shot of a video, a folder or list of videos, or an fsspec URI, written into a clips folder; what was rejected and why.

    Raises InputError for a source that holds no video, a named video that cannot be read, and a wrong camera file.
    """
    clips: list[Clip] = []
    rejected: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="videos-") as scratch:
        paths, alone = _local_videos(source, Path(scratch))
        stems = [path.stem for path in paths]
        names = [re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem if stems.count(path.stem) == 1 else path.name)[:80] for path in paths]
        names = [name if names.count(name) == 1 else f"{name}-{number}" for number, name in enumerate(names)]
        parts = [Path(scratch) / f".part-{number}" for number in range(len(paths))]
        answers = isolated(_import_video, list(zip(paths, names, parts, [settings] * len(paths), strict=True)), settings.workers)
        for path, part, answer in zip(
            paths, parts, tqdm(answers, total=len(paths), desc="videos", unit="video", disable=None), strict=True
        ):
            if isinstance(answer, InputError):
                if alone:
                    raise answer
                rule = "readable" if answer.file == str(path) else "camera"
                rejected.append({"video": path.name, "rule": rule, "value": str(answer)})
            else:
                rows, short = answer
                for file in sorted(path for row in rows for path in row.files()):
                    (folder / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.move(part / file, folder / file)
                clips += rows
                rejected += short
            shutil.rmtree(part, ignore_errors=True)
    return clips, rejected


def find_camera(video: Path) -> Path | None:
    """The camera file or folder that belongs to a video: same stem, or alone beside it under its well-known name."""
    for candidate in (video.with_suffix(".txt"), video.with_suffix(".npz"), video.with_suffix("") / "poses.npy"):
        if candidate.exists():
            return candidate
    only = sum(path.suffix.lower() in SUFFIXES for path in video.parent.iterdir()) == 1
    known = [video.parent / name for name in ("poses.npy", "camera.npz") if only and (video.parent / name).exists()]
    return known[0] if known else None


def _import_video(
    path: Path, name: str, folder: Path, settings: DataSettings, alive: Callable[[], None]
) -> tuple[list[Clip], list[dict[str, str]]]:
    """Clips of one video, written into `folder`; what of it was rejected and why."""
    info = _sane(path)
    split, caption = _split(name, settings), _sidecar_caption(path)
    clips, rejected, seen = list[tuple[int, Clip, Box, tuple[int, int]]](), list[dict[str, str]](), 0
    still = max(2, round(settings.still_seconds * info.fps))
    for part in shots(_alive(path, alive), settings.cut_threshold, settings.max_frames, still):
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
        alive()
    if seen == 0:
        raise InputError(path, "", "no frame", "a readable video", "replace the file")
    camera_path = find_camera(path)
    if camera_path is None:
        return [clip for _, clip, _, _ in clips], rejected
    cameras = _cameras(camera_path, seen)
    return [_with_cameras(clip, cameras.slice(first, first + clip.num_frames), box, hw, folder) for first, clip, box, hw in clips], rejected


def _sane(path: Path) -> VideoInfo:
    """What the header says. Raises InputError for a size or a rate that no camera has: such a header is damaged, or hostile."""
    info = video_info(path)
    if not min(info.height, info.width) >= 16 or info.height * info.width > MAX_PIXELS:
        raise InputError(path, "size", f"{info.width}x{info.height}", "16 to 8192 pixels a side", "replace the file, or scale it down")
    if not 0.5 <= info.fps <= 1000 or info.num_frames > MAX_FRAMES:
        raise InputError(path, "rate", f"{info.fps:g} frames a second, {info.num_frames} frames", "a camera's", "replace the file")
    return info


def _alive(path: Path, alive: Callable[[], None]) -> Iterator[Frames]:
    for number, frame in enumerate(iterate_frames(path)):
        if number % 16 == 0:
            alive()
        yield frame


def _with_cameras(clip: Clip, cameras: Cameras, box: Box, size_hw: tuple[int, int], folder: Path) -> Clip:
    relative = f"cameras/{clip.clip_id}.txt"
    (top, bottom, left, right), (height, width) = box, size_hw
    write_realestate10k(folder / relative, cameras.cropped(left / width, top / height, right / width, bottom / height), fps=clip.fps)
    scale, digest = translation_scale(cameras.w2c), sha256_file(folder / relative)
    return replace(clip, camera=relative, camera_sha256=digest, camera_origin="file", translation_scale=scale)


def _cameras(path: Path, num_frames: int) -> Cameras:
    cameras = read_cameras(path)
    if len(cameras) != num_frames:
        raise InputError(
            path, "rows", f"{len(cameras)} cameras", f"{num_frames}, one for each frame of the video", "take the video's own camera"
        )
    return cameras


def _resized(frame: Frames, box: Box, size_hw: tuple[int, int]) -> Frames:
    import cv2

    inside = frame[box[0] : box[1], box[2] : box[3]]
    same = inside.shape[:2] == size_hw
    return inside if same else np.asarray(cv2.resize(inside, size_hw[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)


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
    if path.suffix == ".txt" and path.is_file():
        return _listed(path, scratch), False
    if path.is_file():
        return [path], True
    videos = sorted(item for item in path.rglob("*") if item.suffix.lower() in SUFFIXES and item.is_file())
    if not videos:
        raise InputError(path, "", "no video", f"files that end in {' '.join(SUFFIXES)}", "check data.videos")
    return videos, False


def _listed(listing: Path, scratch: Path) -> list[Path]:
    """Videos of a list: one path or URI a line, relative ones beside the list; empty lines and those after # do not count."""
    lines = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines()]
    videos: list[Path] = []
    for number, line in enumerate(lines, start=1):
        if line and not line.startswith("#"):
            source = line if "://" in line else str(listing.parent / line)
            try:
                videos += _local_videos(source, scratch / str(number))[0]
            except InputError as error:
                raise InputError(listing, f"line {number}", f"{line}: {error.found}", error.wanted, "mend the line") from None
    if not videos:
        raise InputError(listing, "", "no video", "one path or URI a line", "fill the list")
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
    for name in names:
        if Path(name).suffix.lower() not in (*SUFFIXES, ".txt", ".npz", ".npy"):
            continue
        target = scratch / name[len(base) :].lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_uri(system.unstrip_protocol(name)) as stream:
            target.write_bytes(stream.read())
    videos, _ = _local_videos(str(scratch), scratch)
    return videos, alone
