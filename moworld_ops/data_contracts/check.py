"""Checks rows against a contract: each is accepted, or rejected with rule, value and threshold. No row is lost.

Columns are checked as arrays (a million rows take seconds); entries are made only for rows that break a rule.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moworld.errors import InputError
from moworld.files import read_json, read_parquet
from moworld_ops.data_contracts.load import Contract, Rule, load_contract

if TYPE_CHECKING:
    import pyarrow

Row = dict[str, Any]
Mask = NDArray[np.bool_]
PYTHON_TYPES: dict[str, Any] = {"string": str, "integer": int, "number": int | float, "boolean": bool}


@dataclass(frozen=True)
class CheckReport:
    """Result of a check. `accepted` holds row numbers.

    failures: one entry per broken rule: row (its clip_id, or its number without one), rule, value, threshold
    """

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
        """Returns the number of clips without an accepted row; `sizes` are the numbers of consecutive rows per clip."""
        return len(sizes) - len(set(np.searchsorted(np.cumsum(sizes), self.accepted, side="right").tolist()))

    def batch_fails(self, sizes: Sequence[int]) -> bool:
        """Returns whether more clips are lost than the contract allows, or no row is accepted. sizes: see `lost`."""
        return not self.accepted or self.lost(sizes) > self.max_rejected_share * len(sizes)

    def as_dict(self) -> dict[str, Any]:
        counts = {"accepted": len(self.accepted), "quarantined": self.quarantined}
        return {"contract": f"{self.contract} {self.version}", "rows": self.rows, **counts, "failures": self.failures}


@dataclass(frozen=True)
class Values:
    """A column: masks of missing values and of values of another type, numbers (NaN elsewhere), and the values themselves."""

    missing: Mask
    wrong: Mask
    numbers: NDArray[np.float64]
    source: Any

    def at(self, index: int) -> Any:
        value: Any = self.source[index] if self.source is not None else None
        return value.as_py() if hasattr(value, "as_py") else value

    def repeated(self) -> Mask:
        """Returns the mask of rows whose value another row has too."""
        if self.source is None:
            return np.full(len(self.missing), len(self.missing) > 1)
        if isinstance(self.source, list):
            keys = [value if isinstance(value, str | int | float | bool | type(None)) else repr(value) for value in self.source]
            counts = Counter(keys)
            return np.array([counts[key] > 1 for key in keys], bool)
        codes = self.source.dictionary_encode(null_encoding="encode").combine_chunks().indices.to_numpy()
        return np.bincount(codes)[codes] > 1


def check_rows(rows: Sequence[Row], contract: Contract) -> CheckReport:
    """Checks rows, each a dict by column; an absent column is a missing value."""
    return _check({name: _from_list([row.get(name) for row in rows], kind) for name, kind in _columns(contract)}, len(rows), contract)


def check_table(table: "pyarrow.Table", contract: Contract) -> CheckReport:
    """Checks the rows of a table; an absent column is missing in every row."""
    found = {name: (table.column(name) if name in table.column_names else None, kind) for name, kind in _columns(contract)}
    return _check({name: _from_arrow(column, kind, len(table)) for name, (column, kind) in found.items()}, len(table), contract)


def _columns(contract: Contract) -> list[tuple[str, str | None]]:
    """Returns the columns that a check reads, with their types (None for a column that the contract does not describe)."""
    kinds = {column.name: column.logical_type for column in contract.columns}
    return [(name, kinds.get(name)) for name in sorted({rule.column for rule in contract.rules} | {"clip_id"})]


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
    with np.errstate(invalid="ignore"):  # missing values and other types are NaN; other rules cover them
        low = values.numbers < rule.minimum if rule.minimum is not None else False
        high = values.numbers > rule.maximum if rule.maximum is not None else False
    return np.asarray(low | high, bool) & ~values.missing


def _from_list(values: list[Any], kind: str | None) -> Values:
    missing = np.array([value is None or value != value for value in values], bool)
    right = np.array([kind is None or _has_type(value, kind) for value in values], bool)
    numbers = np.array([float(value) if _has_type(value, "number") else np.nan for value in values], float)
    return Values(missing, ~missing & ~right, numbers, values)


def _has_type(value: Any, kind: str) -> bool:
    return isinstance(value, PYTHON_TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _from_arrow(column: Any, kind: str | None, count: int) -> Values:
    import pyarrow
    import pyarrow.compute as pc

    if column is None or pyarrow.types.is_null(column.type):
        return Values(np.ones(count, bool), np.zeros(count, bool), np.full(count, np.nan), None)
    integer = pyarrow.types.is_integer(column.type)
    numeric = integer or pyarrow.types.is_floating(column.type)
    numbers = column.cast("float64").to_numpy() if numeric else np.full(count, np.nan)
    missing = np.isnan(numbers) if numeric else pc.is_null(column).to_numpy()
    string = pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type)
    matches = {"string": string, "integer": integer, "number": numeric, "boolean": pyarrow.types.is_boolean(column.type)}
    right = kind is None or matches[kind]
    return Values(missing, np.zeros(count, bool) if right else ~missing, numbers, column)


def check_path(path: Path, contract_name: str) -> CheckReport:
    """Checks a clips folder, a feature folder, or a Parquet or JSON file of rows; raises InputError if it cannot be read."""
    import pyarrow
    from pyarrow import parquet

    contract, path = load_contract(contract_name), Path(path)
    if path.is_dir():
        path = next((path / name for name in ("manifest.parquet", "index.parquet") if (path / name).is_file()), path / "manifest.parquet")
    if not path.is_file():
        raise InputError(path, "", "no such file", "rows to check", "pass a clips folder, a feature folder or a file of rows")
    if path.suffix == ".json":
        rows = read_json(path)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(path, "", type(rows).__name__, "a list of objects, one per row", "write the rows as a JSON list")
        return check_rows(rows, contract)
    try:
        present = parquet.read_schema(path).names
        columns = [name for name, _ in _columns(contract) if name in present]
        return check_table(read_parquet(path, columns), contract)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(path, "", str(error)[:120], "a Parquet file", "write it again with the step that made it") from None
