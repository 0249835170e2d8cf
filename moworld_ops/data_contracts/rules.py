"""Rules of a contract: on each row (`Rule`), or on the number of rows of a batch (`BatchRule`). Reading them from YAML is in `quality`."""

import base64
import binascii
import ipaddress
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any
from urllib.parse import urlsplit

SEVERITIES = ("error", "warning", "info")  # an error rejects; the others are reported
# Suffix of an ODCS operator -> (comparison of a count with the operator's value, words)
OPERATORS: dict[str, tuple[Callable[[float, Any], bool], str]] = {
    "mustBe": (lambda count, value: count == value, "exactly {}"),
    "mustNotBe": (lambda count, value: count != value, "not {}"),
    "mustBeGreaterThan": (lambda count, value: count > value, "more than {}"),
    "mustBeGreaterOrEqualTo": (lambda count, value: count >= value, "at least {}"),
    "mustBeLessThan": (lambda count, value: count < value, "less than {}"),
    "mustBeLessOrEqualTo": (lambda count, value: count <= value, "at most {}"),
    "mustBeBetween": (lambda count, value: value[0] <= count <= value[1], "{} to {}"),
    "mustNotBeBetween": (lambda count, value: not value[0] <= count <= value[1], "outside {} to {}"),
}


@dataclass(frozen=True)
class Rule:
    """A rule on each row. A missing value breaks `required` and `missing` alone; a value of another type breaks `type` alone.

    kind `type`:     the value has `logical_type`
    kind `required`: the value is present
    kind `unique`:   no other row has the value, or, with `columns`, the same values in all of them
    kind `range`:    a number is within [minimum, maximum]; None is open, and an exclusive bound is not allowed itself
    kind `length`:   a text has minimum to maximum characters
    kind `values`:   the value is one of `values`
    kind `missing`:  the value is present and none of `values`, which stand for a missing one
    kind `pattern`:  a text has a match of the ECMA-262 expression `text`
    kind `format`:   a text has the format `text`, one of `FORMATS`
    kind `multiple`: a number is a multiple of `minimum`
    kind `file`:     the file that the value names is of kind `text` and fits the row (see `files`)
    kind `hash`:     the value is the SHA-256 of the file that column `text` names
    """

    name: str
    column: str
    kind: str
    minimum: float | None = None
    maximum: float | None = None
    logical_type: str = "number"
    exclusive_minimum: bool = False
    exclusive_maximum: bool = False
    values: tuple[Any, ...] = ()
    text: str = ""
    columns: tuple[str, ...] = ()
    severity: str = "error"

    @property
    def threshold(self) -> str:
        """Returns what the rule expects, for reports and for comparing two versions."""
        severity = "" if self.severity == "error" else f" ({self.severity})"
        return self._threshold() + severity

    def _threshold(self) -> str:
        if self.kind in ("range", "length"):
            low, high = ("-inf" if self.minimum is None else self.minimum), ("inf" if self.maximum is None else self.maximum)
            ends = f"{low}{' (exclusive)' * self.exclusive_minimum} to {high}{' (exclusive)' * self.exclusive_maximum}"
            return f"{ends} characters" if self.kind == "length" else ends
        words = {
            "type": self.logical_type,
            "unique": f"unique in {', '.join(self.columns)}" if self.columns else "unique",
            "values": f"one of {', '.join(map(str, self.values))}",
            "missing": f"present, and none of {', '.join(map(repr, self.values))}",
            "pattern": f"a match of {self.text}",
            "format": self.text,
            "multiple": f"a multiple of {self.minimum}",
            "file": f"a {self.text} file in the directory that fits the row",
            "hash": f"the SHA-256 of {self.text}",
        }
        return words.get(self.kind, self.kind)

    def allows(self, value: Any) -> bool:
        """Returns whether a present value of the right type keeps a rule of kind length, values, missing, pattern, format or multiple."""
        if self.kind == "length":
            return (self.minimum or 0) <= len(value) and (self.maximum is None or len(value) <= self.maximum)
        if self.kind == "pattern":
            return compiled(self.text).search(value) is not None
        if self.kind == "format":
            return FORMATS[self.text](value)
        if self.kind == "multiple":
            return Decimal(repr(value)) % Decimal(repr(self.minimum)) == 0 if value - value == 0 else False
        return (value in self.values) == (self.kind == "values")


@dataclass(frozen=True)
class BatchRule:
    """A rule on a batch: the number or the percentage of its rows that break one of `rules`; without rules, the number of rows."""

    name: str
    metric: str
    operator: str
    value: Any
    percent: bool = False
    rules: tuple[Rule, ...] = ()
    severity: str = "error"

    @property
    def column(self) -> str:
        return self.rules[0].column if self.rules else ""

    @property
    def threshold(self) -> str:
        """Returns what the rule expects, for reports and for comparing two versions."""
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        counted = OPERATORS[self.operator][1].format(*values) + (" % of the rows" if self.percent else " rows")
        broken = f" break {' or '.join(rule.threshold for rule in self.rules)}" if self.rules else ""
        return counted + broken + ("" if self.severity == "error" else f" ({self.severity})")

    def allows(self, count: int, rows: int) -> bool:
        """Returns whether a batch of `rows` rows may have `count` that are counted."""
        measured = 100 * count / max(1, rows) if self.percent else count
        return OPERATORS[self.operator][0](measured, self.value)


NOT_EMPTY = BatchRule("not-empty", "rowCount", "mustBeGreaterThan", 0)  # of a contract without a lower bound on rowCount


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    r"""Returns an ECMA-262 expression for Python: `$` is the very end, and \d, \w, \s and \b are ASCII. Raises re.error."""
    parts = re.findall(r"\\.|\[(?:\\.|[^\]\\])*\]|.", pattern, re.DOTALL)
    return re.compile("".join(r"\Z" if part == "$" else part for part in parts), re.ASCII)


def _matches(pattern: str) -> Callable[[str], bool]:
    return lambda value: re.fullmatch(pattern, value) is not None


def _parses(parse: Callable[[str], Any]) -> Callable[[str], bool]:
    def parses(value: str) -> bool:
        try:
            return bool(parse(value))
        except (ValueError, binascii.Error):
            return False

    return parses


def _uri(value: str) -> bool:
    parts = urlsplit(value)
    return bool(parts.scheme and (parts.netloc or parts.path)) and not re.search(r"\s", value)


HOSTNAME = r"(?=.{1,253}$)(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*"
FORMATS: dict[str, Callable[[str], bool]] = {
    "byte": _parses(lambda value: base64.b64decode(value, validate=True) is not None),
    "email": _matches(r"[^@\s]+@" + HOSTNAME),
    "uuid": _parses(lambda value: str(uuid.UUID(value)) == value.lower()),
    "uri": _parses(_uri),
    "hostname": _matches(HOSTNAME),
    "ipv4": _parses(ipaddress.IPv4Address),
    "ipv6": _parses(ipaddress.IPv6Address),
}
