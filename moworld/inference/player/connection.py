"""What the connections of both protocols share: a place of the engine or one in the queue, limits of messages, and errors that are sent."""

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from aiohttp import WSCloseCode, WSMsgType, web

from moworld.errors import InputError
from moworld.inference.player.messages import RateLimit
from moworld.inference.player.seats import Seat, Waiting, cancelled

if TYPE_CHECKING:
    from moworld.inference.player.server import Player

MALFORMED = 10  # invalid messages after which a visitor is disconnected


class Connection:
    """A WebSocket connection. session: of its page, "" for a client that cannot continue."""

    def __init__(self, player: "Player", socket: web.WebSocketResponse, session: str = "") -> None:
        self.player, self.socket, self.session = player, socket, session
        self.messages, self.malformed = RateLimit(rate=150, burst=300), 0

    async def find_seat(self) -> Seat | None:
        """Returns a free seat, after a wait in the queue if there is none. Returns None if the connection ends before.

        Raises InputError if the queue is full.
        """
        seats = self.player.seats
        return seats.take(self.session) or await self._wait(seats.wait(self.session))

    async def _wait(self, waiting: Waiting) -> Seat | None:
        """Sends the place in the queue as it changes, until the visitor gets a seat. Returns None if the connection ends before."""
        ended: asyncio.Future[None] = asyncio.ensure_future(self._ended())
        place: asyncio.Future[int] = asyncio.ensure_future(waiting.places.get())
        given = False
        try:
            while not waiting.seat.done():
                changes: set[asyncio.Future[Any]] = {ended, place, waiting.seat}
                await asyncio.wait(changes, return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    return None
                if place.done():
                    limit = self.player.engine.max_sessions
                    await self.socket.send_json({"type": "queue", "place": place.result(), "sessions": limit})
                    place = asyncio.ensure_future(waiting.places.get())
            await cancelled(ended)
            given = True
            return waiting.seat.result()
        finally:
            waiting.leave()
            for task in (ended, place):
                task.cancel()
            if waiting.seat.done() and not given:  # to one who has left
                self.player.seats.release(waiting.seat.result())

    async def _ended(self) -> None:
        """Returns when the connection of one who waits is closed, or sends too many messages."""
        while (await self.socket.receive()).type in (WSMsgType.TEXT, WSMsgType.BINARY):
            if not self.messages.take():
                await self._end(WSCloseCode.POLICY_VIOLATION, "too many messages")
                return

    async def count_malformed(self, error: InputError) -> bool:
        """Sends the error of an invalid message, and returns whether the connection goes on."""
        self.malformed += 1
        await self._say_error(error)
        if self.malformed > MALFORMED:
            await self._end(WSCloseCode.POLICY_VIOLATION, "too many malformed messages")
        return self.malformed <= MALFORMED

    async def _say_error(self, error: InputError) -> None:
        with contextlib.suppress(ConnectionError):
            await self.socket.send_json({"type": "error", "message": str(error)})

    async def _on_worker(self, work: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.player.worker, work, *arguments)

    async def _end(self, code: int, reason: str) -> None:
        with contextlib.suppress(ConnectionError):
            await self.socket.send_json({"type": "error", "message": reason})
            await self.socket.close(code=code, message=reason.encode())
