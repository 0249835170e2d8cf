"""A clip, the manifest of a clips folder, and the video files (paper 2): reader and writer side by side.

A clips folder holds manifest.parquet, videos/, cameras/ and, where known, depth/, actions/ and scenes/. Every row carries the
SHA-256 of the video and camera it points to. Steps never change the folder they read: they write a new one with hard links.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moworld.errors import InputError
from moworld.files import Pathlike, atomic_write, link_or_copy, sha256_file

if TYPE_CHECKING:
    import av
    import pyarrow

Frames = NDArray[np.uint8]
MANIFEST = "manifest.parquet"
SPLITS = ("train", "validation", "held_out")
FILE_COLUMNS = ("video", "camera", "depth", "actions", "scene_facts")


@dataclass(frozen=True)
class Clip:
    """A row of the manifest. Paths are relative to the clips folder; None means not known or not measured."""

    clip_id: str
    source: str  # game, video
    scene: str  # map name or file stem
    split: str  # train, validation, held_out
    num_frames: int
    fps: float
    height: int
    width: int
    video: str
    video_sha256: str
    camera: str | None = None
    camera_sha256: str | None = None
    camera_origin: str | None = None  # engine, file, sfm
    translation_scale: float | None = None  # native units of the camera file a model unit
    depth: str | None = None
    actions: str | None = None
    scene_facts: str | None = None
    caption: str | None = None
    epipolar_error_px: float | None = None
    epipolar_inliers: float | None = None
    max_rotation_step_degrees: float | None = None
    max_translation_step: float | None = None  # in multiples of the median step of moving frames
    path_length: float | None = None
    parallax: float | None = None
    registered_share: float | None = None
    sharpness: float | None = None
    brightness: float | None = None
    contrast: float | None = None
    motion: float | None = None
    frozen_share: float | None = None
    cut_score: float | None = None

    def files(self) -> list[str]:
        """Relative paths of every file that the row points to."""
        return [path for column in FILE_COLUMNS if (path := getattr(self, column)) is not None]


@dataclass(frozen=True)
class VideoInfo:
    """What a video's header says: num_frames is 0 where the container does not say."""

    num_frames: int
    fps: float
    height: int
    width: int
    codec: str


def read_manifest(folder: Pathlike) -> list[Clip]:
    """Rows of a clips folder in the order of clip_id. Raises InputError for a missing, foreign or incomplete manifest."""
    import pyarrow
    from pyarrow import parquet

    path = Path(folder) / MANIFEST
    if not path.exists():
        raise InputError(path, "", "no such file", "the manifest of a clips folder", "give the folder that a data step wrote")
    try:
        rows = parquet.read_table(path, partitioning=None).to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(path, "", str(error), "a Parquet file", "write it again with the step that made it") from None
    names = {field.name for field in fields(Clip)}
    for name in sorted(names ^ set(rows[0])) if rows else ():
        found = "a column too many" if name in rows[0] else "no such column"
        raise InputError(path, name, found, "the columns of a clip", "write it again with the step that made it")
    return sorted((Clip(**row) for row in rows), key=lambda clip: clip.clip_id)


def write_manifest(folder: Pathlike, clips: Iterable[Clip]) -> None:
    """Write the rows as Parquet, sorted by clip_id. Raises InputError when two rows have one id."""
    import pyarrow
    from pyarrow import parquet

    rows = sorted((asdict(clip) for clip in clips), key=lambda row: row["clip_id"])
    path = Path(folder) / MANIFEST
    for one, other in pairwise(rows):
        if one["clip_id"] == other["clip_id"]:
            raise InputError(path, "clip_id", f"{one['clip_id']} twice", "a different id for each clip", "rename one of them")
    with atomic_write(path) as stream:
        parquet.write_table(pyarrow.Table.from_pylist(rows, schema=_schema()), stream)


def _schema() -> "pyarrow.Schema":
    import pyarrow

    types: dict[str, Any] = {"str": pyarrow.string(), "int": pyarrow.int64(), "float": pyarrow.float64()}
    columns = []
    for field in fields(Clip):
        annotation = str(getattr(field.type, "__name__", field.type)) if not hasattr(field.type, "__args__") else str(field.type)
        base = annotation.split(" | ")[0]
        columns.append(pyarrow.field(field.name, types[base], nullable="None" in annotation))
    return pyarrow.schema(columns)


def verify(folder: Pathlike) -> list[Clip]:
    """Rows of a clips folder whose files are all there with the hashes of the manifest. Raises InputError for the first that is not."""
    clips = read_manifest(folder)
    for clip in clips:
        for name in clip.files():
            if not (Path(folder) / name).is_file():
                raise InputError(Path(folder) / name, "", "no such file", f"a file of clip {clip.clip_id}", "restore the folder")
        for relative, wanted in ((clip.video, clip.video_sha256), (clip.camera, clip.camera_sha256)):
            if relative is not None and (found := sha256_file(Path(folder) / relative)) != wanted:
                raise InputError(Path(folder) / relative, "SHA-256", found, f"{wanted} as the manifest says", "restore the folder")
    return clips


def carry(clip: Clip, source: Pathlike, target: Pathlike) -> None:
    """Hard-link every file of a clip from one clips folder into another."""
    for relative in clip.files():
        link_or_copy(Path(source) / relative, Path(target) / relative)


def video_info(path: Pathlike) -> VideoInfo:
    """Size, rate and codec of a video without decoding it. Raises InputError when it cannot be opened."""
    with _opened(path) as (_, stream):
        rate = stream.average_rate or stream.base_rate or Fraction(24)
        return VideoInfo(stream.frames, float(rate), stream.height, stream.width, stream.codec_context.name)


def read_frames(path: Pathlike, start: int = 0, stop: int | None = None) -> Frames:
    """Frames start to stop (exclusive) of a video: (T, H, W, 3) uint8 RGB.

    Raises InputError for an unreadable video, an empty one, and one that ends before `stop`.
    """
    frames = list(iterate_frames(path, start, stop))
    if not frames or (stop is not None and len(frames) < stop - start):
        found = f"{start + len(frames)} frames" if frames else "no frame"
        raise InputError(path, "", found, f"frames {start} to {'the end' if stop is None else stop - 1}", "replace the file")
    return np.stack(frames)


def iterate_frames(path: Pathlike, start: int = 0, stop: int | None = None) -> Iterator[Frames]:
    """The same frames one after another, (H, W, 3) uint8 RGB, for videos that should not lie in memory whole."""
    import av

    with _opened(path) as (container, stream):
        stream.thread_count = 1
        try:
            for index, frame in enumerate(container.decode(stream)):
                if stop is not None and index >= stop:
                    return
                if index >= start:
                    yield np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
        except av.FFmpegError as error:
            raise InputError(path, "", f"a broken stream ({error})", "a readable video", "replace the file") from None


class _opened:
    """A container and its first video stream, closed at the end."""

    def __init__(self, path: Pathlike) -> None:
        self.path = path

    def __enter__(self) -> "tuple[av.container.InputContainer, av.VideoStream]":
        import av

        try:
            self.container = av.open(str(self.path))
        except (av.FFmpegError, OSError) as error:
            raise InputError(self.path, "", f"{type(error).__name__}: {error}", "a readable video", "replace the file") from None
        if not self.container.streams.video:
            self.container.close()
            raise InputError(self.path, "", "no video stream", "a readable video", "replace the file")
        return self.container, self.container.streams.video[0]

    def __exit__(self, *_: object) -> None:
        self.container.close()


def write_video(path: Pathlike, frames: Iterable[Frames], fps: float, crf: int = 18) -> int:
    """Write H.264 (yuv420p) from (H, W, 3) uint8 RGB frames with even sizes; returns their number.

    One encoder thread and no clock: equal frames give equal bytes. The file takes its name when it is complete.
    Raises InputError for no frame, frames of different sizes and odd sizes.
    """
    import av

    rate, count, stream = Fraction(fps).limit_denominator(1001), 0, None
    with atomic_write(path) as file, av.open(file, "w", format="mp4") as container:
        for frame in frames:
            if stream is None:
                height, width = frame.shape[:2]
                if height % 2 or width % 2:
                    raise InputError(path, "frame size", f"{width}x{height}", "an even width and height", "resize the frames")
                stream = container.add_stream("libx264", rate=rate)
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                stream.codec_context.thread_count = 1
                stream.options = {"crf": str(crf), "preset": "ultrafast", "threads": "1"}
            if frame.shape != (height, width, 3):
                raise InputError(path, f"frame {count}", f"shape {frame.shape}", f"({height}, {width}, 3)", "give frames of one size")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            count += 1
        if stream is None:
            raise InputError(path, "", "no frame", "at least one frame", "give frames to write")
        container.mux(stream.encode(None))
    return count
