"""Append-only record of releases: lines with the hash of the previous line, each signed by the key of its manager.

MLflow's aliases keep no history; the ledger does. It is a table of the registry's database, SQLite or PostgreSQL, so every machine that
reaches the database reads and writes the same lines. The first line makes its signer's key trusted; further keys are added and removed by
lines of trusted managers. `entries` finds lines that were changed, removed, inserted or signed by another key.

A ledger written before lines were signed (JSON lines in the state folder) is read as it is, and copied into the table by the first
command that writes; a signed line of action `import` then covers it.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from moworld.errors import InputError, IntegrityError
from moworld_ops.components.platform import keys
from moworld_ops.components.platform.file_lock import busy, file_locked
from moworld_ops.components.platform.home import home
from moworld_ops.components.platform.keys import PublicKey
from moworld_ops.components.platform.ledger_line import (
    IMPORT as IMPORT,
)
from moworld_ops.components.platform.ledger_line import (
    MOVES as MOVES,
)
from moworld_ops.components.platform.ledger_line import (
    REVOKE as REVOKE,
)
from moworld_ops.components.platform.ledger_line import (
    TRUST as TRUST,
)
from moworld_ops.components.platform.ledger_line import (
    WITHDRAW as WITHDRAW,
)
from moworld_ops.components.platform.ledger_line import (
    encode as encode,
)
from moworld_ops.components.platform.ledger_line import (
    entry_hash as entry_hash,
)
from moworld_ops.components.platform.ledger_line import (
    parse,
    require_printable,
)
from moworld_ops.components.platform.pins import Pin
from moworld_ops.components.platform.tracking import engine_at, readable

START = "0" * 64  # "before" of the first line
TABLE = "moworld_ledger"
LOCK_KEY = int.from_bytes(hashlib.sha256(TABLE.encode()).digest()[:7], "big")  # of PostgreSQL's advisory lock
LOCK_SECONDS = 120
CLOCK_SKEW = timedelta(minutes=2)  # between managers' machines
CLOCK = "MOWORLD_LEDGER_CLOCK"
RESTORE = "restore the ledger from a copy of the database"

Row = tuple[str, str]  # a line's JSON, and its signature in base64; "" for a line of the former file


class Ledger:
    """The ledger in a database. former: the file of a ledger written before, which is read while the table has no line."""

    def __init__(self, url: str, former: Path | None = None) -> None:
        self.engine, self.former = engine_at(url), former
        self.pin = Pin(self.engine.url)
        self.known_versions: Callable[[], dict[str, str]] = dict  # NAME@NUMBER -> hash, of versions registered before the first line
        self._checked: tuple[list[Row], list[dict[str, Any]]] = ([], [])  # rows that were verified, and their entries
        self.where = f"ledger in {self.engine.url.render_as_string(hide_password=True)}"

    def rows(self) -> list[Row]:
        """Returns all lines as stored. Raises InputError if the database cannot be read."""
        from sqlalchemy import inspect, text

        path = self.engine.url.database
        if self.engine.dialect.name == "sqlite" and not Path(path).exists():
            if not Path(path).parent.is_dir() and not Path(path).is_relative_to(home()):
                raise InputError(path, "registry.database", "no such directory", "the database with the ledger", "correct its address")
            return self._former_rows()
        with readable(self.engine), self.engine.connect() as connection:
            if not inspect(connection).has_table(TABLE):
                return self._former_rows()
            found = connection.execute(text(f"SELECT line, signature FROM {TABLE} ORDER BY position"))
            return [(line, signature) for line, signature in found] or self._former_rows()

    def entries(self) -> list[dict[str, Any]]:
        """Returns all entries, oldest first.

        Raises IntegrityError for the first line that is not as its manager wrote it, and if lines are missing that this machine has seen.
        """
        seen = self.pin.seen()  # before the lines are read: another process may append some
        rows, (known, entries) = self.rows(), self._checked
        entries = verify(self.where, rows, self.pinned(), entries if known and rows[: len(known)] == known else ())
        self.pin.check(self.where, entries, seen)
        self._checked = (rows, entries)
        return list(entries)

    def pinned(self) -> list[PublicKey]:
        """Returns the keys of which one must have signed a line: MOWORLD_SIGNING_PUBLIC_KEY, keys/trusted/, or the first key seen here."""
        return keys.pinned_keys() or self.pin.keys()

    def remember(self) -> list[dict[str, Any]]:
        """Returns all entries, and records their end as seen by this machine. The caller holds the lock and is about to change something."""
        entries = self.entries()
        self.pin.remember(entries)
        return entries

    def append(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Appends a signed entry and returns it with its time, manager, key and hashes. The caller holds the lock.

        The first line of a ledger makes its signer's key trusted. Raises InputError if this manager's key is not trusted, or the clock
        is behind the last line; IntegrityError if the ledger is damaged.
        """
        entries = self.ensure()
        public = self._require_trusted(entries)
        return self._write(entries, {"by": _names(entries)[public.fingerprint], **entry})

    def ensure(self) -> list[dict[str, Any]]:
        """Returns all entries, after starting a ledger that has no signed line. The caller holds the lock."""
        entries = self.entries()
        return entries if any("key" in one for one in entries) else self._found(entries)

    def check_trusted(self) -> None:
        """Raises InputError if this manager's key is not trusted by the signed lines, if there is one. The caller holds the lock."""
        entries = self.entries()
        if trusted_keys(entries):
            self._require_trusted(entries)

    def check_signer(self) -> None:
        """Raises InputError if this manager's key is not trusted; starts a ledger that has no signed line."""
        with self.locked():
            self._require_trusted(self.ensure())

    def _require_trusted(self, entries: Sequence[dict[str, Any]]) -> PublicKey:
        public = keys.signing_key()[1]
        if public.fingerprint not in trusted_keys(entries):
            found = f"a key that the registry does not trust ({public.fingerprint[:12]})"
            fix = f"a trusted manager adds it: moworld release trust {keys.private_path().with_suffix('.pub')} --name NAME"
            raise InputError(keys.private_path(), "", found, "a key of 'moworld release keys'", fix)
        return public

    def _found(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Creates the table with the former file's lines, and the first signed lines: the signer's key, and what was imported."""
        self._create(self._former_rows() if entries else [])
        public = keys.signing_key()[1]
        first: dict[str, Any] = {"action": TRUST, "model": "", "public_key": public.pem, "name": keys.account(), "by": keys.account()}
        first |= {"versions": self.known_versions()}
        if entries:
            first |= {"action": IMPORT, "lines": len(entries)}
        return [*entries, self._write(entries, first)]

    def _write(self, entries: Sequence[dict[str, Any]], entry: dict[str, Any]) -> dict[str, Any]:
        from sqlalchemy import text

        require_printable(entry)
        now, last = datetime.now(UTC), entries[-1] if entries else None
        self._check_clock(now, last)
        moment = max(now, _time(last)) if last else now
        line = {**entry, "account": keys.account(), "time": moment.isoformat(timespec="seconds"), "index": len(entries)}
        if moment - now > CLOCK_SKEW:
            line["clock"] = now.isoformat(timespec="seconds")
        line |= {"before": entries[-1]["hash"] if entries else START, "key": keys.signing_key()[1].fingerprint}
        line["hash"] = entry_hash(line)
        data = encode(line)
        signature = keys.encode(keys.sign(data.encode())[0])
        with readable(self.engine), self.engine.begin() as connection:  # a second line at this position would break the primary key
            values = {"position": len(entries), "line": data, "signature": signature}
            connection.execute(text(f"INSERT INTO {TABLE} VALUES (:position, :line, :signature)"), values)
        self.pin.remember([*entries, line])
        return line

    def _check_clock(self, now: datetime, last: dict[str, Any] | None) -> None:
        """Raises InputError if this machine's clock differs from the database's, or went back since the last line.

        A last line in the future is accepted if another manager wrote it, or the database's clock confirms this one: then the next line has
        the time of the last one, and in `clock` its own. Otherwise CLOCK=accept accepts it.
        """
        from sqlalchemy import text

        confirmed = False
        if self.engine.dialect.name == "postgresql":
            with readable(self.engine), self.engine.connect() as connection:
                theirs = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
            confirmed = abs(now - theirs) <= CLOCK_SKEW
            if not confirmed:
                expected = f"the database's, {theirs.isoformat(timespec='seconds')}, within {CLOCK_SKEW}"
                raise InputError("clock", "", now.isoformat(timespec="seconds"), expected, "set this machine's clock")
        if last is None or confirmed:
            return
        written = datetime.fromisoformat(last.get("clock") or last["time"])
        foreign = last.get("key") not in (None, keys.signing_key()[1].fingerprint)
        if written - now > CLOCK_SKEW and not foreign and os.environ.get(CLOCK) != "accept":
            expected = f"a time after the ledger's last line, {written.isoformat()}, of {last.get('by') or 'an unknown manager'}, which this key wrote"
            fix = f"set this machine's clock; if the line's was wrong, set {CLOCK}=accept for this command, and both times are recorded"
            raise InputError("clock", "", now.isoformat(timespec="seconds"), expected, fix)

    def _create(self, rows: Sequence[Row]) -> None:
        from sqlalchemy import text

        with readable(self.engine), self.engine.begin() as connection:
            columns = "position INTEGER PRIMARY KEY, line TEXT NOT NULL, signature TEXT NOT NULL"
            connection.execute(text(f"CREATE TABLE IF NOT EXISTS {TABLE} ({columns})"))
            if connection.execute(text(f"SELECT COUNT(*) FROM {TABLE}")).scalar():
                return  # a command that died had copied them
            for position, (line, signature) in enumerate(rows):
                values = {"position": position, "line": line, "signature": signature}
                connection.execute(text(f"INSERT INTO {TABLE} VALUES (:position, :line, :signature)"), values)

    def _former_rows(self) -> list[Row]:
        """Returns the complete lines of the former file: the last one may have been cut by the death of its writer."""
        if self.former is None or not self.former.is_file():
            return []
        data = self.former.read_bytes()
        return [(line, "") for line in data[: data.rfind(b"\n") + 1].decode("utf-8", "replace").splitlines()]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the registry's lock for changes that the ledger records, between threads, processes and machines. Not re-entrant.

        In PostgreSQL it is an advisory lock of the session, so it ends with its holder. Beside SQLite it is a file lock: SQLite's own
        would keep MLflow from writing to the same database. Raises InputError after LOCK_SECONDS.
        """
        if self.engine.dialect.name == "sqlite":
            with file_locked(Path(f"{Path(self.engine.url.database).resolve()}.lock"), self.where, LOCK_SECONDS):  # one lock for all links to a file
                yield
            return
        from sqlalchemy import exc, text

        with readable(self.engine), self.engine.connect() as connection:
            connection.execute(text(f"SET lock_timeout = '{LOCK_SECONDS}s'"))
            try:
                connection.execute(text(f"SELECT pg_advisory_lock({LOCK_KEY})"))
            except exc.OperationalError as error:
                if "lock timeout" not in str(error):
                    raise
                raise busy(self.where, LOCK_SECONDS) from None
            connection.commit()  # the lock is the session's; an open transaction would keep old rows
            try:
                yield
            finally:
                connection.execute(text(f"SELECT pg_advisory_unlock({LOCK_KEY})"))
                connection.commit()


def verify(
    where: str, rows: Sequence[Row], pinned: Sequence[PublicKey] = (), verified: Sequence[dict[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Returns the entries of rows, oldest first. Raises IntegrityError for the first row that is not as its manager wrote it.

    pinned:   unless empty, one of these keys must have signed a line, which covers all lines before it
    verified: entries of the first rows, which are not verified again
    """
    entries = list(verified)
    trusted = trusted_keys(entries)
    for index, (text, signature) in enumerate(rows[len(entries) :], len(entries)):
        before = entries[-1]["hash"] if entries else START
        try:
            entry = parse(text)
        except ValueError as error:
            raise _damaged(where, index, f"a line that does not follow from the previous one ({error})", "an unbroken chain") from None
        if (entry["before"], entry["index"], entry["hash"]) != (before, index, entry_hash(entry)):
            raise _damaged(where, index, "a line that does not follow from the previous one", "an unbroken chain")
        if signature or "key" in entry or trusted:
            trusted = _signed(where, entry, text, signature, trusted)
            if entries and "key" in entries[-1] and _time(entry) < _time(entries[-1]):
                raise _damaged(where, index, f"time {entry['time']}", f"none before {entries[-1]['time']}")
        entries.append(entry)
    signers = {entry["key"] for entry in entries if "key" in entry}
    if pinned and signers and not signers & {key.fingerprint for key in pinned}:
        found = f"lines by {', '.join(sorted(signer[:12] for signer in signers))} only"
        raise IntegrityError(where, "keys", found, f"a line by {', '.join(key.fingerprint[:12] for key in pinned)}", RESTORE)
    return entries


def trusted_keys(entries: Sequence[dict[str, Any]]) -> dict[str, PublicKey]:
    """Returns fingerprint -> key of the keys that verified entries list as trusted at their end."""
    found: dict[str, PublicKey] = {}
    for entry in entries:
        if entry["action"] in (TRUST, IMPORT) and "key" in entry:
            public = PublicKey(entry["public_key"])
            found[public.fingerprint] = public
        elif entry["action"] == REVOKE:
            found.pop(entry["fingerprint"], None)
    return found


def with_former_evidence(entries: Sequence[dict[str, Any]]) -> dict[str, str] | None:
    """Returns NAME@NUMBER -> hash of the versions that were registered before evidence named them; None: no signed line says which."""
    return next((dict(entry["versions"]) for entry in entries if "versions" in entry and "key" in entry), None)


def accepted_keys(entries: Sequence[dict[str, Any]]) -> list[PublicKey]:
    """Returns the keys whose signatures of models are accepted: those that were ever trusted and are not revoked as compromised."""
    found = {entry["public_key"]: PublicKey(entry["public_key"]) for entry in entries if "public_key" in entry and "key" in entry}
    bad = {entry["fingerprint"] for entry in entries if entry["action"] == REVOKE and entry.get("compromised")}
    return [key for key in found.values() if key.fingerprint not in bad]


def adoption(name: str) -> str:
    """Returns how to correct an alias `champion` that is not where the ledger says."""
    return f"move the alias back, or record where it is, or restore one that is gone: moworld release adopt {name} --reason REASON"


def champion_of(entries: Sequence[dict[str, Any]]) -> str | None:
    """Returns the champion by the ledger's lines of a model."""
    return next((str(entry["version"]) for entry in reversed(entries) if entry["action"] in MOVES), None)


def champions(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the promoted versions in order, without those that were rolled back."""
    stack: list[str] = []
    for entry in entries:
        version = str(entry.get("version"))
        if entry["action"] == "rollback" and version in stack[:-1]:
            stack = stack[: len(stack) - stack[:-1][::-1].index(version) - 1]
        elif entry["action"] in MOVES and stack[-1:] != [version]:
            stack.append(version)
    return stack


def withdrawals(entries: Sequence[dict[str, Any]], version: str, data_revision: str) -> list[dict[str, Any]]:
    """Returns the withdrawals of footage that a version learned from. version: NAME@NUMBER; data_revision: of its signed evidence"""
    lines = [entry for entry in entries if entry["action"] == WITHDRAW]
    return [entry for entry in lines if version in entry["versions"] or (data_revision and data_revision in entry["revisions"])]


def _signed(
    where: str, entry: dict[str, Any], text: str, signature: str, trusted: dict[str, PublicKey]
) -> dict[str, PublicKey]:
    """Returns the trusted keys after a signed line. Raises IntegrityError unless a key that is trusted before it signed it."""
    index, fingerprint = entry["index"], entry.get("key", "")
    if not trusted:  # the first signed line
        public = PublicKey(str(entry.get("public_key", "")))
        if entry["action"] != (IMPORT if index else TRUST) or public.fingerprint != fingerprint:
            raise _damaged(where, index, f"a first signed line of action {entry['action']}", "one that lists its signer's key")
        trusted = {fingerprint: public}
    if fingerprint not in trusted:
        raise _damaged(where, index, f"a line by key {fingerprint[:12] or 'none'}", "one by a key that was trusted then")
    if not trusted[fingerprint].verifies(keys.decode(signature), text.encode()):
        raise _damaged(where, index, "a line that its key did not sign", "the manager's signature")
    changed = trusted_keys([entry]) if entry["action"] != REVOKE else {}
    return {**{key: value for key, value in trusted.items() if entry["action"] != REVOKE or key != entry["fingerprint"]}, **changed}


def _names(entries: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Returns fingerprint -> the manager's name of every key that was ever trusted."""
    return {PublicKey(entry["public_key"]).fingerprint: entry["name"] for entry in entries if "public_key" in entry}


def _time(entry: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(entry["time"])


def _damaged(where: str, index: int, found: str, expected: str) -> IntegrityError:
    return IntegrityError(where, f"line {index + 1}", found, expected, f"the ledger was edited: {RESTORE}")
