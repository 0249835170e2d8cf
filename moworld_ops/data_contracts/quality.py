"""Reads the rules of ODCS 3.1: `quality` entries, `logicalTypeOptions` and `enum`. What no check enforces is refused by its name."""

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from moworld.errors import InputError, shown
from moworld_ops.data_contracts.rules import FORMATS, OPERATORS, SEVERITIES, BatchRule, Rule, compiled

Entry = dict[str, Any]
PYTHON_TYPES: dict[str, Any] = {"string": str, "integer": int, "number": int | float, "boolean": bool}
DESCRIBING = {"id", "name", "description", "dimension", "businessImpact", "tags", "authoritativeDefinitions"}
READ = {"type", "metric", "unit", "arguments", "severity"}
DIMENSIONS = ("accuracy", "completeness", "conformity", "consistency", "coverage", "timeliness", "uniqueness")
METRICS = ("nullValues", "missingValues", "invalidValues", "duplicateValues", "rowCount")
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
OPTIONS = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "integer": (*BOUNDS, "multipleOf", "format"),
    "number": (*BOUNDS, "multipleOf", "format"),
    "boolean": (),
}
SIZES = {f"{sign}{bits}": (-(2 ** (bits - 1)) if sign == "i" else 0, 2 ** (bits - (sign == "i")) - 1) for sign in "iu" for bits in (8, 16, 32, 64)}
LARGEST = {"f32": 3.4028234663852886e38, "f64": None}


def has_type(value: Any, kind: str) -> bool:
    """Returns whether a value has an ODCS logical type; True and False are no numbers."""
    return isinstance(value, PYTHON_TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def one_of(value: Any, known: Iterable[str], file: str, field: str, fix: str = "correct it") -> str:
    """Returns a value that is one of `known`; raises InputError, which proposes the nearest of them, otherwise."""
    known = list(known)
    if isinstance(value, str) and value in known:
        return value
    near = difflib.get_close_matches(str(value), known, 1)
    raise InputError(file, field, shown(value), f"one of {', '.join(known)}", f"did you mean {near[0]}?" if near else fix)


def option_rules(column: str, kind: str, options: Entry, file: str) -> list[Rule]:
    """Returns the rules of a column's `logicalTypeOptions`, named after the option."""
    field = f"{column}.logicalTypeOptions"
    for key in options:
        if key == "enum":
            raise InputError(file, f"{field}.enum", "an option that ODCS does not have", "enum beside logicalType", "move it: enum: [{value: a}]")
        one_of(key, OPTIONS[kind], file, field, f"no option of type {kind} has this name; remove it")
    return [replace(rule, name=f"{column}-{rule.name}") for rule in _value_rules(column, kind, options, file, field)]


def enum_rule(column: str, kind: str, entries: list[Entry], file: str) -> Rule:
    """Returns the rule of a column's `enum`."""
    for entry in entries:
        if "value" not in entry:
            raise InputError(file, f"{column}.enum", shown(entry), "entries with a value", "write enum: [{value: a}]")
    return Rule(f"{column}-enum", column, "values", values=_values([entry["value"] for entry in entries], kind, file, f"{column}.enum"))


def quality_rules(entry: Entry, file: str, kinds: dict[str, str], column: str | None = None) -> tuple[list[Rule], list[BatchRule]]:
    """Returns the rules of one `quality` entry of a column, or of the table if `column` is None. kinds: logical type by column.

    An entry that allows no row to be counted is a rule on each row: the rows that break it are rejected, the others kept.
    Raises InputError for a type, metric, operator, argument or key that no check enforces.
    """
    name = entry.get("id") or entry.get("name")
    place = f"{column or 'schema'}.quality"
    if not name:
        raise InputError(file, place, "a rule without id", "an id, by which reports name the rule", "add id")
    place = f"{place}.{name}"
    _check_entry(entry, file, place)
    metric = one_of(entry.get("metric"), METRICS, file, f"{place}.metric", "rules compare a metric of the standard")
    severity = one_of(entry.get("severity", "error"), SEVERITIES, file, f"{place}.severity")
    operator, value, percent = _comparison(entry, file, place)
    if metric == "rowCount":
        if column is not None or percent or entry.get("arguments"):
            found = f"{'unit percent' if percent else 'arguments' if entry.get('arguments') else 'a rule of a column'}"
            raise InputError(file, f"{place}.metric", found, "rowCount in the table's quality, in rows", "correct the rule")
        return [], [BatchRule(str(name), metric, operator, value, severity=severity)]
    counted = [replace(rule, severity=severity) for rule in _counted(metric, entry.get("arguments", {}), file, place, kinds, column)]
    if operator in ("mustBe", "mustBeLessOrEqualTo") and value == 0:
        names = [str(name)] if len(counted) == 1 else [f"{name}-{rule.name}" for rule in counted]
        return [replace(rule, name=own) for rule, own in zip(counted, names, strict=True)], []
    return [], [BatchRule(str(name), metric, operator, value, percent, tuple(replace(rule, severity="error") for rule in counted), severity)]


def _check_entry(entry: Entry, file: str, place: str) -> None:
    """Raises InputError for a type of rule, and for a key, that no check enforces."""
    kind = one_of(entry.get("type", "library"), ("text", "library", "sql", "custom"), file, f"{place}.type")
    refused = {
        "text": "a rule in words, which no check reads", "sql": "a rule in SQL, which no check runs",
        "custom": f"a rule of engine {entry.get('engine')}, which no check runs",
    }  # fmt: skip
    if kind != "library":
        raise InputError(file, f"{place}.type", refused[kind], "type library", "write it with a metric, or move it to the description")
    if "rule" in entry:
        raise InputError(file, f"{place}.rule", shown(entry["rule"]), "key metric, which replaced rule in ODCS 3.1", "rename the key")
    for key in entry:
        if key not in DESCRIBING | READ and key not in OPERATORS:
            raise InputError(file, f"{place}.{key}", "a key that no check enforces", f"{', '.join(sorted(READ))} and an operator", "remove it")
    if "dimension" in entry:
        one_of(entry["dimension"], DIMENSIONS, file, f"{place}.dimension")


def _comparison(entry: Entry, file: str, place: str) -> tuple[str, Any, bool]:
    """Returns operator, value (a pair for a range) and whether it is a percentage."""
    given = [key for key in entry if key in OPERATORS]
    if len(given) != 1:
        raise InputError(file, place, f"{len(given)} operators {given}", f"one of {', '.join(OPERATORS)}", "state one")
    percent = one_of(entry.get("unit", "rows"), ("rows", "percent"), file, f"{place}.unit") == "percent"
    operator, value = given[0], entry[given[0]]
    values = value if isinstance(value, list) else [value]
    expected = "two rising numbers" if operator.endswith("Between") else "a number"
    limits = "from 0 to 100" if percent else "that counts rows"
    right = len(values) == (2 if operator.endswith("Between") else 1) and all(_finite(each) for each in values)
    right = right and all(0 <= each <= 100 if percent else each >= 0 and each == int(each) for each in values)
    if not right or list(values) != sorted(set(values)):
        raise InputError(file, f"{place}.{operator}", shown(value), f"{expected} {limits}", "correct it")
    return operator, tuple(values) if len(values) == 2 else values[0], percent


def _counted(metric: str, arguments: Entry, file: str, place: str, kinds: dict[str, str], column: str | None) -> list[Rule]:
    """Returns the rules whose broken rows a metric counts."""
    known: tuple[str, ...] = {"missingValues": ("missingValues",), "nullValues": (), "duplicateValues": () if column else ("properties",)}.get(
        metric, ("validValues", *OPTIONS.get(kinds.get(column or "", ""), ()))
    )
    if column is None and metric != "duplicateValues":
        raise InputError(file, f"{place}.metric", metric, "rowCount or duplicateValues in the table's quality", "move it to a property")
    for key in arguments:
        one_of(key, known, file, f"{place}.arguments", f"{metric} does not have this argument; remove it")
    if column is None:
        columns = arguments.get("properties")
        if not isinstance(columns, list) or not columns or not all(name in kinds for name in columns) or len(set(columns)) != len(columns):
            raise InputError(file, f"{place}.arguments.properties", shown(columns), "different properties of the contract", "name them")
        return [Rule("unique", columns[0], "unique", columns=tuple(columns))]
    if metric == "nullValues":
        return [Rule("required", column, "required")]
    if metric == "duplicateValues":
        return [Rule("unique", column, "unique")]
    if metric == "missingValues":
        words = arguments.get("missingValues")
        if not isinstance(words, list):
            raise InputError(file, f"{place}.arguments.missingValues", shown(words), "a list of values that stand for none", "add it")
        present = [word for word in words if word is not None]
        values = _values(present, kinds[column], file, f"{place}.arguments.missingValues") if present else ()
        return [Rule("missing", column, "missing", values=values)]
    if not arguments:
        raise InputError(file, f"{place}.arguments", "nothing", f"one of {', '.join(known)}", "state what is valid")
    valid = arguments.get("validValues")
    rules = [] if valid is None else [Rule("validValues", column, "values", values=_values(valid, kinds[column], file, f"{place}.validValues"))]
    rest = {key: value for key, value in arguments.items() if key != "validValues"}
    return rules + _value_rules(column, kinds[column], rest, file, f"{place}.arguments")


def _value_rules(column: str, kind: str, options: Entry, file: str, field: str) -> list[Rule]:
    """Returns the rules of options of a type (see `OPTIONS`): one for the range, one for the length, one for each other."""
    rules = []
    if any(key in options for key in BOUNDS):
        rules.append(_range(column, options, file, field))
    if "minLength" in options or "maxLength" in options:
        low, high = ends = options.get("minLength"), options.get("maxLength")
        if any(end is not None and (not has_type(end, "integer") or end < 0) for end in ends) or (low or 0) > (high if high is not None else math.inf):
            raise InputError(file, f"{field}.minLength, maxLength", shown(ends), "rising counts of characters", "correct them")
        rules.append(Rule("length", column, "length", low, high))
    if "pattern" in options:
        try:
            compiled(options["pattern"])
        except (re.error, TypeError) as error:
            raise InputError(file, f"{field}.pattern", shown(options["pattern"]), f"a regular expression ({error})", "correct it") from None
        rules.append(Rule("pattern", column, "pattern", text=options["pattern"]))
    if "multipleOf" in options:
        if not _finite(options["multipleOf"]) or options["multipleOf"] <= 0:
            raise InputError(file, f"{field}.multipleOf", shown(options["multipleOf"]), "a number above 0", "correct it")
        rules.append(Rule("multipleOf", column, "multiple", options["multipleOf"]))
    if "format" in options:
        rules += _format(column, kind, options["format"], file, f"{field}.format")
    return rules


def _range(column: str, options: Entry, file: str, field: str) -> Rule:
    for key in BOUNDS:
        if key in options and not _finite(options[key]):
            raise InputError(file, f"{field}.{key}", shown(options[key]), "a finite number", "write a number without quotes")
    for key, other in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if key in options and other in options:
            raise InputError(file, f"{field}.{other}", f"both {key} and {other}", "one of them", "remove one")
    minimum, maximum = options.get("minimum", options.get("exclusiveMinimum")), options.get("maximum", options.get("exclusiveMaximum"))
    exclusive = ("exclusiveMinimum" in options, "exclusiveMaximum" in options)
    if minimum is not None and maximum is not None and (minimum > maximum or (minimum == maximum and any(exclusive))):
        raise InputError(file, field, f"minimum {minimum} and maximum {maximum}", "a range with a value in it", "correct the bounds")
    return Rule("range", column, "range", minimum, maximum, exclusive_minimum=exclusive[0], exclusive_maximum=exclusive[1])


def _format(column: str, kind: str, name: Any, file: str, field: str) -> list[Rule]:
    """Returns the rules of an option `format`; a format that every value of the type has adds none."""
    if kind == "integer":
        low, high = SIZES[one_of(name, SIZES, file, field)]
        return [Rule("format", column, "range", low, high)]
    if kind == "number":
        largest = LARGEST[one_of(name, LARGEST, file, field)]
        return [] if largest is None else [Rule("format", column, "range", -largest, largest)]
    return [Rule("format", column, "format", text=one_of(name, FORMATS, file, field, "no check has this format; remove it"))]


def _values(values: Any, kind: str, file: str, field: str) -> tuple[Any, ...]:
    """Returns the values of a list, which all have the column's type and are different."""
    if not isinstance(values, list) or not values:
        raise InputError(file, field, shown(values), "a list of values", "add them")
    for value in values:
        if not has_type(value, kind) or value != value:
            raise InputError(file, field, shown(value), f"values of type {kind}", "write it as the column's type")
    if len(set(values)) != len(values):
        raise InputError(file, field, "a value twice", "different values", "remove one")
    return tuple(values)


def _finite(value: Any) -> bool:
    return has_type(value, "number") and math.isfinite(value)
