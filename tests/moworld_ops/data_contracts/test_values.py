"""Columns of Parquet in any encoding: the same values give the same result."""

from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow
import pytest
from pyarrow import parquet

from moworld.errors import InputError
from moworld_ops.data_contracts.check import check_path, check_rows, check_table
from moworld_ops.data_contracts.load import load_contract
from tests.moworld_ops.data_contracts.test_check import GOOD

CLIPS = load_contract("clips")
ROWS = [{**GOOD["clips"], "clip_id": f"c{i}", "split": split} for i, split in enumerate(["train", "validation", "trian", "train"])]
TABLE = pyarrow.Table.from_pylist(ROWS)


def column(name, values) -> pyarrow.Table:
    return TABLE.set_column(TABLE.column_names.index(name), name, values)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("split", lambda array: array.dictionary_encode()),
        ("split", lambda array: pyarrow.chunked_array([array.chunk(0)[:2].dictionary_encode(), array.chunk(0)[2:].dictionary_encode()])),
        ("split", lambda array: array.cast(pyarrow.large_string())),
        ("split", lambda array: array.cast(pyarrow.string_view())),
        ("split", lambda array: pyarrow.compute.run_end_encode(array)),
        ("num_frames", lambda array: array.cast(pyarrow.decimal128(20, 0))),
        ("num_frames", lambda array: array.cast(pyarrow.uint16())),
        ("num_frames", lambda array: array.dictionary_encode()),
        ("fps", lambda array: array.cast(pyarrow.float32()).cast(pyarrow.float16())),
        ("fps", lambda array: pyarrow.array([Decimal("24.00")] * 4)),
    ],
)
def test_an_encoding_of_a_column_changes_nothing(name, change):
    expected = check_rows(ROWS, CLIPS)
    assert expected.accepted == [0, 1, 3]
    report = check_table(column(name, change(TABLE[name])), CLIPS)
    assert (report.accepted, report.failures) == (expected.accepted, expected.failures)


def test_nullable_types_of_pandas_are_read(tmp_path: Path):
    frame = pd.DataFrame(ROWS).astype({"num_frames": "Int64", "fps": "Float64", "split": "category", "source": "string"})
    frame.loc[1, ["num_frames", "fps"]] = pd.NA
    frame.to_parquet(tmp_path / "rows.parquet")
    report = check_path(tmp_path / "rows.parquet", CLIPS)
    assert report.accepted == [0, 3]
    assert {(f["row"], f["rule"]) for f in report.failures} == {("c1", "num_frames-required"), ("c1", "fps-required"), ("c2", "split-enum")}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("num_frames", pyarrow.array([97.0] * 4)),
        ("num_frames", pyarrow.array(["97"] * 4).dictionary_encode()),
        ("fps", pyarrow.array([True] * 4)),
        ("split", pyarrow.array([b"train"] * 4)),
        ("split", pyarrow.array([["train"]] * 4)),
        ("split", pyarrow.array([{"a": 1}] * 4)),
        ("scene", pyarrow.array([0] * 4, pyarrow.date32())),
    ],
)
def test_a_column_of_another_type_is_rejected_by_that_rule(name, values):
    report = check_table(column(name, values), CLIPS)
    assert report.accepted == [] and {f["rule"] for f in report.failures if f["row"] == "c0"} == {f"{name}-type"}


def test_twins_are_found_across_row_groups_and_dictionaries(tmp_path: Path):
    encoded = column("clip_id", TABLE["clip_id"].dictionary_encode())
    parquet.write_table(pyarrow.concat_tables([encoded, encoded, encoded.slice(0, 1)]), tmp_path / "rows.parquet", row_group_size=4)
    report = check_path(tmp_path / "rows.parquet", CLIPS)
    assert report.accepted == [] and sum(f["rule"] == "clip_id-unique" for f in report.failures) == 9


def damaged(path: Path, table=TABLE, change=lambda content: content) -> Path:
    parquet.write_table(table, path)
    path.write_bytes(change(path.read_bytes()))
    return path


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"PAR1 no PAR1"),
        lambda path: damaged(path, change=lambda content: content[:-40]),
        lambda path: damaged(path, change=lambda content: content[:4] + b"\xff" * 200 + content[204:]),
        lambda path: damaged(path, pyarrow.Table.from_arrays([TABLE["clip_id"], TABLE["scene"]], ["clip_id", "clip_id"])),
        lambda path: damaged(path, TABLE.rename_columns([name.replace("num_frames", "num_frame") for name in TABLE.column_names])),
        lambda path: damaged(path, column("scene", pyarrow.array([b"\xff\xfe"] * 4).view(pyarrow.string()))),
        lambda path: path.with_suffix("").mkdir() or path.mkdir(),
    ],
)
def test_damaged_and_odd_parquet_is_one_line(tmp_path: Path, write):
    write(tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=r"rows\.parquet") as caught:
        check_path(tmp_path / "rows.parquet", CLIPS)
    assert "\n" not in str(caught.value)


def test_a_misspelt_optional_column_is_named_with_the_right_one(tmp_path: Path):
    table = pyarrow.table({**{key: [value] for key, value in GOOD["geometry"].items() if value is not None}, "loop_eror_px": [99.0]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=r"loop_eror_px: found a column that no contract describes.*did you mean loop_error_px\?"):
        check_path(tmp_path / "rows.parquet", load_contract("geometry"))
    parquet.write_table(table.rename_columns([*table.column_names[:-1], "aesthetic"]), tmp_path / "rows.parquet")
    assert check_path(tmp_path / "rows.parquet", load_contract("geometry"), ignored={"aesthetic"}).accepted == [0]
