"""A clip, and reader and writer of a clips folder's manifest (paper 2).

A clips folder holds manifest.parquet, videos/, cameras/ and, if available, depth/, actions/, scenes/ and points/.
Every row has the SHA-256 of its video and camera file. Steps never change the folder they read: they write a new one with hard links.
"""

from collections.abc import Collection, Iterable
from dataclasses import MISSING, asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from moworld.camera.cameras import Cameras
from moworld.camera.formats import write_realestate10k
from moworld.errors import InputError
from moworld.files import Pathlike, atomic_write, link_or_copy, read_parquet, sha256_file

if TYPE_CHECKING:
    import pyarrow

Frames = NDArray[np.uint8]
MANIFEST = "manifest.parquet"
REMOVED = {"aesthetic"}  # columns of earlier versions, ignored when read
REWRITE = "write it again with the step that made it"
FILE_COLUMNS = ("video", "camera", "depth", "actions", "scene_facts", "points")


@dataclass(frozen=True)
class Clip:
    """A row of the manifest. Paths are relative to the clips folder; None means unknown or not measured."""

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
    translation_scale: float | None = None  # native units of the camera file per model unit
    depth: str | None = None
    actions: str | None = None
    scene_facts: str | None = None
    caption: str | None = None
    caption_source: str | None = None  # given, engine, pixels, or the vision model's name
    caption_prompt: str | None = None  # version of a vision model's prompt
    caption_words: int | None = None  # estimated for scripts without spaces
    camera_phrases: int | None = None  # number of phrases that mention camera motion
    points: str | None = None  # point cloud, .ply, native units of the camera file
    epipolar_error_px: float | None = None
    epipolar_inliers: float | None = None
    window_error_px: float | None = None
    verified_share: float | None = None
    camera_notes: str | None = None  # fields of the camera file that are not used, and how it was read
    camera_faults: int | None = None  # 1 if the pictures contradict the cameras, which camera_mistake explains
    camera_mistake: str | None = None
    camera_undecided: str | None = None
    lens_ratio: float | None = None  # best focal length over the given one
    lens_origin: str | None = None  # given, measured, prior
    registered_share: float | None = None
    reprojection_error_px: float | None = None
    track_length: float | None = None
    max_rotation_step_degrees: float | None = None
    max_translation_step: float | None = None  # in multiples of the median step of moving frames
    jitter_degrees: float | None = None
    path_length: float | None = None
    parallax_degrees: float | None = None
    lens_error: float | None = None
    motion_error: float | None = None
    followed_share: float | None = None
    followed_share_lowest: float | None = None
    loop_error_px: float | None = None
    sharpness: float | None = None
    brightness: float | None = None
    contrast: float | None = None
    motion: float | None = None
    frozen_share: float | None = None
    cut_score: float | None = None
    flicker: float | None = None
    text_share: float | None = None
    aspect: float | None = None
    similarity: float | None = None
    similar_to: str | None = None  # the clip with which it shares most frames
    source_file: str | None = None  # of an imported video: its path in the source
    source_sha256: str | None = None
    source_start: float | None = None  # seconds in the source
    source_fps: float | None = None  # mean rate of its frames by their times
    source_rotation: float | None = None  # degrees clockwise by which the pictures were turned
    source_sar: float | None = None  # width of a source's pixel over its height
    source_changes: str | None = None  # what was done to the pictures, and the streams that were left out
    time_gap_max: float | None = None  # longest interval between two source frames of the clip, seconds

    def files(self) -> list[str]:
        """Returns the relative paths of all files of the clip."""
        return [path for column in FILE_COLUMNS if (path := getattr(self, column)) is not None]


def clip_of(row: dict[str, Any]) -> Clip:
    """Returns the clip of a row; columns that later versions removed are ignored. Raises TypeError for other unknown columns."""
    return Clip(**{name: value for name, value in row.items() if name not in REMOVED})


def read_manifest(folder: Pathlike, chosen: Collection[str] | None = None) -> list[Clip]:
    """Returns the rows of a clips folder, or those of the ids `chosen`, sorted by clip_id.

    Raises InputError if the manifest is missing, unreadable or has other columns.
    """
    import pyarrow
    import pyarrow.compute

    path = Path(folder) / MANIFEST
    if not path.exists():
        raise InputError(path, "", "no such file", "the manifest of a clips folder", "pass a folder that a data step wrote")
    try:
        table = read_parquet(path)
        if chosen is not None:
            table = table.filter(pyarrow.compute.is_in(table.column("clip_id"), pyarrow.array(sorted(chosen), pyarrow.string())))
        rows = table.to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(path, "", str(error), "a Parquet file", REWRITE) from None
    names = {field.name for field in fields(Clip)}
    required = {field.name for field in fields(Clip) if field.default is MISSING}  # earlier versions had fewer of the others
    found_names = set(rows[0]) - REMOVED if rows else required
    for name in sorted((found_names - names) | (required - found_names)):
        found = "an unknown column" if name in found_names else "no such column"
        raise InputError(path, name, found, "the columns of a clip", REWRITE)
    return sorted((clip_of(row) for row in rows), key=lambda clip: clip.clip_id)


def write_manifest(folder: Pathlike, clips: Iterable[Clip]) -> None:
    """Writes the rows as Parquet, sorted by clip_id; raises InputError if two rows have the same id."""
    import pyarrow
    from pyarrow import parquet

    rows = sorted((asdict(clip) for clip in clips), key=lambda row: row["clip_id"])
    path = Path(folder) / MANIFEST
    for one, other in pairwise(rows):
        if one["clip_id"] == other["clip_id"]:
            raise InputError(path, "clip_id", f"{one['clip_id']} twice", "a unique id for each clip", "rename one of them")
    with atomic_write(path) as stream:
        parquet.write_table(pyarrow.Table.from_pylist(rows, schema=manifest_schema()), stream)


def manifest_schema() -> "pyarrow.Schema":
    """Returns the columns of a manifest: the fields of `Clip`."""
    import pyarrow

    types: dict[Any, Any] = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    columns = []
    for field in fields(Clip):
        options = get_args(field.type)  # of `str | None`; empty for `str`
        columns.append(pyarrow.field(field.name, types[options[0] if options else field.type], nullable=bool(options)))
    return pyarrow.schema(columns)


def with_cameras(clip: Clip, folder: Path, cameras: Cameras, url: str = "", **columns: Any) -> Clip:
    """Writes the cameras to the clip's file in a clips folder; returns the clip with that file, its hash and further columns."""
    camera = f"cameras/{clip.clip_id}.txt"
    write_realestate10k(folder / camera, cameras, url, clip.fps)
    return replace(clip, camera=camera, camera_sha256=sha256_file(folder / camera), **columns)


def link_files(clip: Clip, source: Pathlike, target: Pathlike) -> None:
    """Hard-links every file of a clip from one clips folder into another."""
    for relative in clip.files():
        if not (Path(target) / relative).exists():  # parts of a clip share files that are not per frame
            link_or_copy(Path(source) / relative, Path(target) / relative)
