"""The form of a ledger line: which fields each action has, and of which type. Chain and signatures are verified in ledger.py."""

import hashlib
import json
from datetime import datetime
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeInt,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)

from moworld.errors import InputError, shown
from moworld_ops.components.platform import keys

TRUST, REVOKE, IMPORT, WITHDRAW = "trust", "revoke", "import", "withdraw"
MOVES = ("promote", "rollback", "adopt")  # actions after which a version is champion
Number = StrictStr | StrictInt  # of a version


class _Row(BaseModel):
    """A row of a verdict."""

    model_config = ConfigDict(extra="allow")
    gate: StrictStr
    passed: StrictBool | None


class _Line(BaseModel):
    """A line; other fields are kept as they are."""

    model_config = ConfigDict(extra="allow")
    action: StrictStr
    model: StrictStr
    index: NonNegativeInt
    before: StrictStr
    hash: StrictStr
    time: StrictStr
    clock: StrictStr = ""
    by: StrictStr = ""
    account: StrictStr = ""
    key: StrictStr = ""
    public_key: StrictStr = ""
    name: StrictStr = ""
    fingerprint: StrictStr = ""
    compromised: StrictBool = False
    version: Number | None = None
    previous: Number | None = None
    model_sha256: StrictStr = ""
    reason: StrictStr = ""
    override: StrictStr = ""
    profile: StrictStr = ""
    source: StrictStr = ""
    verdict: list[_Row] = []
    gates: list[dict[str, Any]] = []
    metrics: dict[str, Any] = {}
    removed: dict[str, StrictStr] = {}
    versions: dict[str, StrictStr] | list[StrictStr] | None = None
    revisions: list[StrictStr] | None = None

    @field_validator("time", "clock")
    @classmethod
    def _moment(cls, text: str) -> str:
        if datetime.fromisoformat(text).tzinfo is None:
            raise ValueError("a time with its time zone")
        return text

    @field_validator("public_key")
    @classmethod
    def _key(cls, text: str) -> str:
        try:
            keys.parse_public("public_key", text)
        except InputError as error:
            raise ValueError(error.expected) from None
        return text

    @model_validator(mode="after")
    def _fields_of_action(self) -> "_Line":
        needed: tuple[str, ...] = ()
        if self.action in MOVES:
            needed = ("version",)
        elif self.action == REVOKE:
            needed = ("fingerprint",)
        elif self.action == WITHDRAW:
            needed = ("source", "versions", "revisions")
        elif self.action in (TRUST, IMPORT) and self.key:
            needed = ("public_key", "name")
        missing = [name for name in needed if name not in self.model_fields_set or getattr(self, name) is None]
        if missing:
            raise ValueError(f"a line of action {self.action} with {', '.join(missing)}")
        if isinstance(self.versions, dict) if self.action == WITHDRAW else isinstance(self.versions, list):
            raise ValueError("versions in the form of its action")
        return self


def parse(text: str) -> dict[str, Any]:
    """Returns the entry of a line. Raises ValueError, with what is wrong, for a text that is no line."""
    try:
        entry = json.loads(text)
        _Line.model_validate(entry)
        if text != encode(entry):
            raise ValueError("not in the canonical form")
    except RecursionError:
        raise ValueError("a line nested too deeply") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))} {shown(first.get('input'))}: {first['msg']}") from None
    return dict(entry)


def entry_hash(entry: dict[str, Any]) -> str:
    """Returns the SHA-256 of an entry without its own hash."""
    return hashlib.sha256(encode({key: value for key, value in entry.items() if key != "hash"}).encode()).hexdigest()


def encode(entry: dict[str, Any]) -> str:
    """Returns the canonical text of an entry."""
    return json.dumps(entry, sort_keys=True)


def require_printable(entry: dict[str, Any]) -> None:
    """Raises InputError for a text in a new entry that would change the terminal of whoever reads the history."""
    for field, value in entry.items():
        if isinstance(value, str) and field != "public_key" and not value.isprintable():
            raise InputError("ledger", field, value, "printable text in one line", "remove control characters and undecodable bytes")
