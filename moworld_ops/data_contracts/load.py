"""Reads contracts: ODCS 3.1 YAML to the rules that checks are built from. The YAML is the only source of thresholds.

A key of the standard is enforced, or describes without promising anything, or is refused by its name.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moworld.documents import parse_yaml
from moworld.errors import InputError, invalid_value, shown
from moworld_ops.data_contracts.quality import PYTHON_TYPES, enum_rule, one_of, option_rules, quality_rules
from moworld_ops.data_contracts.rules import NOT_EMPTY, BatchRule, Rule

FOLDER = Path(__file__).parent
TYPES = tuple(PYTHON_TYPES)
API_VERSIONS = ("v3.1.0", "v3.2.0")
STATUSES = ("proposed", "draft", "active", "deprecated", "retired")
LOWER_BOUNDS = ("mustBe", "mustBeGreaterThan", "mustBeGreaterOrEqualTo", "mustBeBetween")  # of rowCount: they decide whether 0 rows pass
FILE_KINDS = ("video", "cameras", "json", "depth", "points", "features")  # what `files` opens
# Keys of the standard that promise something of the data, and that no check enforces.
REFUSED = {
    "contract": {"slaProperties", "slaDefaultElement"},
    "schema": {"relationships", "customProperties"},
    "property": {"relationships", "properties", "items", "map", "physicalName", "encryptedName", "deprecated"},
}


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
    batch_rules: tuple[BatchRule, ...] = (NOT_EMPTY,)

    @property
    def title(self) -> str:
        return f"{self.name} {self.version}"

    def max_rejected(self, count: int) -> float:
        """Returns how many of `count` clips may be rejected: the share of them, and always one if the share is not 0."""
        return max(1.0, self.max_rejected_share * count) if self.max_rejected_share else 0.0


def contract_names() -> list[str]:
    """Returns the names of the contracts in this folder."""
    return sorted(path.name.split(".")[0] for path in FOLDER.glob("*.odcs.yaml"))


@cache
def load_contract(name: str) -> Contract:
    """Reads `NAME.odcs.yaml`; raises InputError for an unknown name or an invalid file (see `parse_contract`)."""
    path = FOLDER / f"{name}.odcs.yaml"
    if name not in contract_names():
        raise InputError("contract", name, "no such contract", f"one of {', '.join(contract_names())}", "check the name")
    return parse_contract(path.read_text(encoding="utf-8"), str(path))


def parse_contract(text: str, source: str) -> Contract:
    """Returns the contract in a text. `source` names it in errors.

    Raises InputError for what the ODCS model rejects, an unknown or empty key, a value of another type, a key or rule that no check
    enforces, a version other than MAJOR.MINOR.PATCH, and a missing share.
    """
    from open_data_contract_standard.model import OpenDataContractStandard

    given = parse_yaml(text, source, "ODCS v3.1.0")
    if not isinstance(given, dict):
        raise InputError(source, "", shown(given), "ODCS v3.1.0", "write a mapping")
    try:
        model = OpenDataContractStandard.model_validate(given, strict=True)
    except ValidationError as error:
        raise invalid_value(source, error, "write it as ODCS v3.1.0 does") from None
    values = model.model_dump(by_alias=True, exclude_none=True)
    _check_keys(given, values, source, "")
    _check_head(values, source)
    schemas = values.get("schema") or []
    if len(schemas) != 1 or not schemas[0].get("properties"):
        raise InputError(source, "schema", f"{len(schemas)} tables", "one table with its properties", "one contract, one table")
    table = schemas[0]
    _refuse(table, "schema", source, "schema.")
    columns = tuple(_column(entry, source) for entry in table["properties"])
    _check_unique([column.name for column in columns], source, "schema.properties")
    kinds = {column.name: column.logical_type for column in columns}
    rules, batch_rules = list[Rule](), list[BatchRule]()
    for entry in table["properties"]:
        own, batch = _column_rules(entry, kinds, source)
        rules, batch_rules = rules + own, batch_rules + batch
    for entry in table.get("quality", []):
        own, batch = quality_rules(entry, source, kinds)
        rules, batch_rules = rules + own, batch_rules + batch
    rules += _key_rules(table["properties"], source)
    if not any(rule.metric == "rowCount" and rule.severity == "error" and rule.operator in LOWER_BOUNDS for rule in batch_rules):
        batch_rules.append(NOT_EMPTY)
    _check_unique([*(rule.name for rule in rules), *(rule.name for rule in batch_rules)], source, "quality.id")
    about = {key: " ".join(str(value).split()) for key, value in (values.get("description") or {}).items()}
    return Contract(
        values["name"], values["version"], tuple(rules), _max_rejected_share(values, source), columns, about.get("purpose", ""),
        about.get("limitations", ""), tuple(batch_rules),
    )  # fmt: skip


def _check_head(values: dict[str, Any], source: str) -> None:
    """Raises InputError for a missing or invalid key at the top of a contract."""
    for key, known in (("apiVersion", API_VERSIONS), ("kind", ("DataContract",)), ("status", STATUSES)):
        one_of(values.get(key), known, source, key, f"write {key}")
    for key in ("id", "name"):
        if not values.get(key):
            raise InputError(source, key, shown(values.get(key)), "a text", f"add {key}")
    parts = str(values.get("version")).split(".")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise InputError(source, "version", shown(values.get("version")), "MAJOR.MINOR.PATCH", "write all three numbers")
    _refuse(values, "contract", source, "")


def _max_rejected_share(values: dict[str, Any], source: str) -> float:
    found = _custom(values, ("maxRejectedShare",), source, "")
    share = found.get("maxRejectedShare")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        fix = "state the share of a batch that may be rejected"
        raise InputError(source, "customProperties.maxRejectedShare", shown(share), "a number from 0 to below 1", fix)
    return float(share)


def _custom(entry: dict[str, Any], known: tuple[str, ...], source: str, where: str) -> dict[str, Any]:
    """Returns the custom properties of a contract or column by name; raises InputError for an unknown one, and for one given twice."""
    entries = entry.get("customProperties", [])
    place = f"{where}customProperties"
    names = [one_of(each.get("property"), known, source, place, "no check reads this one; remove it") for each in entries]
    _check_unique(names, source, place)
    return {name: each.get("value") for name, each in zip(names, entries, strict=True)}


def _column(entry: dict[str, Any], source: str) -> Column:
    name = entry.get("name")
    if not name:
        raise InputError(source, "schema.properties", "a property without name", "a name of every property", "add it")
    kind = one_of(entry.get("logicalType"), TYPES, source, f"{name}.logicalType", "use one of them")
    _refuse(entry, "property", source, f"{name}.")
    return Column(name, kind, bool(entry.get("required")), bool(entry.get("unique")), entry.get("description", ""))


def _column_rules(entry: dict[str, Any], kinds: dict[str, str], source: str) -> tuple[list[Rule], list[BatchRule]]:
    name, kind, batch_rules = entry["name"], entry["logicalType"], list[BatchRule]()
    rules = [Rule(f"{name}-type", name, "type", logical_type=kind)]
    rules += [Rule(f"{name}-{key}", name, key) for key in ("required", "unique") if entry.get(key)]
    rules += option_rules(name, kind, entry.get("logicalTypeOptions", {}), source)
    rules += [enum_rule(name, kind, entry["enum"], source)] if "enum" in entry else []
    rules += _file_rules(name, _custom(entry, ("fileKind", "sha256Of"), source, f"{name}."), kinds, source)
    for quality in entry.get("quality", []):
        own, batch = quality_rules(quality, source, kinds, name)
        rules, batch_rules = rules + own, batch_rules + batch
    return rules, batch_rules


def _file_rules(name: str, custom: dict[str, Any], kinds: dict[str, str], source: str) -> list[Rule]:
    """Returns the rules on the file that a column names, or on the hash that it holds."""
    rules = []
    if "fileKind" in custom:
        rules.append(Rule(f"{name}-file", name, "file", text=one_of(custom["fileKind"], FILE_KINDS, source, f"{name}.fileKind")))
    if "sha256Of" in custom:
        rules.append(Rule(f"{name}-matches", name, "hash", text=one_of(custom["sha256Of"], kinds, source, f"{name}.sha256Of")))
    return rules


def _key_rules(entries: list[dict[str, Any]], source: str) -> list[Rule]:
    """Returns the rules of the primary key: present in every row, and unique together."""
    keys = [entry for entry in entries if entry.get("primaryKey")]
    positions = [entry.get("primaryKeyPosition", -1) for entry in keys]
    stray = next((entry["name"] for entry in entries if "primaryKeyPosition" in entry and not entry.get("primaryKey")), None)
    if stray or (len(keys) > 1 and sorted(positions) != list(range(1, len(keys) + 1))) or (len(keys) == 1 and positions[0] not in (-1, 1)):
        place = f"{stray or keys[0]['name']}.primaryKeyPosition"
        raise InputError(source, place, shown(positions), "primaryKey: true, and positions from 1 on if there are several", "correct it")
    rules = [Rule(f"{entry['name']}-required", entry["name"], "required") for entry in keys if not entry.get("required")]
    names = tuple(entry["name"] for _, entry in sorted(zip(positions, keys, strict=True), key=lambda pair: pair[0]))
    return [*rules, Rule("primary-key", names[0], "unique", columns=names)] if names else []


def _refuse(entry: dict[str, Any], level: str, source: str, where: str) -> None:
    for key in sorted(REFUSED[level] & set(entry)):
        raise InputError(source, f"{where}{key}", "a key that no check enforces", "keys that checks enforce or that only describe", "remove it")


def _check_unique(names: list[str], source: str, field: str) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(source, field, f"{name} {count} times", "different names", "rename or remove one")


def _check_keys(given: Any, kept: Any, source: str, where: str) -> None:
    """Raises InputError for a key that the standard's model dropped, and for one without a value, so that neither disables a rule."""
    if isinstance(given, dict):
        for key, value in given.items():
            if value is None:
                raise InputError(source, f"{where}{key}", "nothing", "a value", "write it, or remove the key")
            if not isinstance(kept, dict) or key not in kept:
                raise InputError(source, f"{where}{key}", "an unknown key", "a key of ODCS v3.1.0", "correct the key")
            _check_keys(value, kept[key], source, f"{where}{key}.")
    elif isinstance(given, list) and isinstance(kept, list):
        for index, (one, other) in enumerate(zip(given, kept, strict=False)):
            _check_keys(one, other, source, f"{where}{index}.")
