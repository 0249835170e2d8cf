"""One connection of the page: waits for a seat, then carries messages to it and frames from it, until it ends."""

import asyncio
import base64
import contextlib
from typing import TYPE_CHECKING, Any

from aiohttp import WSCloseCode, WSMsgType, web

from moworld.camera.cameras import resize_to_cover
from moworld.camera.controls import parse_controls
from moworld.errors import InputError
from moworld.inference.pictures import encode_png, read_untrusted
from moworld.inference.player.connection import Connection
from moworld.inference.player.messages import HEADER, Keys, Message, Pause, RateLimit, Record, Shown, Start, parse
from moworld.inference.player.recorder import Walk, walk_of, write_recording
from moworld.inference.player.seats import Seat, cancelled
from moworld.inference.player.stream import discard

if TYPE_CHECKING:
    from moworld.inference.player.server import Player

IDLE_SECONDS = 120.0  # without a message for so long, a visitor's seat is freed
MAX_WALKED = 3600  # frames of a walk that a start asks for
TAKEN_OVER = 4001  # close code: another connection of the same page has the seat


class Visitor(Connection):
    """A connection of the page, by its own protocol (see `messages`)."""

    def __init__(self, player: "Player", socket: web.WebSocketResponse, session: str) -> None:
        super().__init__(player, socket, session)
        self.uploads, self.starts = RateLimit(rate=0.5, burst=4), RateLimit(rate=1, burst=4)
        self.wanted: Start | None = None  # the newest start that is not opened yet
        self.opening: asyncio.Task[None] | None = None
        self.left = False  # for the seat: another connection has it, or it was idle

    async def visit(self) -> None:
        """Serves the connection until it ends; waits for a seat first."""
        seats = self.player.seats
        resumed = await seats.resume(self.session)
        if (seat := resumed or await self.find_seat()) is None:
            return
        try:
            await self.serve(seat, resumed is not None)
        finally:
            if self.opening is not None:
                self.opening.cancel()
            if not self.left:
                seat.stream.send = discard
                seats.hold(seat)

    async def serve(self, seat: Seat, resumed: bool) -> None:
        """Carries messages and frames between the connection and its seat."""
        self.seat, self.stream = seat, seat.stream
        seat.leave, seat.session = self._leave, self.session
        resumed = resumed and seat.started is not None
        await self.socket.send_json(self.player.settings(self.stream.slot.session.chunk_frames) | {"type": "hello", "resumed": resumed})
        if resumed and seat.started is not None:
            await self._say_opened(seat.started)
            self.stream.shown = self.stream.number  # frames that were on their way are lost
        self.stream.send = self._send_frame
        if resumed:
            self.stream.running.set()
        reports = asyncio.create_task(self._report())
        try:
            await self._receive()
        except TimeoutError:
            await self._end(WSCloseCode.GOING_AWAY, "idle for two minutes")
            self.left = True
            self.player.seats.release(seat)
        except ConnectionError:
            pass  # the browser is gone
        finally:
            await cancelled(reports)

    async def _receive(self) -> None:
        while True:
            message = await self.socket.receive(timeout=IDLE_SECONDS)
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return
            if self.left:
                return
            if not self.messages.take():
                await self._end(WSCloseCode.POLICY_VIOLATION, "too many messages")
                return
            try:
                await (self._upload(message.data) if message.type == WSMsgType.BINARY else self._handle(parse(message.data)))
            except InputError as error:
                if not await self.count_malformed(error):
                    return

    async def _handle(self, message: Message) -> None:
        stream = self.stream
        if isinstance(message, Keys):
            stream.hold("".join(key for key in message.held if key in self.player.keys), message.number)
        elif isinstance(message, Shown):
            stream.shown = max(stream.shown, min(message.frame, stream.number))
        elif isinstance(message, Pause):
            (stream.running.clear if message.paused else stream.running.set)()
        else:
            await (self._record(message.on) if isinstance(message, Record) else self._start(message))

    async def _start(self, message: Start) -> None:
        offered = self.player.pictures
        if message.picture is None and self.seat.uploaded is None:
            raise InputError("start", "picture", "none uploaded", "a picture sent before", "send one, or choose an offered one")
        if message.picture is not None and message.picture >= len(offered):
            raise InputError("start", "picture", message.picture, f"below {len(offered)}", "choose an offered picture")
        if message.walk and len(parse_controls(message.walk)) > MAX_WALKED:
            raise InputError("start", "walk", "a longer walk", f"at most {MAX_WALKED} frames", "walk on from a shorter one")
        self.wanted = message
        if self.opening is None or self.opening.done():
            self.opening = asyncio.create_task(self._open())

    async def _open(self) -> None:
        """Opens the newest of the wanted worlds, not more often than allowed."""
        while self.wanted is not None:
            while not self.starts.take():
                await asyncio.sleep(0.1)
            message, self.wanted = self.wanted, None
            seat, stream = self.seat, self.stream
            await cancelled(seat.playing)
            await stream.slot.wait_until_idle()
            stream.running.set()
            seat.started = message
            await self._say_opened(message)
            seat.playing = asyncio.create_task(self._play(self._first_picture(message), message))

    async def _play(self, picture: Any, message: Start) -> None:
        prompt, walk = message.prompt or self.player.prompt, parse_controls(message.walk) if message.walk else []
        try:
            if prompt:  # a first prompt loads the text encoder: on the worker, so that other sessions do not wait for it
                await self._on_worker(self.player.engine.text_encoder.encode, [prompt])
            await self.stream.play(picture, prompt, message.seed, walk)
        except InputError as error:
            await self._say_error(error)

    async def _upload(self, data: bytes) -> None:
        if not self.uploads.take():
            raise InputError("picture", "", "uploads too quickly", "one in two seconds", "wait a moment")
        config = self.player.engine.model.config
        picture = await self._on_worker(lambda: resize_to_cover(read_untrusted(data), (config.height, config.width)))
        self.seat.uploaded = picture
        # as PNG in the size of the model, so that the page can send the same pixels again after a restart
        await self.socket.send_json({"type": "uploaded", "picture": base64.b64encode(encode_png(picture)).decode()})

    async def _record(self, on: bool) -> None:
        stream = self.stream
        if on:
            stream.record()
            return
        stream.recording = False
        if stream.recorded:
            jpegs, walk, origins = stream.recorded, self._recorded_walk(), self.player.origins
            stream.recorded = []
            name = await asyncio.to_thread(write_recording, self.player.recording_folder, jpegs, self.player.fps, walk, origins)
            url = f"recordings/{name}.mp4"
            record = {"record": f"{url}.json", "signed": origins.sign is not None} if walk and origins else {"record": "", "signed": False}
            await self.socket.send_json({"type": "recording", "url": url, "frames": len(jpegs), **record})

    def _recorded_walk(self) -> Walk | None:
        start, origins = self.seat.started, self.player.origins
        if start is None or origins is None:
            return None
        config = self.player.engine.model.config
        picture = resize_to_cover(self._first_picture(start), (config.height, config.width))
        return walk_of(self.stream, self.player.engine, start, start.prompt or self.player.prompt, picture, origins)

    def _first_picture(self, start: Start) -> Any:
        return self.seat.uploaded if start.picture is None else self.player.pictures[start.picture]

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            with contextlib.suppress(ConnectionError):
                await self.socket.send_json({"type": "numbers", **self.stream.report(), **self.stream.walked.report()})

    async def _say_opened(self, start: Start) -> None:
        with contextlib.suppress(ConnectionError):
            await self.socket.send_json({"type": "opened", "picture": start.picture, "seed": start.seed, "prompt": start.prompt})

    async def _send_frame(self, number: int, keys: int, seconds: float, jpeg: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # `serve` receives the end of the connection
            await self.socket.send_bytes(HEADER.pack(number % 2**32, keys, seconds) + jpeg)

    async def _leave(self) -> None:
        """Ends this connection, whose seat another one of the same page takes. Does not wait for a peer that is gone."""
        self.left = True
        await cancelled(self.opening)
        self.ending = asyncio.create_task(self._end(TAKEN_OVER, "this walk goes on in another window"))
