"""Output of the commands: results on stdout as a table or JSON, everything else on stderr."""

import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

WIDTH_OF_FILES = 200  # characters of a table in a file or a pipe, which has no width of its own
NARROW = 13  # characters of a column that is folded, with its border


def print_json(value: Any) -> None:
    """Prints one JSON document on stdout; a number that is not finite is null."""
    print(json.dumps(_finite(value), indent=1, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    """Returns a value with None for numbers that JSON does not have: NaN and the infinite ones."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table on stdout; None is an empty cell. The first column, names to copy, is never broken into lines."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", header_style="bold")
    longest = max((len(str(row[0])) for row in rows), default=0)
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=index == 0, min_width=None if index else longest)
    for row in rows:
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    into_file = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    console = Console(highlight=False, width=WIDTH_OF_FILES if into_file else None)
    console.width = max(console.width, longest + NARROW * len(columns))  # a name is whole even if the table is wider than the terminal
    console.print(table)


def print_result(json: bool, value: Any, text: str) -> None:
    """Prints a result on stdout: `value` as JSON, or its text."""
    print_json(value) if json else print(text)


def print_rows(json: bool, value: Any, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a result on stdout: `value` as JSON, or its table."""
    print_json(value) if json else print_table(title, columns, rows)


def note(line: str) -> None:
    """Prints a line on stderr."""
    print(line, file=sys.stderr, flush=True)


def working(what: str) -> AbstractContextManager[Any]:
    """Returns a context that shows a moving line on stderr while it is open, if stderr is a terminal."""
    from rich.console import Console

    return Console(stderr=True).status(what)


def track(items: Iterable[Any], what: str, total: int | None = None) -> Iterable[Any]:
    """Yields the items with a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import track

    return track(items, what, total=total, console=Console(stderr=True), transient=True)


def date_text(seconds: float) -> str:
    """Returns a moment, in seconds since 1970, as a local time: "2026-11-30 16:51"; "" for 0 and for a number that is no date."""
    try:
        return datetime.fromtimestamp(seconds).isoformat(" ", "minutes") if seconds else ""
    except (ValueError, OverflowError, OSError):
        return ""


def moment_text(text: str) -> str:
    """Returns a moment in ISO form as a local time: "2026-11-30 16:51"."""
    return datetime.fromisoformat(text).astimezone().replace(tzinfo=None).isoformat(" ", "minutes")


def bytes_text(count: float) -> str:
    """Returns a size in readable units, as in "410 MB"."""
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"
