"""A budget of tokens for requests to a server, which is never exceeded, also over attempts of a run that were killed.

A request reserves the most that it can cost before it is sent, and pays what the server reports. Each reservation is written to a file
first: one whose request never came back counts as spent, because the server may have billed it.
"""

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moworld.errors import InputError
from moworld.files import Pathlike


class BudgetSpent(Exception):
    """The next request could exceed the budget."""


class Reservation:
    """Tokens that one request may cost. `cost`: what it did cost, 0 if the server refused it; without it all of them count as spent."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.cost: int | None = None


class Budget:
    """Tokens that several threads share.

    limit: tokens; None for no limit
    file:  JSONL of earlier reservations of the same work, which is read and appended to; None keeps none
    Raises InputError for a file that was not written here.
    """

    def __init__(self, limit: int | None, file: Pathlike | None = None) -> None:
        self.limit, self.file = limit, Path(file) if file and limit is not None else None
        self.spent = self._earlier()
        self._reserved, self._factor, self._known = 0, 1.0, False
        self._changed = threading.Condition()

    @contextmanager
    def reserved(self, most: int) -> Iterator[Reservation]:
        """Gives a reservation of `most` tokens while its request is under way; waits if others must return first.

        The first request runs alone: if it costs more than its `most`, later ones reserve more in proportion.
        Raises BudgetSpent if the tokens are not there.
        """
        if self.limit is None:
            yield Reservation(0)
            return
        held, name = self._take(most, self.limit), uuid.uuid4().hex[:12]
        self._write(name, held.tokens)
        try:
            yield held
        finally:
            cost = held.tokens if held.cost is None else held.cost
            self._write(name, cost)
            with self._changed:
                self._reserved -= held.tokens
                self.spent += cost
                if held.cost:
                    self._known, self._factor = True, max(self._factor, held.cost / most)
                self._changed.notify_all()

    def _take(self, most: int, limit: int) -> Reservation:
        with self._changed:
            while True:
                tokens = round(most * self._factor + 0.5)
                alone = self._known or not self._reserved
                if alone and self.spent + self._reserved + tokens <= limit:
                    self._reserved += tokens
                    return Reservation(tokens)
                if not self._reserved:
                    raise BudgetSpent(f"{self.spent} of {limit} tokens are spent, and the next request may cost {tokens}")
                self._changed.wait()

    def _earlier(self) -> int:
        """Returns what earlier attempts have spent. A last line that a kill cut short is a reservation whose request was not sent."""
        if self.file is None or not self.file.is_file():
            return 0
        costs: dict[str, int] = {}
        whole, _, torn = self.file.read_bytes().rpartition(b"\n")
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                costs[entry["request"]] = int(entry["tokens"])
            except (ValueError, KeyError, TypeError):
                raise InputError(self.file, f"line {number}", "no request with its tokens", "lines of this program", "remove that line") from None
        if torn:
            with self.file.open("rb+") as stream:
                stream.truncate(len(whole) + 1 if whole else 0)
        return sum(costs.values())

    def _write(self, name: str, tokens: int) -> None:
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self._changed, self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"request": name, "tokens": tokens}) + "\n")
