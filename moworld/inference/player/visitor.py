"""One WebSocket connection of the player: waits for a seat, then carries messages to it and frames from it, until it ends."""

import asyncio
import base64
import contextlib
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from aiohttp import WSCloseCode, WSMsgType, web
from PIL import Image

from moworld.camera.cameras import resize_to_cover
from moworld.camera.controls import parse_controls
from moworld.errors import InputError
from moworld.inference.pictures import encode_png, read_picture, read_untrusted
from moworld.inference.player.messages import HEADER, Keys, Message, Pause, RateLimit, Record, Shown, Start, parse
from moworld.inference.player.seats import Seat, Waiting, cancelled
from moworld.inference.player.stream import discard
from moworld.video import Frames, write_video

if TYPE_CHECKING:
    from moworld.inference.player.server import Player

IDLE_SECONDS = 120.0  # without a message for so long, a visitor's seat is freed
MALFORMED = 10  # invalid messages after which a visitor is disconnected
KEPT_RECORDINGS = 8
RECORDED_HEIGHT = 480  # pixels at least: frames of small models are enlarged by an integer factor
MAX_WALKED = 3600  # frames of a walk that a start asks for
TAKEN_OVER = 4001  # close code: another connection of the same page has the seat


class Visitor:
    """A connection. session: of its page, "" for a page that cannot continue."""

    def __init__(self, player: "Player", socket: web.WebSocketResponse, session: str) -> None:
        self.player, self.socket, self.session = player, socket, session
        self.messages, self.malformed = RateLimit(rate=150, burst=300), 0
        self.uploads, self.starts = RateLimit(rate=0.5, burst=4), RateLimit(rate=1, burst=4)
        self.wanted: Start | None = None  # the newest start that is not opened yet
        self.opening: asyncio.Task[None] | None = None
        self.left = False  # for the seat: another connection has it, or it was idle

    async def visit(self) -> None:
        """Serves the connection until it ends; waits for a seat first."""
        seats, resumed = self.player.seats, True
        seat = await seats.resume(self.session)
        if seat is None:
            resumed, seat = False, seats.take(self.session)
        if seat is None and (seat := await self._wait(seats.wait(self.session))) is None:
            return
        try:
            await self.serve(seat, resumed)
        finally:
            if self.opening is not None:
                self.opening.cancel()
            if not self.left:
                seat.stream.send = discard
                seats.hold(seat)

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
                self.malformed += 1
                await self._say_error(error)
                if self.malformed > MALFORMED:
                    await self._end(WSCloseCode.POLICY_VIOLATION, "too many malformed messages")
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
            picture = seat.uploaded if message.picture is None else self.player.pictures[message.picture]
            seat.playing = asyncio.create_task(self._play(picture, message))

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
            stream.recorded, stream.recording = [], True
            return
        stream.recording = False
        if stream.recorded:
            name = await asyncio.to_thread(_write_recording, self.player.recording_folder, stream.recorded, self.player.fps)
            await self.socket.send_json({"type": "recording", "url": f"recordings/{name}.mp4", "frames": len(stream.recorded)})
            stream.recorded = []

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            with contextlib.suppress(ConnectionError):
                await self.socket.send_json({"type": "numbers", **self.stream.report(), **self.stream.walked.report()})

    async def _say_opened(self, start: Start) -> None:
        with contextlib.suppress(ConnectionError):
            await self.socket.send_json({"type": "opened", "picture": start.picture, "seed": start.seed, "prompt": start.prompt})

    async def _say_error(self, error: InputError) -> None:
        with contextlib.suppress(ConnectionError):
            await self.socket.send_json({"type": "error", "message": str(error)})

    async def _send_frame(self, number: int, keys: int, seconds: float, jpeg: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # `serve` receives the end of the connection
            await self.socket.send_bytes(HEADER.pack(number % 2**32, keys, seconds) + jpeg)

    async def _leave(self) -> None:
        """Ends this connection, whose seat another one of the same page takes. Does not wait for a peer that is gone."""
        self.left = True
        await cancelled(self.opening)
        self.ending = asyncio.create_task(self._end(TAKEN_OVER, "this walk goes on in another window"))

    async def _on_worker(self, work: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.player.worker, work, *arguments)

    async def _end(self, code: int, reason: str) -> None:
        with contextlib.suppress(ConnectionError):
            await self.socket.send_json({"type": "error", "message": reason})
            await self.socket.close(code=code, message=reason.encode())


def _write_recording(folder: Path, jpegs: list[bytes], fps: float) -> str:
    """Writes a recording under a random name, which it returns, and deletes the oldest ones."""
    name = secrets.token_hex(16)
    write_video(folder / f"{name}.mp4", map(_enlarged, map(read_picture, jpegs)), fps)
    for old in sorted(folder.glob("*.mp4"), key=lambda path: path.stat().st_mtime)[:-KEPT_RECORDINGS]:
        old.unlink(missing_ok=True)
    return name


def _enlarged(frame: Frames) -> Frames:
    """Returns a frame (H, W, 3) uint8 enlarged by the smallest integer factor with which it has `RECORDED_HEIGHT` pixels or more."""
    height, width = frame.shape[:2]
    factor = -(-RECORDED_HEIGHT // height)
    return frame if factor == 1 else np.asarray(Image.fromarray(frame).resize((width * factor, height * factor), Image.Resampling.BICUBIC))
