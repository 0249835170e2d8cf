"""Merges the clips folders of partitions: manifests as Arrow tables, files as hard links. No picture is read."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moworld.data.clips import FILE_COLUMNS, MANIFEST, manifest_schema
from moworld.data.duplicates import similarity_over
from moworld.errors import InputError
from moworld.files import Pathlike, atomic_write, link_or_copy, read_parquet

if TYPE_CHECKING:
    import pyarrow

SLICE_ROWS = 100_000  # of a manifest that are checked at a time: bounds memory
ORIGIN = "partition"  # column of a merged table: index of the folder that has the clip's files


def merged_manifest(folders: Sequence[Pathlike], similar: bool = False) -> "pyarrow.Table":
    """Returns the rows of clips folders, sorted by clip_id, with a column ORIGIN. Of an id that two folders have the first is kept.

    Such clips are the same shot of two copies of one file, because an id has the hash of the file.
    similar: whether `similarity` is that over the frame hashes of all folders; a clip without hashes keeps its own
    Raises InputError for a folder without a manifest, or with other columns.
    """
    import numpy as np
    import pyarrow
    import pyarrow.compute

    hashed, similarity = similarity_over(folders) if similar else (None, None)  # first: it needs memory of its own
    schema = manifest_schema().append(pyarrow.field(ORIGIN, pyarrow.int32()))
    tables = [schema.empty_table()]
    for index, folder in enumerate(folders):
        path = Path(folder) / MANIFEST
        try:
            own = read_parquet(path).cast(manifest_schema())
        except (pyarrow.ArrowInvalid, OSError, ValueError) as error:
            raise InputError(path, "", str(error)[:200], "the manifest of a partition", "run its steps again") from None
        tables.append(own.append_column(schema.field(ORIGIN), pyarrow.array(np.full(len(own), index, np.int32))))
    order = [("clip_id", "ascending"), (ORIGIN, "ascending")]
    table = pyarrow.concat_tables(tables)
    del tables
    ids = table.select(["clip_id", ORIGIN])
    positions = pyarrow.compute.sort_indices(ids, sort_keys=order)
    names = ids.column("clip_id").take(positions).combine_chunks()
    if len(names) > 1:
        repeated = pyarrow.compute.equal(names.slice(1), names.slice(0, len(names) - 1)).to_numpy(zero_copy_only=False)
        positions = positions.take(pyarrow.array(np.flatnonzero(~np.concatenate([[False], repeated]))))
    table = table.take(positions)
    pyarrow.default_memory_pool().release_unused()  # of the rows before they were sorted
    return _with_similarity(table, hashed, similarity) if hashed is not None and len(hashed) else table


def slices(table: "pyarrow.Table") -> Iterator[tuple[int, "pyarrow.Table"]]:
    """Yields the first row and the rows of each slice of SLICE_ROWS."""
    for start in range(0, len(table), SLICE_ROWS):
        yield start, table.slice(start, SLICE_ROWS)


def link_rows(table: "pyarrow.Table", folders: Sequence[Pathlike], target: Pathlike) -> None:
    """Hard-links the files of a merged table's clips into another clips folder."""
    for _, rows in slices(table):
        origins = rows.column(ORIGIN).to_pylist()
        for column in FILE_COLUMNS:
            for origin, relative in zip(origins, rows.column(column).to_pylist(), strict=True):
                if relative is not None:
                    path = Path(target, relative)
                    if not path.exists():  # parts of a clip share files that are not per frame
                        link_or_copy(Path(folders[origin], relative), path)


def write_table(folder: Pathlike, table: "pyarrow.Table") -> None:
    """Writes a merged table as the manifest of a clips folder, byte for byte as `moworld.data.clips.write_manifest` writes its rows."""
    from pyarrow import parquet

    with atomic_write(Path(folder) / MANIFEST) as stream:
        parquet.write_table(table.select(manifest_schema().names).combine_chunks(), stream)


def _with_similarity(table: "pyarrow.Table", names: Any, similarity: Any) -> "pyarrow.Table":
    """Returns a table of clips with the similarity of those with these names."""
    import pyarrow
    import pyarrow.compute

    own = pyarrow.compute.index_in(table.column("clip_id"), value_set=names).combine_chunks()
    known = own.is_valid()
    found = pyarrow.compute.if_else(known, pyarrow.array(similarity).take(own.fill_null(0)), table.column("similarity"))
    index = table.schema.get_field_index("similarity")
    return table.set_column(index, table.schema.field(index), found)
