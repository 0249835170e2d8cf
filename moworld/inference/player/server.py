"""HTTP server of the player: one page, and one WebSocket per visitor. Loopback needs no token; any other address does."""

import asyncio
import contextlib
import hmac
import secrets
import socket as socket_module
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily

from moworld.camera.cameras import resize_to_cover
from moworld.errors import InputError
from moworld.inference.engine import Engine
from moworld.inference.pictures import PICTURE_BYTES, encode_jpeg, read_picture
from moworld.inference.player.messages import HEADER, Keys, Message, Pause, RateLimit, Record, Shown, Start, parse
from moworld.inference.player.stream import Stream
from moworld.video import Frames, write_video

LOOPBACK = ("127.0.0.1", "localhost", "::1")
IDLE_SECONDS = 120.0  # without a message for so long, a visitor's slot is freed
STALLED_SECONDS = 10  # frames are dropped if they are not drawn, so even on the slowest line no byte waits for so long
MALFORMED = 10  # invalid messages after which a visitor is disconnected
KEPT_RECORDINGS = 8
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "media-src 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
PAGE = {"/": "page.html", "/page.js": "page.js", "/page.css": "page.css"}
METRICS = {  # moworld_player_NAME; the first four are means over the sessions
    "fps": "Frames per second that are sent",
    "chunk_interval_ms": "Median time between chunks",
    "making_ms": "90th percentile of the time from the request of a chunk to its frames",
    "deadline_attainment": "Share of chunks in time",
    "sessions": "Sessions now",
    "sessions_limit": "Sessions at most",
    "dropped_frames": "Frames that were dropped because the browser fell behind",
}


@dataclass(eq=False)
class Player:
    """Settings and state of one server.

    pictures: (H, W, 3) uint8 of any size to start from
    prompt:   default prompt of the page
    Raises InputError for a prompt if the extra `text` is not installed.
    """

    engine: Engine
    pictures: list[Frames]
    fps: float
    host: str = "127.0.0.1"
    token: str = ""
    prompt: str = ""
    recordings: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="moworld-player-")))
    streams: set[Stream] = field(default_factory=set)
    worker: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, "pictures"))  # decodes one picture at a time: each needs memory

    def __post_init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        if self.prompt:
            self.engine.text_encoder.encode([self.prompt])

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics, as a collector of prometheus_client."""
        reports = [stream.report() for stream in self.streams]
        values = {name: sum(report[name] for report in reports) / len(reports) for name in list(METRICS)[:4] if reports}
        values |= {"sessions": self.engine.sessions, "sessions_limit": self.engine.max_sessions}
        values["dropped_frames"] = sum(report["dropped"] for report in reports)
        for name, value in values.items():
            yield GaugeMetricFamily(f"moworld_player_{name}", METRICS[name], value)

    def application(self) -> web.Application:
        """Returns the aiohttp application."""
        app = web.Application(middlewares=[self._guard], client_max_size=2**16)
        app.add_routes([web.get(path, self._page) for path in PAGE])
        app.router.add_get("/pictures/{number:[0-9]{1,4}}", self._picture)
        app.router.add_get("/recordings/{name:[0-9a-f]{32}}.mp4", self._recording)
        app.router.add_get("/world", self._world)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Refuses foreign hosts and origins and a wrong token. On loopback, a foreign host name is a sign of DNS rebinding."""
        name = request.host.rsplit(":", 1)[0].strip("[]") if not request.host.endswith("]") else request.host.strip("[]")
        if self.host in LOOPBACK and name not in LOOPBACK:
            raise web.HTTPForbidden(text="this host is not served here")
        origin = request.headers.get("Origin")
        if origin is not None and origin not in (f"http://{request.host}", f"https://{request.host}"):
            raise web.HTTPForbidden(text="requests of other origins are refused")
        public = request.path in ("/health", "/page.js", "/page.css")  # no data of visitors
        given = request.query.get("token") or request.headers.get("Authorization", "").removeprefix("Bearer ")  # the latter: Prometheus
        if self.token and not public and not hmac.compare_digest(given.encode(), self.token.encode()):
            raise web.HTTPUnauthorized(text="open the address with the token that `moworld play` printed")
        response = await handler(request)
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    async def _page(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(Path(__file__).parent / PAGE[request.path], headers={"Cache-Control": "no-cache"})

    async def _picture(self, request: web.Request) -> web.Response:
        number = int(request.match_info["number"])
        if number >= len(self.pictures):
            raise web.HTTPNotFound
        return web.Response(body=encode_jpeg(self.pictures[number]), content_type="image/jpeg")

    async def _recording(self, request: web.Request) -> web.StreamResponse:
        path = self.recordings / f"{request.match_info['name']}.mp4"
        if not path.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(path, headers={"Content-Disposition": 'attachment; filename="world.mp4"'})

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"sessions": self.engine.sessions, "max_sessions": self.engine.max_sessions})

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.registry), content_type="text/plain", charset="utf-8")

    async def _world(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=PICTURE_BYTES, heartbeat=20, compress=False)
        await socket.prepare(request)
        try:
            slot = self.engine.admit()
        except InputError as error:
            await socket.send_json({"type": "error", "message": str(error)})
            await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"all sessions are taken")
            return socket
        visitor = _Visitor(self, socket, slot)
        self.streams.add(visitor.stream)
        watch = asyncio.create_task(_abort_stalled(request.transport))
        try:
            await visitor.serve()
        finally:
            self.streams.discard(visitor.stream)
            slot.release()
            await _cancel(watch)
            _abort_unread(request.transport)
        return socket


async def _abort_stalled(transport: Any) -> None:
    """Aborts a connection whose send buffer has not been empty for `STALLED_SECONDS`; a close message would wait behind it."""
    waited = 0
    while waited < STALLED_SECONDS:
        await asyncio.sleep(1)
        waited = waited + 1 if transport is not None and transport.get_write_buffer_size() else 0
    _abort_unread(transport)


def _abort_unread(transport: Any) -> None:
    """Aborts a connection with unsent bytes, which a peer that does not read could keep open for ever."""
    if transport is not None and transport.get_write_buffer_size():
        transport.abort()


class _Visitor:
    """One WebSocket connection, from the first message to the end."""

    def __init__(self, player: Player, socket: web.WebSocketResponse, slot: Any) -> None:
        self.player, self.socket, self.stream = player, socket, Stream(slot, player.fps, self._send_frame)
        self.messages, self.malformed = RateLimit(rate=150, burst=300), 0
        self.uploads, self.starts = RateLimit(rate=0.5, burst=4), RateLimit(rate=1, burst=4)
        self.uploaded: Frames | None = None
        self.playing: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        config = self.player.engine.model.config
        hello = {"type": "hello", "width": config.width, "height": config.height, "fps": self.player.fps, "prompt": self.player.prompt}
        await self.socket.send_json({**hello, "pictures": len(self.player.pictures), "chunk": self.stream.slot.session.chunk_frames})
        reports = asyncio.create_task(self._report())
        try:
            while True:
                message = await self.socket.receive(timeout=IDLE_SECONDS)
                if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                    break
                if not self.messages.take():
                    await self._end(WSCloseCode.POLICY_VIOLATION, "too many messages")
                    break
                try:
                    await (self._upload(message.data) if message.type == WSMsgType.BINARY else self._handle(parse(message.data)))
                except InputError as error:
                    self.malformed += 1
                    await self.socket.send_json({"type": "error", "message": str(error)})
                    if self.malformed > MALFORMED:
                        await self._end(WSCloseCode.POLICY_VIOLATION, "too many malformed messages")
                        break
        except TimeoutError:
            await self._end(WSCloseCode.GOING_AWAY, "idle")
        except ConnectionError:
            pass  # the browser is gone
        finally:
            await _cancel(reports)
            await _cancel(self.playing)

    async def _handle(self, message: Message) -> None:
        stream = self.stream
        if isinstance(message, Keys):
            stream.hold(message.held, message.number)
        elif isinstance(message, Shown):
            stream.shown = max(stream.shown, min(message.frame, stream.number))
        elif isinstance(message, Pause):
            (stream.running.clear if message.paused else stream.running.set)()
        else:
            await (self._record(message.on) if isinstance(message, Record) else self._start(message))

    async def _start(self, message: Start) -> None:
        offered = self.player.pictures
        if not self.starts.take():
            raise InputError("start", "", "worlds opened too quickly", "one per second", "wait a moment")
        if message.picture is None and self.uploaded is None:
            raise InputError("start", "picture", "none uploaded", "a picture sent before", "send one, or choose an offered one")
        if message.picture is not None and message.picture >= len(offered):
            raise InputError("start", "picture", message.picture, f"below {len(offered)}", "choose an offered picture")
        picture = self.uploaded if message.picture is None else offered[message.picture]
        await _cancel(self.playing)
        await self.stream.slot.wait_until_idle()
        self.stream.running.set()
        self.playing = asyncio.create_task(self._play(picture, message.prompt or self.player.prompt, message.seed))

    async def _play(self, picture: Any, prompt: str, seed: int) -> None:
        try:
            if prompt:  # a first prompt loads the text encoder: on the worker, so that other sessions do not wait for it
                await self._on_worker(self.player.engine.text_encoder.encode, [prompt])
            await self.stream.play(picture, prompt, seed)
        except InputError as error:
            await self.socket.send_json({"type": "error", "message": str(error)})

    async def _upload(self, data: bytes) -> None:
        if not self.uploads.take():
            raise InputError("picture", "", "uploads too quickly", "one in two seconds", "wait a moment")
        config = self.player.engine.model.config
        self.uploaded = await self._on_worker(lambda: resize_to_cover(read_picture(data), (config.height, config.width)))
        await self.socket.send_json({"type": "uploaded"})

    async def _record(self, on: bool) -> None:
        stream = self.stream
        if on:
            stream.recorded, stream.recording = [], True
            return
        stream.recording = False
        if stream.recorded:
            name = await asyncio.to_thread(_write_recording, self.player.recordings, stream.recorded, self.player.fps)
            await self.socket.send_json({"type": "recording", "url": f"recordings/{name}.mp4", "frames": len(stream.recorded)})
            stream.recorded = []

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            with contextlib.suppress(ConnectionError):
                await self.socket.send_json({"type": "numbers", **self.stream.report()})

    async def _send_frame(self, number: int, keys: int, seconds: float, jpeg: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # `serve` receives the end of the connection
            await self.socket.send_bytes(HEADER.pack(number % 2**32, keys, seconds) + jpeg)

    async def _on_worker(self, work: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.player.worker, work, *arguments)

    async def _end(self, code: int, reason: str) -> None:
        with contextlib.suppress(ConnectionError):
            await self.socket.send_json({"type": "error", "message": reason})
            await self.socket.close(code=code, message=reason.encode())


async def _cancel(task: "asyncio.Task[None] | None") -> None:
    if task is not None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _write_recording(folder: Path, jpegs: list[bytes], fps: float) -> str:
    """Writes a recording under a random name, which it returns, and deletes the oldest ones."""
    name = secrets.token_hex(16)
    write_video(folder / f"{name}.mp4", map(read_picture, jpegs), fps)
    for old in sorted(folder.glob("*.mp4"), key=lambda path: path.stat().st_mtime)[:-KEPT_RECORDINGS]:
        old.unlink(missing_ok=True)
    return name


def address(host: str, port: int, token: str) -> str:
    """Returns the URL of the page."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")


def listen(host: str, port: int) -> socket_module.socket:
    """Returns a bound socket; port 0 takes a free one. Raises InputError if the address is not available."""
    try:
        return socket_module.create_server((host, port), family=socket_module.AF_INET6 if ":" in host else socket_module.AF_INET)
    except OSError as error:
        found = f"{host}:{port} ({error.strerror})"
        raise InputError("play", "host, port", found, "an address that is free", "choose another --port") from None


def serve(player: Player, listening: socket_module.socket) -> None:
    """Serves on a bound socket until interrupted."""
    web.run_app(player.application(), sock=listening, print=lambda *_: None, handle_signals=True, shutdown_timeout=2)
