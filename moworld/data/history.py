"""What a data set remembers of its footage: every file ever seen with its fate, every rejected clip, and the revision that an import extends.

The three files are beside the manifest of a clips folder. Steps carry them from one folder to the next. An import that extends a data
revision takes them from it, so that they cover all imports. A source is what shares a split (see `splits.source_of`).
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from moworld.data.clips import FILE_COLUMNS, Clip, link_files, read_manifest
from moworld.data.discovery import Fate
from moworld.files import Pathlike, atomic_write, link_or_copy, read_json_object, read_parquet

BASE = "base.json"  # the revision that the clips extend: revision, registry, keep_codec
SOURCES = "sources.parquet"
REJECTED = "rejected.parquet"
IMPORTED, KEPT, WITHDRAWN = "imported", "kept", "withdrawn"
Row = TypeVar("Row")


@dataclass(frozen=True)
class Rejection:
    """A rule of a contract that a clip broke, with the file that the clip comes from."""

    clip_id: str
    source_file: str
    source_sha256: str
    contract: str
    rule: str
    value: str
    threshold: str
    repeats: str = ""  # the clip that a duplicate repeats


@dataclass(frozen=True)
class Earlier:
    """The clips of a data revision, which an import extends.

    folder:  clips folder with the revision's clips
    base:    what is written to base.json
    carried: whether the clips are put beside the new ones; of several partitions one carries them
    """

    folder: Path
    clips: list[Clip]
    sources: list[Fate] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    base: dict[str, Any] = field(default_factory=dict)
    carried: bool = True

    @classmethod
    def read(cls, folder: Pathlike, base: dict[str, Any]) -> "Earlier":
        """Reads a clips folder. Raises InputError as `read_manifest`."""
        return cls(Path(folder), read_manifest(folder), read_rows(folder, SOURCES, Fate), read_rows(folder, REJECTED, Rejection), base)

    @property
    def contents(self) -> dict[str, str]:
        """SHA-256 of each original with a clip in the revision, to its file name."""
        return {clip.source_sha256: clip.source_file or clip.scene for clip in self.clips if clip.source_sha256}

    @property
    def withdrawn(self) -> dict[str, str]:
        """SHA-256 of each withdrawn original, to the reason."""
        return {row.sha256: row.why for row in self.sources if row.fate == WITHDRAWN}

    @property
    def splits(self) -> dict[str, str]:
        """Split of each source with a clip in the revision."""
        contents = self.contents
        return {row.source: row.split for row in self.sources if row.fate == IMPORTED and row.source and row.sha256 in contents}


def merged(earlier: Iterable[Fate], new: Iterable[Fate]) -> list[Fate]:
    """Returns the fates of all files ever seen, sorted: one row for each name and content. A later import replaces an earlier row.

    A file that is in the data already (fate `kept`) under the same name, and one that was withdrawn, keeps its earlier row.
    """
    rows = {(row.file, row.sha256): row for row in earlier}
    fixed = {key for key, row in rows.items() if row.fate == WITHDRAWN}
    for row in new:
        key = row.file, row.sha256
        if key not in fixed and not (row.fate == KEPT and key in rows):
            before = rows[key].sidecars if key in rows and row.fate == IMPORTED else ""
            rows[key] = replace(row, sidecars=" ".join(sorted({*before.split(), *row.sidecars.split()})))
    return [rows[key] for key in sorted(rows)]


def extend(folder: Path, new: list[Clip], earlier: Earlier) -> list[Clip]:
    """Adds earlier clips to a clips folder that holds the new ones; returns the rows of both.

    A new clip whose original is among the earlier ones, or was withdrawn, is removed. One with the id of an earlier clip, but another
    original, is renamed.
    """
    removed, taken = earlier.contents | earlier.withdrawn, {clip.clip_id for clip in earlier.clips}
    kept = []
    for clip in new:
        if clip.source_sha256 in removed:
            for path in clip.files():
                (folder / path).unlink(missing_ok=True)
        else:
            kept.append(_renamed(clip, folder, f"{clip.clip_id}-{clip.video_sha256[:8]}") if clip.clip_id in taken else clip)
    carried = earlier.clips if earlier.carried else []
    for clip in carried:
        link_files(clip, earlier.folder, folder)
    return [*carried, *kept]


def _renamed(clip: Clip, folder: Path, name: str) -> Clip:
    """Returns a clip with another id, whose own files are renamed; `scene_facts` and others that clips share keep their names."""
    changed: dict[str, Any] = {"clip_id": name}
    for column in FILE_COLUMNS:
        path = getattr(clip, column)
        if path is not None and Path(path).stem == clip.clip_id:
            changed[column] = Path(path).with_stem(name).as_posix()
            (folder / path).rename(folder / changed[column])
    return replace(clip, **changed)


def read_base(folder: Pathlike) -> dict[str, Any]:
    """Returns base.json of a clips folder, or {} for clips that extend no revision."""
    path = Path(folder) / BASE
    return read_json_object(path) if path.is_file() else {}


def carry(source: Pathlike, target: Pathlike, rejected: Iterable[Rejection] = ()) -> None:
    """Links the history of a clips folder into another one, with further rejections."""
    for name in (BASE, SOURCES):
        if (Path(source) / name).is_file():
            link_or_copy(Path(source) / name, Path(target) / name)
    write_rows(target, REJECTED, [*read_rows(source, REJECTED, Rejection), *rejected], Rejection)


def merge_history(sources: Iterable[Pathlike], target: Pathlike, rejected: Iterable[Rejection] = ()) -> None:
    """Writes the history of the clips folders of all partitions into another one, with further rejections."""
    folders = [Path(source) for source in sources]
    base = next((folder / BASE for folder in folders if (folder / BASE).is_file()), None)
    if base is not None:
        link_or_copy(base, Path(target) / BASE)
    write_rows(target, SOURCES, merged([], (row for folder in folders for row in read_rows(folder, SOURCES, Fate))), Fate)
    own = [row for folder in folders for row in read_rows(folder, REJECTED, Rejection)]
    write_rows(target, REJECTED, [*own, *rejected], Rejection)


def read_rows(folder: Pathlike, name: str, kind: type[Row]) -> list[Row]:
    """Returns the rows of a file of the history; [] if there is none."""
    path = Path(folder) / name
    return rows_from(read_parquet(path).to_pylist(), kind) if path.is_file() else []


def rows_from(rows: list[dict[str, Any]], kind: type[Row]) -> list[Row]:
    """Returns rows of a Parquet file as objects; columns that `kind` does not have are ignored."""
    names = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    return [kind(**{key: value for key, value in row.items() if key in names}) for row in rows]


def write_rows(folder: Pathlike, name: str, rows: Iterable[Any], kind: type[Any]) -> None:
    """Writes rows of the history as Parquet, atomically."""
    import pyarrow
    from pyarrow import parquet

    types = {"clips": pyarrow.int64()}
    schema = pyarrow.schema([pyarrow.field(entry.name, types.get(entry.name, pyarrow.string())) for entry in fields(kind)])
    with atomic_write(Path(folder) / name) as stream:
        parquet.write_table(pyarrow.Table.from_pylist([asdict(row) for row in rows], schema=schema), stream)
