"""Reads contracts: ODCS 3.1 YAML to the rules that checks are built from. The YAML is the only source of thresholds."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from moworld.documents import parse_yaml
from moworld.errors import InputError

FOLDER = Path(__file__).parent
TYPES = ("string", "integer", "number", "boolean")


@dataclass(frozen=True)
class Rule:
    """A rule on a column. Kind `range`: a present value is within [minimum, maximum], None is open; the others are type, required, unique."""

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
    """A column of a contract's rows: its ODCS logical type, and whether it is required and unique."""

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
    """Returns the names of the contracts in this folder."""
    return sorted(path.name.split(".")[0] for path in FOLDER.glob("*.odcs.yaml"))


@cache
def load_contract(name: str) -> Contract:
    """Reads `NAME.odcs.yaml`; raises InputError for an unknown name or an invalid file (see `parse_contract`)."""
    path = FOLDER / f"{name}.odcs.yaml"
    if not path.is_file():
        raise InputError("contract", name, "no such contract", f"one of {', '.join(contract_names())}", "check the name")
    return parse_contract(path.read_text(encoding="utf-8"), str(path))


def parse_contract(text: str, source: str) -> Contract:
    """Returns the contract in a text. `source` names it in errors.

    Raises InputError for what the ODCS model rejects, an unknown key, an unsupported type or metric, a version other than
    MAJOR.MINOR.PATCH, and a missing share.
    """
    from open_data_contract_standard.model import OpenDataContractStandard

    try:
        given = parse_yaml(text, source, "ODCS v3.1.0")
        model = OpenDataContractStandard.from_string(text)
    except Exception as error:  # the standard's model names the field; any failure is bad input
        raise InputError(source, "", " ".join(str(error).split())[:200], "ODCS v3.1.0", "fix the contract") from None
    values = model.model_dump(by_alias=True, exclude_none=True)
    _check_keys(given, values, source, "")
    parts = str(values.get("version")).split(".")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise InputError(source, "version", values.get("version"), "MAJOR.MINOR.PATCH", "write all three numbers")
    schemas = values.get("schema") or []
    if len(schemas) != 1 or not schemas[0].get("properties"):
        raise InputError(source, "schema", f"{len(schemas)} tables", "one table with its properties", "one contract, one table")
    if not values.get("name") or not all(entry.get("name") for entry in schemas[0]["properties"]):
        raise InputError(source, "name", "nothing", "a name of the contract and of every property", "add it")
    share = {p.get("property"): p.get("value") for p in values.get("customProperties", [])}.get("maxRejectedShare")
    if not isinstance(share, int | float) or not 0 <= share < 1:
        fix = "state the share of a batch that may be rejected"
        raise InputError(source, "customProperties.maxRejectedShare", share, "a number from 0 to below 1", fix)
    columns = tuple(_column(entry, source) for entry in schemas[0]["properties"])
    rules = [rule for entry in schemas[0]["properties"] for rule in _rules(entry, source)]
    about = {key: " ".join(str(value).split()) for key, value in (values.get("description") or {}).items()}
    return Contract(
        values["name"], values["version"], tuple(rules), float(share), columns, about.get("purpose", ""), about.get("limitations", "")
    )


def _column(entry: dict[str, Any], source: str) -> Column:
    kind = entry.get("logicalType")
    if kind not in TYPES:
        raise InputError(source, f"{entry.get('name')}.logicalType", kind, f"one of {', '.join(TYPES)}", "correct the column's type")
    return Column(entry["name"], kind, bool(entry.get("required")), bool(entry.get("unique")), entry.get("description", ""))


def _rules(entry: dict[str, Any], source: str) -> list[Rule]:
    name, kind = entry["name"], entry["logicalType"]
    rules = [Rule(f"{name}-type", name, "type", logical_type=kind)]
    rules += [Rule(f"{name}-{key}", name, key) for key in ("required", "unique") if entry.get(key)]
    for quality in entry.get("quality", []):
        bounds = quality.get("arguments", {})
        known = quality.get("metric") == "invalidValues" and quality.get("mustBe") == 0 and bounds and set(bounds) <= {"minimum", "maximum"}
        known = known and all(isinstance(bound, int | float) for bound in bounds.values())
        if not known or kind not in ("integer", "number") or "id" not in quality:
            found = f"metric {quality.get('metric')} of {kind} with {sorted(bounds)}"
            expected = "an id, metric invalidValues, mustBe 0, minimum or maximum, on a number"
            raise InputError(source, f"{name}.quality", found, expected, "write the rule as the other contracts do")
        rules.append(Rule(quality["id"], name, "range", bounds.get("minimum"), bounds.get("maximum")))
    return rules


def _check_keys(given: Any, kept: Any, source: str, where: str) -> None:
    """Raises InputError for a key that the standard's model dropped, so that a typo cannot disable a rule."""
    if isinstance(given, dict):
        for key, value in given.items():
            if value is not None and (not isinstance(kept, dict) or key not in kept):
                raise InputError(source, f"{where}{key}", "an unknown key", "a key of ODCS v3.1.0", "correct the key")
            _check_keys(value, kept[key] if value is not None else None, source, f"{where}{key}.")
    elif isinstance(given, list) and isinstance(kept, list):
        for index, (one, other) in enumerate(zip(given, kept, strict=False)):
            _check_keys(one, other, source, f"{where}{index}.")
