"""Places of the engine: one for each world, kept for a while if its visitor's connection is lost, and a queue for who comes later."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from moworld.errors import InputError
from moworld.inference.engine import Engine, Slot
from moworld.inference.player.messages import Start
from moworld.inference.player.stream import Stream
from moworld.video import Frames

HELD_SECONDS = 30.0  # a walk whose connection was lost can be continued for so long, unless somebody waits
MAX_WAITING = 64


@dataclass(eq=False)
class Seat:
    """A place that one page has: its stream, and what was started.

    session: of the page; "" for one that cannot continue
    leave:   called when another connection of the same page takes the place over
    """

    slot: Slot
    stream: Stream
    session: str = ""
    uploaded: Frames | None = None
    started: Start | None = None
    playing: "asyncio.Task[None] | None" = None
    leave: Callable[[], Awaitable[None]] | None = None
    held_since: float = 0.0


@dataclass(eq=False)
class Seats:
    """The seats of a server. Everything runs on the event loop's thread."""

    engine: Engine
    fps: float
    taken: set[Seat] = field(default_factory=set)
    held: dict[str, Seat] = field(default_factory=dict)
    waiting: deque["Waiting"] = field(default_factory=deque)

    async def resume(self, session: str) -> Seat | None:
        """Returns the seat of a page that comes back, or None. A connection that still has the seat is closed."""
        seat = self.held.pop(session, None) if session else None
        if seat is None:
            seat = next((one for one in self.taken if session and one.session == session), None)
        if seat is not None and seat.leave is not None:
            leave, seat.leave = seat.leave, None
            await leave()
        return seat

    def take(self, session: str) -> Seat | None:
        """Returns a free seat, or None. A seat that is held for an absent visitor is given to one who is here."""
        if self.waiting:
            return None
        return self._take(session)

    def _take(self, session: str) -> Seat | None:
        try:
            slot = self.engine.admit()
        except InputError:
            if not self.held:
                return None
            self.release(min(self.held.values(), key=lambda seat: seat.held_since))
            slot = self.engine.admit()
        seat = Seat(slot, Stream(slot, self.fps), session)
        self.taken.add(seat)
        return seat

    def wait(self, session: str) -> "Waiting":
        """Returns a place in the queue, to be left by `Waiting.leave`. Raises InputError if the queue is full."""
        if len(self.waiting) >= MAX_WAITING:
            raise InputError("player", "visitors", f"{MAX_WAITING} in the queue", "a free place", "come back later")
        waiting = Waiting(self, session)
        self.waiting.append(waiting)
        return waiting

    def hold(self, seat: Seat) -> None:
        """Keeps the seat of a lost connection for `HELD_SECONDS`, paused; frees it at once if it has no world or somebody waits."""
        seat.leave = None
        if not seat.session or seat.playing is None or self.waiting:
            self.release(seat)
            return
        seat.stream.running.clear()
        seat.held_since = time.monotonic()
        self.held[seat.session] = seat
        asyncio.get_running_loop().call_later(HELD_SECONDS, self._expire, seat, seat.held_since)

    def _expire(self, seat: Seat, since: float) -> None:
        if self.held.get(seat.session) is seat and seat.held_since == since:
            self.release(seat)

    def release(self, seat: Seat) -> None:
        """Ends the seat's world and gives the place to the next in the queue."""
        if self.held.get(seat.session) is seat:
            del self.held[seat.session]
        self.taken.discard(seat)
        if seat.playing is not None:
            seat.playing.cancel()
        seat.slot.release()
        while self.waiting and (next_seat := self._take(self.waiting[0].session)) is not None:
            self.waiting.popleft().seat.set_result(next_seat)
        for place, waiting in enumerate(self.waiting, 1):
            waiting.report(place)


class Waiting:
    """A visitor in the queue. seat: a future of the seat; places: the newest place, 1 for the next one, as it changes."""

    def __init__(self, seats: Seats, session: str) -> None:
        self.seats, self.session = seats, session
        self.seat: asyncio.Future[Seat] = asyncio.get_running_loop().create_future()
        self.places: asyncio.Queue[int] = asyncio.Queue()
        self.report(len(seats.waiting) + 1)

    def report(self, place: int) -> None:
        self.places.put_nowait(place)

    def leave(self) -> None:
        """Leaves the queue."""
        if self in self.seats.waiting:
            self.seats.waiting.remove(self)
            for place, other in enumerate(self.seats.waiting, 1):
                other.report(place)


async def cancelled(task: "asyncio.Future[Any] | None") -> None:
    """Cancels a task and waits for its end."""
    if task is not None:
        task.cancel()
        await asyncio.wait([task])
