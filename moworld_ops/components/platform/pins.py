"""What this machine remembers of a registry, in keys/registries/ of the state folder: its first key, and the last ledger line it has seen.

A ledger that was replaced by another, erased, or cut at its end is found with them. Both are written by commands that move a champion or
append a line, never by a verification. A machine that never ran one has neither; there MOWORLD_SIGNING_PUBLIC_KEY pins a key.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from moworld.errors import InputError, IntegrityError
from moworld.files import atomic_write
from moworld_ops.components.platform import keys
from moworld_ops.components.platform.home import home
from moworld_ops.components.platform.keys import PublicKey


class Seen(BaseModel):
    """The last line that was seen: its index and its hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    index: NonNegativeInt
    hash: str


class Pin:
    """The pin of the registry whose ledger is in the database at `url`, an address of SQLAlchemy."""

    def __init__(self, url: Any) -> None:
        self.url = url

    def _path(self, suffix: str) -> Path:
        url, database = self.url, str(self.url.database)
        host = url.host or ",".join(url.normalized_query.get("host", ())) or None
        text = f"{host}:{url.port}/{database}"
        if url.get_backend_name() == "sqlite" and Path(database).is_relative_to(home()):  # it moves with the state folder
            inside = Path(database).relative_to(home()).as_posix()
            text = "home" if inside == "mlflow/mlflow.db" else f"home/{inside}"
        return home() / "keys" / "registries" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}{suffix}"

    def keys(self) -> list[PublicKey]:
        """Returns the first key of the registry, as it was seen here first; [] for a registry that is new to this machine."""
        path = self._path(".pub")
        return keys.read_public(path) if path.is_file() else []

    def seen(self) -> Seen | None:
        """Returns the last line that was seen, or None. Raises InputError for a damaged file."""
        path = self._path(".seen")
        if not path.is_file():
            return None
        try:
            return Seen.model_validate_json(path.read_bytes())
        except ValidationError:
            fix = "delete it, after checking the end of 'moworld release history'"
            raise InputError(path, "", "no record of a line", "index and hash of the last ledger line seen here", fix) from None

    def check(self, where: str, entries: Sequence[dict[str, Any]], seen: Seen | None) -> None:
        """Raises IntegrityError unless entries, which are verified, contain the line `seen`, and a signed one if a key is pinned."""
        fix = f"restore the ledger from a copy of the database; if it was removed on purpose, delete {self._path('.*')}"
        if seen and (len(entries) <= seen.index or entries[seen.index]["hash"] != seen.hash):
            found = f"{len(entries)} lines" if len(entries) <= seen.index else f"another line {seen.index + 1}"
            raise IntegrityError(where, f"line {seen.index + 1}", found, f"the line with hash {seen.hash[:12]}, which was seen here", fix)
        if self.keys() and not any("key" in entry for entry in entries):
            raise IntegrityError(where, "line 1", "no signed line", "the lines of a registry whose key is pinned here", fix)

    def remember(self, entries: Sequence[dict[str, Any]]) -> None:
        """Records the first key and the last line of verified entries. The caller holds the registry's lock."""
        if not any("key" in entry for entry in entries):
            return
        if not self._path(".pub").is_file():
            with atomic_write(self._path(".pub"), "w") as stream:
                stream.write(next(PublicKey(entry["public_key"]).pem for entry in entries if "key" in entry))
        last = Seen(index=len(entries) - 1, hash=entries[-1]["hash"])
        if self.seen() != last:
            with atomic_write(self._path(".seen"), "w") as stream:
                stream.write(last.model_dump_json())
