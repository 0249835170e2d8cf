"""Cron expressions of schedules, as Kubeflow Pipelines reads them: six fields, seconds first."""

import re

from moworld.errors import InputError

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
FIELDS = (  # name, lowest, highest, names of the values from the lowest on
    ("second", 0, 59, ()),
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, MONTHS),
    ("day of week", 0, 6, DAYS),
)


def check_cron(expression: str) -> None:
    """Raises InputError, which names the field, unless KFP accepts the expression."""
    parts = expression.split()
    if len(parts) != len(FIELDS):
        expected = 'six fields, seconds first: "0 0 3 * * *" is every night at three'
        raise InputError("--schedule", "", expression, expected, "add the field of seconds in front")
    for part, (name, lowest, highest, names) in zip(parts, FIELDS, strict=True):
        if not all(_is_range(one, lowest, highest, names) for one in part.split(",")):
            also = f", {names[0]} to {names[-1]}" if names else ""
            expected = f"*, or {lowest} to {highest}{also}, as a list (1,2), a range (1-5) or in steps (*/10)"
            raise InputError("--schedule", name, part, expected, "correct this field")


def _is_range(text: str, lowest: int, highest: int, names: tuple[str, ...]) -> bool:
    found = re.fullmatch(r"([*?]|\w+)(?:-(\w+))?(?:/(\d+))?", text)
    if found is None:
        return False
    first, last, step = found.groups()
    if step is not None and int(step) == 0:
        return False
    if first in ("*", "?"):
        return last is None
    numbers = [_number(one, lowest, names) for one in (first, last) if one is not None]
    return all(number is not None and lowest <= number <= highest for number in numbers) and numbers == sorted(numbers)  # type: ignore[type-var]


def _number(text: str, lowest: int, names: tuple[str, ...]) -> int | None:
    if text.isdecimal():
        return int(text)
    return names.index(text.lower()) + lowest if text.lower() in names else None
