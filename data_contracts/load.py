"""Contracts: ODCS 3.1 YAML read into the few facts that checks are built from. The YAML is the only source of thresholds."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from moworld.errors import InputError

FOLDER = Path(__file__).parent
TYPES = ("string", "integer", "number", "boolean")
LIBRARY = {"invalidValues"}  # the metrics of ODCS' library that a check is built from


@dataclass(frozen=True)
class Rule:
    """A bound on a column: a present value lies in [minimum, maximum]; None is open. `type`, `required` and `unique` stand for themselves."""

    name: str
    column: str
    kind: str  # type, required, unique, range
    minimum: float | None = None
    maximum: float | None = None
    logical_type: str = "number"

    @property
    def threshold(self) -> str:
        if self.kind == "type":
            return self.logical_type
        if self.kind != "range":
            return self.kind
        return f"{'-inf' if self.minimum is None else self.minimum} to {'inf' if self.maximum is None else self.maximum}"


@dataclass(frozen=True)
class Column:
    """A column of a contract's rows: its ODCS logical type, and whether every row must fill it."""

    name: str
    logical_type: str
    required: bool
    unique: bool
    description: str


@dataclass(frozen=True)
class Contract:
    """A contract by name and version, its rules, and the share of rejected rows above which a batch fails."""

    name: str
    version: str
    rules: tuple[Rule, ...]
    max_rejected_share: float
    columns: tuple[Column, ...] = ()
    purpose: str = ""
    limitations: str = ""

    @property
    def title(self) -> str:
        return f"{self.name} {self.version}"


def contract_names() -> list[str]:
    """Names of the contracts that stand in this folder."""
    return sorted(path.name.split(".")[0] for path in FOLDER.glob("*.odcs.yaml"))


@cache
def load_contract(name: str) -> Contract:
    """Read `NAME.odcs.yaml`. Raises InputError for an unknown name or a file that is no contract (see `parse_contract`)."""
    path = FOLDER / f"{name}.odcs.yaml"
    if not path.is_file():
        raise InputError("contract", name, "no such contract", f"one of {', '.join(contract_names())}", "check the name")
    return parse_contract(path.read_text(encoding="utf-8"), str(path))


def parse_contract(text: str, source: str) -> Contract:
    """The contract in a text. `source` stands in errors.

    Raises InputError for what the ODCS model refuses, a key it does not know, a type or a metric that no check can be built from, a
    version that is no MAJOR.MINOR.PATCH, and a missing share.
    """
    from open_data_contract_standard.model import OpenDataContractStandard

    try:
        values = yaml.safe_load(text)
        model = OpenDataContractStandard.from_string(text)
    except Exception as error:  # the standard's own model names the field; any failure of it is bad input here
        raise InputError(source, "", " ".join(str(error).split())[:200], "ODCS v3.1.0", "mend the contract") from None
    _no_key_lost(values, model.model_dump(by_alias=True, exclude_none=True), source, "")
    parts = str(values["version"]).split(".")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise InputError(source, "version", values["version"], "MAJOR.MINOR.PATCH", "write all three numbers")
    schemas = values.get("schema") or []
    if len(schemas) != 1 or not schemas[0].get("properties"):
        raise InputError(source, "schema", f"{len(schemas)} tables", "one table with its properties", "one contract, one table")
    share = {p["property"]: p["value"] for p in values.get("customProperties", [])}.get("maxRejectedShare")
    if not isinstance(share, int | float) or not 0 <= share < 1:
        mend = "say what share of a batch may be rejected"
        raise InputError(source, "customProperties.maxRejectedShare", share, "a number from 0 to below 1", mend)
    columns = tuple(_column(entry, source) for entry in schemas[0]["properties"])
    rules = [rule for entry in schemas[0]["properties"] for rule in _rules(entry, source)]
    about = {key: " ".join(str(value).split()) for key, value in (values.get("description") or {}).items()}
    return Contract(
        values["name"], values["version"], tuple(rules), float(share), columns, about.get("purpose", ""), about.get("limitations", "")
    )


def _column(entry: dict[str, Any], source: str) -> Column:
    kind = entry.get("logicalType")
    if kind not in TYPES:
        raise InputError(source, f"{entry.get('name')}.logicalType", kind, f"one of {', '.join(TYPES)}", "name the column's type")
    return Column(entry["name"], kind, bool(entry.get("required")), bool(entry.get("unique")), entry.get("description", ""))


def _rules(entry: dict[str, Any], source: str) -> list[Rule]:
    name, kind = entry["name"], entry["logicalType"]
    rules = [Rule(f"{name}-type", name, "type", logical_type=kind)]
    rules += [Rule(f"{name}-{key}", name, key) for key in ("required", "unique") if entry.get(key)]
    for quality in entry.get("quality", []):
        bounds = quality.get("arguments", {})
        known = quality.get("metric") in LIBRARY and quality.get("mustBe") == 0 and bounds and set(bounds) <= {"minimum", "maximum"}
        if not known or kind not in ("integer", "number") or "id" not in quality:
            found = f"metric {quality.get('metric')} of {kind} with {sorted(bounds)}"
            wanted = "an id, metric invalidValues, mustBe 0, minimum or maximum, on a number"
            raise InputError(source, f"{name}.quality", found, wanted, "write the rule as the other contracts do")
        rules.append(Rule(quality["id"], name, "range", bounds.get("minimum"), bounds.get("maximum")))
    return rules


def _no_key_lost(given: Any, kept: Any, source: str, where: str) -> None:
    """What the standard's model dropped was no key of it: a slip of the pen must not switch a rule off."""
    if isinstance(given, dict):
        for key, value in given.items():
            if value is not None and (not isinstance(kept, dict) or key not in kept):
                raise InputError(source, f"{where}{key}", "a key that is not known", "the keys of ODCS v3.1.0", "mend the key")
            _no_key_lost(value, kept[key] if value is not None else None, source, f"{where}{key}.")
    elif isinstance(given, list) and isinstance(kept, list):
        for index, (one, other) in enumerate(zip(given, kept, strict=False)):
            _no_key_lost(one, other, source, f"{where}{index}.")
