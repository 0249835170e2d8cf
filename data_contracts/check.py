"""Rows against a contract: accepted, or rejected with rule, value and threshold. No row is lost."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_contracts.load import Contract, Rule, load_contract
from moworld.errors import InputError
from moworld.files import read_json

Row = dict[str, Any]


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

    @property
    def batch_fails(self) -> bool:
        """More is rejected than the contract allows, or nothing is left."""
        return not self.accepted or self.quarantined > self.max_rejected_share * self.rows

    def as_dict(self) -> dict[str, Any]:
        counts = {"accepted": len(self.accepted), "quarantined": self.quarantined}
        return {"contract": f"{self.contract} {self.version}", "rows": self.rows, **counts, "failures": self.failures}


def check_rows(rows: list[Row], contract: Contract, columns: set[str] | None = None) -> CheckReport:
    """Check rows against the rules of a contract, or of some of its columns."""
    rules = [rule for rule in contract.rules if columns is None or rule.column in columns]
    counts = {rule.column: Counter(row.get(rule.column) for row in rows) for rule in rules if rule.kind == "unique"}
    failures, accepted = [], []
    for index, row in enumerate(rows):
        broken = [rule for rule in rules if _breaks(rule, row.get(rule.column), counts)]
        if not broken:
            accepted.append(index)
        for rule in broken:
            entry = {"row": row.get("clip_id", index), "rule": rule.name, "value": row.get(rule.column), "threshold": rule.threshold}
            failures.append(entry)
    return CheckReport(contract.name, contract.version, len(rows), accepted, failures, contract.max_rejected_share)


def _breaks(rule: Rule, value: Any, counts: dict[str, Counter[Any]]) -> bool:
    missing = value is None or value != value
    if rule.kind == "required":
        return bool(missing)
    if rule.kind == "unique":
        return counts[rule.column][value] > 1
    if missing:
        return False
    if isinstance(value, str):
        return True
    return (rule.minimum is not None and value < rule.minimum) or (rule.maximum is not None and value > rule.maximum)


def check_path(path: Path, contract_name: str) -> CheckReport:
    """Check a clip folder, a feature folder, or a Parquet or JSON file of rows. Raises InputError where there is nothing to read."""
    contract, path = load_contract(contract_name), Path(path)
    if path.is_dir():
        path = next((path / name for name in ("manifest.parquet", "index.parquet") if (path / name).is_file()), path / "manifest.parquet")
    if not path.is_file():
        raise InputError(path, "", "no such file", "rows to check", "give a clip folder, a feature folder or a file of rows")
    if path.suffix == ".json":
        rows = read_json(path)
    else:
        import pyarrow
        from pyarrow import parquet

        try:
            rows = parquet.read_table(path, partitioning=None).to_pylist()
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise InputError(path, "", str(error)[:120], "a Parquet file", "write it again with the step that made it") from None
    return check_rows(rows, contract)
