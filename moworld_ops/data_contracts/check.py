"""Checks rows against a contract: each is accepted, or rejected with rule, value and threshold. No row is lost.

Columns are checked as arrays (a million rows take seconds); entries are made only for rows that break a rule.
"""

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moworld.errors import InputError
from moworld.files import read_json, read_parquet
from moworld_ops.data_contracts.files import FileCheck
from moworld_ops.data_contracts.load import Contract, contract_names, load_contract
from moworld_ops.data_contracts.rules import Rule
from moworld_ops.data_contracts.values import Mask, Values, from_arrow, from_list, repeated

if TYPE_CHECKING:
    import pyarrow

Row = dict[str, Any]
TABLES = ("manifest.parquet", "index.parquet")  # of a clips folder, of a feature folder


@dataclass(frozen=True)
class CheckReport:
    """Result of a check. `accepted` holds row numbers.

    failures: one entry per broken rule: row (its clip_id, or its number without one), rule, value, threshold
    batch:    one entry per broken rule on the whole batch: rule, value, threshold
    warnings: entries of both kinds, of rules whose severity is not error
    files:    number of files that were opened
    """

    contract: str
    version: str
    rows: int
    accepted: list[int]
    failures: list[dict[str, Any]]
    max_rejected_share: float
    batch: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)
    files: int = 0

    @property
    def quarantined(self) -> int:
        return self.rows - len(self.accepted)

    @property
    def passed(self) -> bool:
        """Whether no row and no rule on the batch failed."""
        return not self.quarantined and not self.batch

    def lost(self, sizes: Sequence[int]) -> int:
        """Returns the number of clips without an accepted row; `sizes` are the numbers of consecutive rows per clip."""
        return len(sizes) - len(set(np.searchsorted(np.cumsum(sizes), self.accepted, side="right").tolist()))

    def batch_fails(self, sizes: Sequence[int]) -> bool:
        """Returns whether more clips are lost than the contract allows, no row is accepted, or a rule on the batch is broken. sizes: see `lost`."""
        allowed = Contract("", "", (), self.max_rejected_share).max_rejected(len(sizes))
        return bool(self.batch) or not self.accepted or self.lost(sizes) > allowed

    def as_dict(self) -> dict[str, Any]:
        counts = {"accepted": len(self.accepted), "quarantined": self.quarantined}
        found = {"failures": self.failures, "batch": self.batch, "warnings": self.warnings, "files": self.files}
        return {"contract": f"{self.contract} {self.version}", "rows": self.rows, **counts, **found}


def check_rows(rows: Sequence[Row], contract: Contract) -> CheckReport:
    """Checks rows, each a dict by column; an absent column is a missing value. Opens no file."""
    return _check(_from_rows(rows, contract), len(rows), contract, None)


def check_table(table: "pyarrow.Table", contract: Contract, files: FileCheck | None = None) -> CheckReport:
    """Checks the rows of a table, and with `files` what they name; an absent column is missing in every row."""
    found = {name: (table.column(name) if name in table.column_names else None, kind) for name, kind in _columns(contract)}
    return _check({name: from_arrow(column, kind, len(table)) for name, (column, kind) in found.items()}, len(table), contract, files)


def check_path(path: Path, contract: Contract, files: FileCheck | None = None, ignored: Collection[str] = ()) -> CheckReport:
    """Checks a clips folder, a feature folder, or a Parquet or JSON file of rows.

    files:   opens the files that rows name; None opens none
    ignored: columns that earlier versions had
    Raises InputError if the rows cannot be read, or have a column that no contract describes.
    """
    import pyarrow
    from pyarrow import parquet

    path = table_of(path)
    if path.suffix == ".json":
        rows = read_json(path)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(path, "", type(rows).__name__, "a list of objects, one per row", "write the rows as a JSON list")
        _check_names(list({name: None for row in rows for name in row}), path, contract, ignored)
        return _check(_from_rows(rows, contract), len(rows), contract, files)
    try:
        present = parquet.read_schema(path).names
        _check_names(present, path, contract, ignored)
        columns = [name for name, _ in _columns(contract) if name in present]
        table = read_parquet(path, columns)
        return check_table(table, contract, files)
    except (pyarrow.ArrowException, OSError) as error:
        found = " ".join(str(error).split())[:120]
        raise InputError(path, "", found, "a Parquet file", "write it again with the step that made it") from None


def table_of(path: Path) -> Path:
    """Returns the file of rows of a folder, or the file itself; raises InputError if there is none."""
    path = Path(path)
    if path.is_dir():
        path = next((path / name for name in TABLES if (path / name).is_file()), path / TABLES[0])
    if not path.is_file():
        raise InputError(path, "", "no such file", "rows to check", "pass a clips folder, a feature folder or a file of rows")
    return path


def _check_names(names: Sequence[str], path: Path, contract: Contract, ignored: Collection[str]) -> None:
    """Raises InputError for a column twice, and for one that neither this contract nor another describes: a typo disables its rules."""
    known = {*ignored, *(column.name for column in contract.columns)}
    known |= {column.name for name in contract_names() for column in load_contract(name).columns}
    for name in names:
        if names.count(name) > 1:
            raise InputError(path, name, "this column twice", "different columns", "remove one")
        if contract.columns and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            fix = f"did you mean {near[0]}?" if near else "describe it in the contract, or remove it"
            raise InputError(path, name, "a column that no contract describes", f"columns of contract {contract.name}", fix)


def _from_rows(rows: Sequence[Row], contract: Contract) -> dict[str, Values]:
    return {name: from_list([row.get(name) for row in rows], kind) for name, kind in _columns(contract)}


def _columns(contract: Contract) -> list[tuple[str, str | None]]:
    """Returns the columns that a check reads, with their types (None for a column that the contract does not describe)."""
    kinds = {column.name: column.logical_type for column in contract.columns}
    rules = [*contract.rules, *(rule for batch in contract.batch_rules for rule in batch.rules)]
    read = {name for rule in rules for name in (rule.column, *rule.columns)}
    return [(name, kinds.get(name)) for name in sorted(read | set(kinds) | {"clip_id", "num_frames"})]


def _check(columns: dict[str, Values], count: int, contract: Contract, files: FileCheck | None) -> CheckReport:
    broken = np.zeros((count, len(contract.rules)), bool)
    found = dict[tuple[int, int], str]()  # what a file was found to be, by row and rule
    for number, rule in enumerate(contract.rules):
        if rule.kind in ("file", "hash"):
            faults = files.faults(rule, columns) if files else {}
            found |= {(row, number): fault for row, fault in faults.items()}
            broken[list(faults), number] = True
        else:
            broken[:, number] = _breaks(rule, columns)
    rejects = np.array([rule.severity == "error" for rule in contract.rules], bool)
    rejected, entries = (broken & rejects).any(axis=1), {True: list[Row](), False: list[Row]()}
    for index, number in np.argwhere(broken).tolist():
        rule, name = contract.rules[number], columns["clip_id"].at(index)
        value = found.get((index, number), columns[rule.column].at(index) if not rule.columns else _key_values(rule, columns, index))
        entry = {"row": index if name is None else name, "rule": rule.name, "value": value, "threshold": rule.threshold}
        entries[rule.severity == "error"].append(entry)
    batch, more = _check_batch(columns, count, contract)
    return CheckReport(
        contract.name, contract.version, count, np.flatnonzero(~rejected).tolist(), entries[True], contract.max_rejected_share, batch,
        entries[False] + more, files.opened if files else 0,
    )  # fmt: skip


def _check_batch(columns: dict[str, Values], count: int, contract: Contract) -> tuple[list[Row], list[Row]]:
    """Returns the broken rules on the batch, and those of them that only warn."""
    failures, warnings = list[Row](), list[Row]()
    for rule in contract.batch_rules:
        counted = int(np.logical_or.reduce([_breaks(each, columns) for each in rule.rules]).sum()) if rule.rules else count
        if not rule.allows(counted, count):
            value = f"{counted} of {count} rows" if rule.rules else f"{count} rows"
            entry = {"rule": rule.name, "value": value, "threshold": rule.threshold}
            (failures if rule.severity == "error" else warnings).append(entry)
    return failures, warnings


def _key_values(rule: Rule, columns: dict[str, Values], index: int) -> Any:
    values = [columns[name].at(index) for name in rule.columns]
    return values[0] if len(values) == 1 else ", ".join(map(str, values))


def _breaks(rule: Rule, columns: dict[str, Values]) -> Mask:
    values = columns[rule.column]
    if rule.kind == "type":
        return values.wrong
    if rule.kind == "required":
        return values.missing
    if rule.kind == "unique":
        return repeated([columns[name] for name in rule.columns or (rule.column,)])
    if rule.kind == "missing":
        return values.missing | values.breaks(rule.allows)
    if rule.kind != "range":
        return values.breaks(rule.allows)
    with np.errstate(invalid="ignore"):  # missing values and other types are NaN; other rules cover them
        below, above = (np.less_equal if rule.exclusive_minimum else np.less), (np.greater_equal if rule.exclusive_maximum else np.greater)
        low = below(values.numbers, rule.minimum) if rule.minimum is not None else False
        high = above(values.numbers, rule.maximum) if rule.maximum is not None else False
    return np.asarray(low | high, bool) & ~values.missing
