"""Imports one video as clips (paper 2): its frames are decoded twice, so that memory does not depend on its length or size.

The first pass decodes small pictures: times, damage, shots, letterbox bars. The second writes each shot, scaled while it is decoded.
A camera file belongs to the upright picture with square pixels and has one camera for each frame that the source decodes to; when
frames are left out or resampled, their cameras are, too.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from moworld.camera import CameraFile, Cameras, read_camera_file, translation_scale
from moworld.camera.lens import Distortion, Rectifier
from moworld.data.captions import read_caption_file
from moworld.data.clips import Clip, with_cameras
from moworld.data.discovery import camera_of
from moworld.data.privacy import FaceBlur
from moworld.data.settings import DataSettings
from moworld.data.shots import Dropped, Looks, Shot, content_box, find_shots, profiles
from moworld.errors import InputError, printable
from moworld.files import sha256_file
from moworld.video import Decoder, Form, Frames, Timeline, VideoInfo, timeline, video_info, write_video

MAX_PIXELS = 8192 * 8192  # of a frame: a larger size is a damaged header or exhausts memory
MAX_FRAMES = 24 * 60 * 60 * 60  # a day at 60 frames per second
SMALL_HEIGHT = 270  # of the pictures of the first pass
PROFILE_EVERY = 4  # frames whose brightness is looked at for letterbox bars
COMBED_SHARE = 0.5  # of the frames that idet judges: above, a video is interlaced although it does not say so
COMBED_FRAMES = 10
NOMINAL = 0.01  # difference of rates that are meant to be equal, as 23.976 and 24
SHOWN_GAPS = 10  # per video, listed one by one

Box = tuple[float, float, float, float]  # top, bottom, left, right of the image in a frame, as fractions
Rejected = dict[str, str]  # video, rule, value


@dataclass(frozen=True)
class Source:
    """A video to import: file, name as shown to people, split, content hash, path or URI of the original, and what shares its split.

    sidecars: hash of its camera and caption files, or "none"
    mark:     end of its clips' ids, for a copy of a video with the same name; "" for others
    """

    path: Path
    name: str
    split: str
    sha256: str
    place: str = ""
    unit: str = ""
    sidecars: str = ""
    mark: str = ""

    def __str__(self) -> str:
        return str(self.path)


@dataclass
class Analysis:
    """What the first pass saw of T frames: forms, times (T,), damage, looks, brightness of every fourth frame by index."""

    forms: list[Form] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    looks: Looks = field(default_factory=Looks)
    brightness: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = field(default_factory=dict)
    combs: dict[str, int] = field(default_factory=dict)
    missing: str = ""
    omitted: tuple[str, ...] = ()
    rate: float = 0.0

    @property
    def field_order(self) -> str:
        """Parity of a video that is interlaced and does not say so, by idet; "" for others."""
        combed = self.combs.get("tff", 0) + self.combs.get("bff", 0)
        judged = combed + self.combs.get("progressive", 0)
        if combed < COMBED_FRAMES or combed <= COMBED_SHARE * judged:
            return ""
        return "tff" if self.combs.get("tff", 0) >= self.combs.get("bff", 0) else "bff"


def import_video(source: Source, folder: Path, settings: DataSettings, heartbeat: Callable[[], None]) -> tuple[list[Clip], list[Rejected], str]:
    """Returns the clips of one video, written into `folder`, its rejected parts with reasons, and what was done to its frames, in words.

    Raises InputError for a video that cannot be read and for an invalid camera file.
    """
    check_header(source.path)
    caption, fault = read_caption_file(source.path)
    seen = analyse(source.path, heartbeat)
    line = timeline(source.path, np.array(seen.times), seen.rate, settings.fps)
    sidecar = camera_of(source.path)
    file, notes = None if sidecar.path is None else read_camera_file(sidecar.path), sidecar.notes
    cameras = None
    if file is not None:
        cameras, placed = _cameras(file, line, seen.forms[0].display_hw)
        notes += placed
    shots, rejected = _parts(source, seen, line, settings, heartbeat)
    if fault:  # the caption alone: the video is imported without it
        rejected.append({"video": source.path.name, "rule": "caption", "value": fault})
    boxes = [_box(seen, line.chosen[shot.start : shot.stop]) for shot in shots]
    limit = max((settings.max_height / (box[1] - box[0]) for box in boxes), default=settings.max_height)
    pictures = _indexed(Decoder(source.path, limit, seen.field_order), heartbeat, file.distortion if file is not None else None)
    clips: list[Clip] = []
    changes = _changes(seen, line)
    for shot, box in zip(shots, boxes, strict=True):
        chosen = line.chosen[shot.start : shot.stop]
        clip = _described(source, seen, line, chosen, {clip.clip_id for clip in clips})
        first = next(frames := _wanted(pictures, chosen))
        pixels, size_hw = _pixels(box, first, settings.max_height)
        faces = FaceBlur(line.fps) if settings.privacy.faces else None
        shown = _resized(first, frames, pixels, size_hw)
        written = write_video(folder / clip.video, faces.apply(shown) if faces else shown, line.fps, settings.crf)
        if written != len(chosen):
            raise InputError(source.path, "", f"{written} of {len(chosen)} frames in the second pass", "the frames of the first", "import it again")
        clip = replace(clip, height=size_hw[0], width=size_hw[1], caption=caption, camera_notes="; ".join(notes) or None)
        done = "; ".join(([changes] if changes else []) + ([faces.summary()] if faces else []))
        clip = replace(clip, source_changes=done, video_sha256=sha256_file(folder / clip.video))
        if cameras is not None:
            own = Cameras(cameras.intrinsics[chosen], cameras.w2c[chosen])
            clip = _with_cameras(clip, own, pixels, first.shape[:2], folder)
        clips.append(clip)
        heartbeat()
    return clips, rejected, changes


def analyse(path: Path, heartbeat: Callable[[], None] = lambda: None, stop: int | None = None) -> Analysis:
    """Decodes small pictures and returns what they show; raises InputError for a video without a frame. stop: number of frames to look at."""
    seen, decoder = Analysis(), Decoder(path, SMALL_HEIGHT, detect_combs=True)
    for number, picture in enumerate(decoder):
        if number % 16 == 0:
            heartbeat()
        if number in (MAX_FRAMES, stop):
            break
        if number % PROFILE_EVERY == 0:
            seen.brightness[number] = profiles(picture.image)
        seen.forms.append(picture.form if not seen.forms or picture.form != seen.forms[-1] else seen.forms[-1])
        seen.times.append(picture.time)
        seen.damage.append(picture.damage)
        seen.looks.add(picture.image)
        seen.combs[picture.combs] = seen.combs.get(picture.combs, 0) + 1
    seen.missing, seen.omitted, seen.rate = decoder.missing, decoder.omitted, decoder.rate
    if not seen.forms:
        raise InputError(path, "", f"no frame{': ' * bool(seen.missing)}{seen.missing}", "a readable video", "replace the file")
    return seen


def _parts(
    source: Source, seen: Analysis, line: Timeline, settings: DataSettings, heartbeat: Callable[[], None]
) -> tuple[list[Shot], list[Rejected]]:
    """Returns shots long enough for a clip, in positions of the timeline, and what is rejected."""
    chosen = line.chosen
    name = source.path.name
    other_form = [at for at in range(1, len(chosen)) if seen.forms[chosen[at]] != seen.forms[chosen[at - 1]]]
    breaks = np.union1d(line.breaks, np.array(other_form, np.int64)).astype(np.int64)
    spoilt = np.array([bool(seen.damage[index]) for index in chosen])
    still = max(2, round(settings.still_seconds * line.fps))
    found = find_shots(seen.looks.of(chosen), settings.cut_threshold, settings.max_frames, still, breaks, spoilt, heartbeat)
    parts, rejected = list[Shot](), list[Rejected]()
    for part in found:
        where = f"frames {chosen[part.start]} to {chosen[part.stop - 1]}"
        if isinstance(part, Dropped):
            reason = f": {seen.damage[chosen[part.start]]}" if part.rule == "damaged" else ""
            rejected.append({"video": name, "rule": part.rule, "value": where + reason})
        elif (length := part.stop - part.start) < settings.min_frames:
            rejected.append({"video": name, "rule": "min_frames", "value": f"{where}: {length} < {settings.min_frames}"})
        else:
            parts.append(part)
    return parts, rejected + _gaps(name, line) + ([{"video": name, "rule": "missing", "value": seen.missing}] if seen.missing else [])


def _gaps(name: str, line: Timeline) -> list[Rejected]:
    """Returns an entry for each stretch of time without a frame, the longest first; a shot ends there."""
    gaps = sorted(((float(line.times[line.chosen[at]] - line.times[line.chosen[at - 1]]), line.chosen[at - 1]) for at in line.breaks), reverse=True)
    shown = [f"no frame for {seconds:.2f} s after frame {frame}" if seconds > 0 else f"time jumps back after frame {frame}" for seconds, frame in gaps]
    more = [f"{len(gaps) - SHOWN_GAPS} shorter stretches without a frame"] if len(gaps) > SHOWN_GAPS else []
    return [{"video": name, "rule": "gap", "value": value} for value in shown[:SHOWN_GAPS] + more]


def _changes(seen: Analysis, line: Timeline) -> str:
    """Returns what was done to the frames and what was left out, in words; "" for nothing."""
    done = dict.fromkeys(change for form in dict.fromkeys(seen.forms) for change in form.changes())
    if seen.field_order:
        done["deinterlaced"] = None
    resampled = [f"resampled from {line.source_fps:.4g} to {line.fps:.4g} frames per second"] if line.resampled else []
    return "; ".join([*done, *resampled, *(f"without {other}" for other in seen.omitted)])


def _described(source: Source, seen: Analysis, line: Timeline, chosen: NDArray[np.int64], used: set[str]) -> Clip:
    """Returns the clip's row before its file is written. Its id follows from the source's name and content and the shot's time."""
    start = float(line.times[chosen[0]])
    stamp = max(0, round(1000 * (start - float(np.nanmin(line.times)))))
    end = f"-{source.mark}" if source.mark else ""
    while (clip_id := f"{slug(source.path.stem)}-{source.sha256[:8]}-{stamp:07d}{end}") in used:
        stamp += 1  # two recordings in one file
    inside = line.times[chosen[0] : chosen[-1] + 1]
    form = seen.forms[chosen[0]]
    return Clip(
        clip_id, "video", printable(source.path.stem), source.split, len(chosen), line.fps, 0, 0, f"videos/{clip_id}.mp4", "",
        source_file=source.name, source_sha256=source.sha256, source_start=round(start, 6), source_fps=round(line.source_fps, 4),
        source_rotation=float(form.rotation), source_sar=round(float(form.aspect), 6),
        time_gap_max=round(float(np.diff(inside).max()), 6) if len(inside) > 1 else None,
    )  # fmt: skip


def slug(stem: str) -> str:
    """Returns a file name's letters and digits in ASCII, at most 60; "video" if it has none. Accents are removed."""
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._]+", "-", plain).strip("-._")[:60].rstrip("-._") or "video"


def check_header(path: Path) -> VideoInfo:
    """Returns the header's facts; raises InputError for an implausible size or rate, which a damaged or malicious header has."""
    info = video_info(path)
    if not min(info.height, info.width) >= 16 or info.height * info.width > MAX_PIXELS:
        raise InputError(path, "size", f"{info.width}x{info.height}", "16 to 8192 pixels per side", "replace the file, or scale it down")
    if not 0.1 <= info.fps <= 1000 or info.num_frames > MAX_FRAMES:
        found = f"{info.fps:g} frames per second, {info.num_frames} frames"
        raise InputError(path, "rate", found, "a plausible rate and length", "replace the file")
    return info


def _indexed(decoder: Decoder, heartbeat: Callable[[], None], distortion: Distortion | None) -> Iterator[tuple[int, Frames]]:
    """Yields the frames with their numbers, without the lens's distortion."""
    rectifiers: dict[tuple[int, ...], Rectifier] = {}  # by size: a video may change it
    for index, picture in enumerate(decoder):
        if index % 16 == 0:
            heartbeat()
        image = picture.image
        if distortion is not None:
            height, width = size = image.shape[:2]
            if size not in rectifiers:
                rectifiers[size] = Rectifier(distortion, (height, width))
            image = rectifiers[size].frame(image)
        yield index, image


def _wanted(pictures: Iterator[tuple[int, Frames]], chosen: NDArray[np.int64]) -> Iterator[Frames]:
    """Yields the chosen pictures and leaves the iterator after the last of them."""
    for wanted in chosen.tolist():
        yield next(image for index, image in pictures if index == wanted)


def _box(seen: Analysis, chosen: NDArray[np.int64]) -> Box:
    """Returns the image inside letterbox bars; of a small picture one pixel less on each cropped side, since its edge holds both."""
    within = [levels for index, levels in seen.brightness.items() if chosen[0] <= index <= chosen[-1]]
    height, width = (len(levels) for levels in within[0]) if within else (1, 1)
    top, bottom, left, right = content_box(within) if within else (0, 1, 0, 1)
    form = seen.forms[chosen[0]]
    edge = int(form.display_hw[0] > height)
    top, left = top + edge * (top > 0), left + edge * (left > 0)
    bottom, right = bottom - edge * (bottom < height), right - edge * (right < width)
    return top / height, bottom / height, left / width, right / width


def _pixels(box: Box, frame: Frames, max_height: int) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """Returns the box in pixels of a frame, and the size of the clip: the same aspect ratio, at most max_height high, both sides even."""
    height, width = frame.shape[:2]
    top, bottom, left, right = round(box[0] * height), round(box[1] * height), round(box[2] * width), round(box[3] * width)
    factor = min(1.0, max_height / (bottom - top))
    out_height, out_width = (max(2, round(side * factor / 2) * 2) for side in (bottom - top, right - left))
    return (top, bottom, left, right), (out_height, out_width)


def _resized(first: Frames, others: Iterator[Frames], pixels: tuple[int, int, int, int], size_hw: tuple[int, int]) -> Iterator[Frames]:
    frame: Frames | None = first
    while frame is not None:
        inside = frame[pixels[0] : pixels[1], pixels[2] : pixels[3]]
        same = inside.shape[:2] == size_hw
        yield inside if same else np.asarray(cv2.resize(inside, size_hw[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)
        frame = next(others, None)


def _cameras(file: CameraFile, line: Timeline, image_hw: tuple[int, int]) -> tuple[Cameras, tuple[str, ...]]:
    """Returns the cameras of all source frames and notes; raises InputError if the file has another number of rows or other times.

    image_hw: of the upright picture
    """
    placed, times = file.at_frames(len(line.times), line.source_fps), line.times - line.times[0]
    if len(file) == len(times) > 1 and file.times is not None:
        stamps, ratio = file.times - file.times[0], float(times[-1] / (file.times[-1] - file.times[0]))
        apart = np.abs(stamps * (ratio if abs(ratio - 1) <= NOMINAL else 1) - times)
        worst = int(apart.argmax())
        if apart[worst] > 0.5 / line.source_fps:
            found = f"row {worst} at {stamps[worst]:.3f} s, its frame at {times[worst]:.3f} s"
            fix = "resample the cameras to the frames of this video, or write its times"
            raise InputError(file.path, "timestamps", found, "the times of the frames", fix)
    return placed.cameras(image_hw, rectified=True), placed.notes


def _with_cameras(clip: Clip, cameras: Cameras, pixels: tuple[int, int, int, int], size_hw: tuple[int, ...], folder: Path) -> Clip:
    (top, bottom, left, right), (height, width) = pixels, size_hw
    cropped = cameras.cropped(left / width, top / height, right / width, bottom / height)
    return with_cameras(clip, folder, cropped, camera_origin="file", translation_scale=translation_scale(cameras.w2c))
