"""Append-only record of promotions: JSON lines, each with the hash of the previous line.

MLflow's aliases keep no history; the ledger does, and `verify` finds lines that were changed, removed or inserted. A line is complete
with its newline. An incomplete last line, left by a writer that died, is ignored, and the next writer removes it.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moworld.errors import InputError

START = "0" * 64  # "before" of the first line


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the exclusive lock for changes that the ledger records, between threads and processes. Not re-entrant."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def append(path: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """Appends an entry, syncs it to disk and returns it with time and hashes. Raises InputError if the chain is broken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        entries = verify(path)
        before = entries[-1]["hash"] if entries else START
        line = {**entry, "time": datetime.now(UTC).isoformat(timespec="seconds"), "index": len(entries), "before": before}
        line["hash"] = entry_hash(line)
        stream.truncate(_complete_bytes(path.read_bytes()))
        stream.write(_encode(line) + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    return line


def verify(path: Path) -> list[dict[str, Any]]:
    """Returns all entries, oldest first. Raises InputError for the first line that does not follow from the previous one."""
    entries: list[dict[str, Any]] = []
    if not path.exists():
        return entries
    before, data = START, path.read_bytes()
    for index, text in enumerate(data[: _complete_bytes(data)].splitlines()):
        try:
            entry = json.loads(text)
            valid = (entry["before"], entry["index"], entry["hash"]) == (before, index, entry_hash(entry)) and text == _encode(entry)
        except (ValueError, KeyError, TypeError):
            valid = False
        if not valid:
            fix = "the ledger was edited: restore it from a copy"
            raise InputError(path, f"line {index + 1}", "a line that does not follow from the previous one", "an unbroken chain", fix)
        entries.append(entry)
        before = entry["hash"]
    return entries


def entry_hash(entry: dict[str, Any]) -> str:
    """Returns the SHA-256 of an entry without its own hash."""
    return hashlib.sha256(_encode({key: value for key, value in entry.items() if key != "hash"})).hexdigest()


def _encode(entry: dict[str, Any]) -> bytes:
    """Returns the canonical bytes of an entry."""
    return json.dumps(entry, sort_keys=True).encode()


def _complete_bytes(data: bytes) -> int:
    """Returns the number of bytes up to the last newline."""
    return data.rfind(b"\n") + 1
