"""The error for bad input, in five parts: file, field, found, expected, fix."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


MAX_SHOWN = 1000  # characters of each part of an error that comes from a file


class InputError(ValueError):
    """Bad input from outside: a file, a setting, a command. The command line prints it as one line and exits with status 2.

    file:     the file, directory or source at fault
    field:    the field, row, key or frame in it; "" for the whole file
    found:    the value found there
    expected: the value expected there
    fix:      how the user can correct it
    """

    def __init__(self, file: object, field: object, found: object, expected: str, fix: str) -> None:
        self.file, self.field, self.found = (_short(text) for text in (file, field, found))
        self.expected, self.fix = expected, fix
        super().__init__(file, field, found, expected, fix)

    def __str__(self) -> str:
        where = f"{self.file}: {self.field}" if self.field else self.file
        return printable(" ".join(f"{where}: found {self.found}, expected {self.expected}; {self.fix}".split()))


def _short(value: object) -> str:
    """Returns a value's text, at most `MAX_SHOWN` characters of it: whoever wrote the file decides how long its names and values are."""
    try:
        text = str(value)
    except (ValueError, RecursionError):
        return shown(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text)} characters)"


class IntegrityError(InputError):
    """Data that differs from what was signed or recorded: a check failed, so the command line exits with status 1, not 2."""


def printable(text: str) -> str:
    """Returns text with its control characters and undecodable bytes as escapes, so that no found value changes a terminal."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode() for one in text)


def invalid_value(file: object, error: "ValidationError", fix: str) -> InputError:
    """Returns the InputError for the first value of `file` that pydantic rejects."""
    first = error.errors()[0]
    expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        expected = "only known keys"
    return InputError(file, ".".join(map(str, first["loc"])), shown(first.get("input")), expected, fix)


def shown(value: object) -> str:
    """Returns at most 80 characters of a value's representation."""
    try:
        return repr(value)[:80]
    except (ValueError, RecursionError):  # an integer of more digits than Python converts, or a deep list
        return f"a {type(value).__name__} that is too large to show"
