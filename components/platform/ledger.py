"""The record of promotions: an append-only file of JSON lines, each carrying the hash of the line before.

MLflow's aliases forget what they pointed to; this remembers, and `verify` finds a line that was changed, removed or put between. A line is
there once its newline is: what a writer that died left unfinished was never written, and the next writer cuts it off.
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

START = "0" * 64


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the one right to move what the ledger records, against other threads and processes. Not re-entrant."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def append(path: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """Append an entry with its time and hashes; on disk when this returns. Raises InputError when the chain is broken already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        entries = verify(path)
        before = entries[-1]["hash"] if entries else START
        line = {**entry, "time": datetime.now(UTC).isoformat(timespec="seconds"), "index": len(entries), "before": before}
        line["hash"] = entry_hash(line)
        stream.truncate(_finished(path.read_bytes()))
        stream.write(_text(line) + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    return line


def verify(path: Path) -> list[dict[str, Any]]:
    """All entries, oldest first. Raises InputError naming the first line that does not follow from the one before."""
    entries: list[dict[str, Any]] = []
    if not path.exists():
        return entries
    before, whole = START, path.read_bytes()
    for number, text in enumerate(whole[: _finished(whole)].splitlines(), start=1):
        try:
            entry = json.loads(text)
            sound = (
                entry["before"] == before and entry["index"] == number - 1 and entry["hash"] == entry_hash(entry) and text == _text(entry)
            )
        except (ValueError, KeyError, TypeError):
            sound = False
        if not sound:
            mend = "the ledger was edited: restore it from a copy"
            raise InputError(path, f"line {number}", "a line that does not follow from the one before", "an unbroken chain", mend)
        entries.append(entry)
        before = entry["hash"]
    return entries


def entry_hash(entry: dict[str, Any]) -> str:
    """SHA-256 of an entry without its own hash."""
    body = {key: value for key, value in entry.items() if key != "hash"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _text(entry: dict[str, Any]) -> bytes:
    """The one way to write an entry."""
    return json.dumps(entry, sort_keys=True).encode()


def _finished(whole: bytes) -> int:
    """Bytes up to the end of the last line that has its newline."""
    return whole.rfind(b"\n") + 1
