"""A clip and the manifest of a clips folder (paper 2): reader and writer side by side.

A clips folder holds manifest.parquet, videos/, cameras/ and, where known, depth/, actions/ and scenes/. Every row carries the
SHA-256 of the video and camera it points to. Steps never change the folder they read: they write a new one with hard links.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moworld.errors import InputError
from moworld.files import Pathlike, atomic_write, link_or_copy, sha256_file

if TYPE_CHECKING:
    import pyarrow

Frames = NDArray[np.uint8]
MANIFEST = "manifest.parquet"
SPLITS = ("train", "validation", "held_out")
FILE_COLUMNS = ("video", "camera", "depth", "actions", "scene_facts", "points")


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
    caption_source: str | None = None  # given, engine, pixels, or the vision model's name
    caption_prompt: str | None = None  # version of the prompt of a vision model
    caption_words: int | None = None
    camera_phrases: int | None = None  # phrases of the caption that speak of the camera's motion
    points: str | None = None  # point cloud, .ply, native units of the camera file
    epipolar_error_px: float | None = None
    epipolar_inliers: float | None = None
    registered_share: float | None = None
    reprojection_error_px: float | None = None
    track_length: float | None = None
    max_rotation_step_degrees: float | None = None
    max_translation_step: float | None = None  # in multiples of the median step of moving frames
    jitter_degrees: float | None = None
    path_length: float | None = None
    parallax_degrees: float | None = None
    lens_error: float | None = None
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
    aesthetic: float | None = None

    def files(self) -> list[str]:
        """Relative paths of every file that the row points to."""
        return [path for column in FILE_COLUMNS if (path := getattr(self, column)) is not None]


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
        if not (Path(target) / relative).exists():  # parts of one clip share what goes by no frame
            link_or_copy(Path(source) / relative, Path(target) / relative)
