"""Rows against a contract: accepted, or rejected with rule, value and threshold. No row is lost.

Columns are checked whole (a million rows take seconds); entries are made for rows that break a rule alone.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_contracts.load import Contract, Rule, load_contract
from moworld.errors import InputError
from moworld.files import read_json

if TYPE_CHECKING:
    import pyarrow

Row = dict[str, Any]
Mask = NDArray[np.bool_]
OF_TYPE = {"string": str, "integer": int, "number": (int, float), "boolean": bool}


@dataclass(frozen=True)
class CheckReport:
    """`accepted` holds row numbers; `failures` one entry a broken rule: row (its clip_id where it has one), rule, value, threshold."""

    contract: str
    version: str
    rows: int
    accepted: list[int]
    failures: list[dict[str, Any]]
    max_rejected_share: float

    @property
    def quarantined(self) -> int:
        return self.rows - len(self.accepted)

    def lost(self, sizes: Sequence[int]) -> int:
        """Of clips that have so many rows each, one behind the other: those of which no row is left."""
        return len(sizes) - len(set(np.searchsorted(np.cumsum(sizes), self.accepted, side="right").tolist()))

    def batch_fails(self, sizes: Sequence[int]) -> bool:
        """More clips are lost than the contract allows, or nothing is left. sizes: see `lost`."""
        return not self.accepted or self.lost(sizes) > self.max_rejected_share * len(sizes)

    def as_dict(self) -> dict[str, Any]:
        counts = {"accepted": len(self.accepted), "quarantined": self.quarantined}
        return {"contract": f"{self.contract} {self.version}", "rows": self.rows, **counts, "failures": self.failures}


@dataclass(frozen=True)
class Values:
    """A column: which rows miss it, which hold another type, its numbers (NaN elsewhere), how often each value occurs, and any one value."""

    missing: Mask
    wrong: Mask
    numbers: NDArray[np.float64]
    source: Any

    def at(self, index: int) -> Any:
        value: Any = self.source[index] if self.source is not None else None
        return value.as_py() if hasattr(value, "as_py") else value

    def repeated(self) -> Mask:
        """Rows whose value stands in another row, too."""
        if self.source is None:
            return np.full(len(self.missing), len(self.missing) > 1)
        if isinstance(self.source, list):
            counts = Counter(map(_hashable, self.source))
            return np.array([counts[_hashable(value)] > 1 for value in self.source], bool)
        codes = self.source.dictionary_encode(null_encoding="encode").combine_chunks().indices.to_numpy()
        return np.bincount(codes)[codes] > 1


def check_rows(rows: Sequence[Row], contract: Contract) -> CheckReport:
    """Check rows, each a dict by column; a column that a row lacks is missing there."""
    names = {rule.column for rule in contract.rules} | {"clip_id"}
    kinds = {column.name: column.logical_type for column in contract.columns}
    given = {name: [row.get(name) for row in rows] for name in names}
    return _check({name: _of_list(values, kinds.get(name)) for name, values in given.items()}, len(rows), contract)


def check_table(table: "pyarrow.Table", contract: Contract) -> CheckReport:
    """Check the rows of a table. Of the contract's columns, those that the table lacks are missing in every row."""
    kinds = {column.name: column.logical_type for column in contract.columns}
    names = {rule.column for rule in contract.rules} | {"clip_id"}
    found = {name: table.column(name) if name in table.column_names else None for name in names}
    return _check({name: _of_arrow(column, kinds.get(name), len(table)) for name, column in found.items()}, len(table), contract)


def _check(columns: dict[str, Values], count: int, contract: Contract) -> CheckReport:
    broken = np.zeros((count, len(contract.rules)), bool)
    for number, rule in enumerate(contract.rules):
        broken[:, number] = _breaks(rule, columns[rule.column])
    rejected = broken.any(axis=1)
    failures = []
    for index, number in np.argwhere(broken).tolist():
        rule, name = contract.rules[number], columns["clip_id"].at(index)
        entry = {"row": index if name is None else name, "rule": rule.name, "value": columns[rule.column].at(index)}
        failures.append({**entry, "threshold": rule.threshold})
    return CheckReport(contract.name, contract.version, count, np.flatnonzero(~rejected).tolist(), failures, contract.max_rejected_share)


def _breaks(rule: Rule, values: Values) -> Mask:
    if rule.kind == "type":
        return values.wrong
    if rule.kind == "required":
        return values.missing
    if rule.kind == "unique":
        return values.repeated()
    with np.errstate(invalid="ignore"):  # what is missing or no number is NaN, and breaks another rule or none
        low = values.numbers < rule.minimum if rule.minimum is not None else False
        high = values.numbers > rule.maximum if rule.maximum is not None else False
    return np.asarray(low | high, bool) & ~values.missing


def _of_list(values: list[Any], kind: str | None) -> Values:
    missing = np.array([value is None or value != value for value in values], bool)
    right = np.array([kind is None or _is(value, kind) for value in values], bool)
    numbers = [float(value) if isinstance(value, int | float) and not isinstance(value, bool) else np.nan for value in values]
    return Values(missing, ~missing & ~right, np.array(numbers, float), values)


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, OF_TYPE[kind]) and (kind == "boolean" or not isinstance(value, bool))  # type: ignore[arg-type]


def _of_arrow(column: Any, kind: str | None, count: int) -> Values:
    import pyarrow
    import pyarrow.compute as pc

    if column is None or pyarrow.types.is_null(column.type):
        return Values(np.ones(count, bool), np.zeros(count, bool), np.full(count, np.nan), None)
    numeric = pyarrow.types.is_integer(column.type) or pyarrow.types.is_floating(column.type)
    numbers = column.cast("float64").to_numpy() if numeric else np.full(count, np.nan)
    missing = np.isnan(numbers) if numeric else pc.is_null(column).to_numpy()
    is_kind = {
        "string": pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type),
        "integer": pyarrow.types.is_integer(column.type),
        "number": numeric,
        "boolean": pyarrow.types.is_boolean(column.type),
    }
    right = kind is None or is_kind[kind]
    return Values(missing, np.zeros(count, bool) if right else ~missing, numbers, column)


def _hashable(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | type(None)) else repr(value)


def check_path(path: Path, contract_name: str) -> CheckReport:
    """Check a clip folder, a feature folder, or a Parquet or JSON file of rows. Raises InputError where there is nothing to read."""
    contract, path = load_contract(contract_name), Path(path)
    if path.is_dir():
        path = next((path / name for name in ("manifest.parquet", "index.parquet") if (path / name).is_file()), path / "manifest.parquet")
    if not path.is_file():
        raise InputError(path, "", "no such file", "rows to check", "give a clip folder, a feature folder or a file of rows")
    if path.suffix == ".json":
        rows = read_json(path)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(path, "", type(rows).__name__, "a list of objects, one a row", "write the rows as a JSON list")
        return check_rows(rows, contract)
    import pyarrow
    from pyarrow import parquet

    try:
        wanted = {rule.column for rule in contract.rules} | {"clip_id"}
        there = parquet.read_schema(path).names
        return check_table(parquet.read_table(path, columns=[name for name in there if name in wanted], partitioning=None), contract)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(path, "", str(error)[:120], "a Parquet file", "write it again with the step that made it") from None
