"""The player's server: one page, one WebSocket per visitor. Loopback needs no token; any other address does."""

import asyncio
import contextlib
import hmac
import secrets
import socket as socket_module
import tempfile
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import WSCloseCode, WSMsgType, web
from numpy.typing import NDArray

from moworld.camera.cameras import resize_to_cover
from moworld.errors import InputError
from moworld.inference.engine import Engine
from moworld.inference.player.messages import (
    HEADER,
    PICTURE_BYTES,
    Allowance,
    Keys,
    Message,
    Pause,
    Record,
    Shown,
    Start,
    parse,
    read_picture,
)
from moworld.inference.player.stream import Stream, encode_jpeg

Frames = NDArray[np.uint8]
LOOPBACK = ("127.0.0.1", "localhost", "::1")
IDLE_SECONDS = 120.0  # a visitor whose browser draws nothing and sends nothing gives its place back
STALLED_SECONDS = 10  # frames are dropped where they are not drawn, so on the slowest line nothing waits for so long
MALFORMED = 10  # messages that may be wrong before the visitor is shown the door
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; media-src 'self'"
PAGE = {"/": ("page.html", "text/html"), "/page.js": ("page.js", "text/javascript"), "/page.css": ("page.css", "text/css")}


@dataclass
class Player:
    """What the server needs: the engine, pictures to start from (H, W, 3) uint8, and the rules."""

    engine: Engine
    pictures: list[Frames]
    fps: float
    host: str = "127.0.0.1"
    token: str = ""
    prompt: str = ""
    recordings: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="moworld-player-")))
    streams: set[Stream] = field(default_factory=set)
    reader: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, "pictures"))  # each takes memory and a core: one after the other

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[self._guard], client_max_size=2**16)
        for path in PAGE:
            app.router.add_get(path, self._page)
        app.router.add_get("/pictures/{number:[0-9]{1,4}}", self._picture)
        app.router.add_get("/recordings/{name:[0-9a-f]{32}}.mp4", self._recording)
        app.router.add_get("/world", self._world)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Refuse foreign hosts and origins, and a wrong token. On loopback a host name that is not ours is a page that rebinds DNS."""
        name = request.host.rsplit(":", 1)[0].strip("[]") if not request.host.endswith("]") else request.host.strip("[]")
        if self.host in LOOPBACK and name not in LOOPBACK:
            raise web.HTTPForbidden(text="this host is not served here")
        origin = request.headers.get("Origin")
        if origin is not None and origin not in (f"http://{request.host}", f"https://{request.host}"):
            raise web.HTTPForbidden(text="a page of another origin may not play here")
        open_to_all = request.path in ("/health", "/page.js", "/page.css")  # they hold nothing of anyone
        given = request.query.get("token") or request.headers.get("Authorization", "").removeprefix("Bearer ")  # the latter: Prometheus
        if self.token and not open_to_all and not hmac.compare_digest(given.encode(), self.token.encode()):
            raise web.HTTPUnauthorized(text="open the address with the token that `moworld play` printed")
        response = await handler(request)
        if not response.prepared:
            response.headers.update(
                {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
            )
        return response

    async def _page(self, request: web.Request) -> web.Response:
        name, kind = PAGE[request.path]
        text = (Path(__file__).parent / name).read_text(encoding="utf-8")
        return web.Response(text=text, content_type=kind, headers={"Cache-Control": "no-cache"})

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
        """Prometheus text: sessions, and the live numbers summed or averaged over them."""
        reports = [stream.report() for stream in self.streams]
        lines = [f"moworld_player_sessions {self.engine.sessions}", f"moworld_player_sessions_limit {self.engine.max_sessions}"]
        for key in ("fps", "chunk_interval_ms", "making_ms", "deadline_attainment"):
            values = [report[key] for report in reports]
            if values:
                lines.append(f"moworld_player_{key} {sum(values) / len(values):.4f}")
        lines.append(f"moworld_player_dropped_frames {sum(report['dropped'] for report in reports)}")
        return web.Response(text="\n".join(lines) + "\n", content_type="text/plain")

    async def _world(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=PICTURE_BYTES, heartbeat=20, compress=False)
        await socket.prepare(request)
        try:
            seat = self.engine.admit()
        except InputError as error:
            await socket.send_json({"type": "error", "message": str(error)})
            await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"all places are taken")
            return socket
        visitor = _Visitor(self, socket, Stream(seat, self.fps, _sender(socket)))
        self.streams.add(visitor.stream)
        watch = asyncio.create_task(_watch(request.transport))
        try:
            await visitor.serve()
        finally:
            self.streams.discard(visitor.stream)
            seat.leave()
            await _ended(watch)
            _cut_off_unread(request.transport)
        return socket


async def _watch(transport: Any) -> None:
    """End a connection on which bytes have waited for `STALLED_SECONDS`. A farewell would wait behind them, and so would who sends them."""
    waited = 0
    while waited < STALLED_SECONDS:
        await asyncio.sleep(1)
        waited = waited + 1 if transport is not None and transport.get_write_buffer_size() else 0
    _cut_off_unread(transport)


def _cut_off_unread(transport: Any) -> None:
    """Close a connection at once where bytes wait that the other side does not take; it would be kept for as long as that side likes."""
    if transport is not None and transport.get_write_buffer_size():
        transport.abort()


def _sender(socket: web.WebSocketResponse) -> Any:
    async def send(number: int, keys: int, seconds: float, jpeg: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # the reading side hears of the end of the connection and ends the visit
            await socket.send_bytes(HEADER.pack(number % 2**32, keys, seconds) + jpeg)

    return send


class _Visitor:
    """One connection from its first message to its end."""

    def __init__(self, player: Player, socket: web.WebSocketResponse, stream: Stream) -> None:
        self.player, self.socket, self.stream = player, socket, stream
        self.allowance, self.malformed = Allowance(rate=150, burst=300), 0
        self.uploads = Allowance(rate=0.5, burst=4)
        self.starts = Allowance(rate=1, burst=4)
        self.uploaded: Frames | None = None
        self.playing: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        config = self.player.engine.model.config
        hello = {"type": "hello", "width": config.width, "height": config.height, "fps": self.player.fps, "prompt": self.player.prompt}
        await self.socket.send_json({**hello, "pictures": len(self.player.pictures), "chunk": self.stream.seat.session.chunk_frames})
        reports = asyncio.create_task(self._report())
        try:
            while True:
                message = await self.socket.receive(timeout=IDLE_SECONDS)
                if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                    break
                if not self.allowance.take():
                    await self._end(WSCloseCode.POLICY_VIOLATION, "too many messages")
                    break
                try:
                    if message.type == WSMsgType.BINARY:
                        await self._upload(message.data)
                    else:
                        await self._obey(parse(message.data))
                except InputError as error:
                    self.malformed += 1
                    await self.socket.send_json({"type": "error", "message": str(error)})
                    if self.malformed > MALFORMED:
                        await self._end(WSCloseCode.POLICY_VIOLATION, "too many malformed messages")
                        break
        except TimeoutError:
            await self._end(WSCloseCode.GOING_AWAY, "idle")
        except ConnectionError:
            pass  # the browser is gone, which ends the visit
        finally:
            await _ended(reports)
            await _ended(self.playing)

    async def _obey(self, message: Message) -> None:
        stream = self.stream
        if isinstance(message, Keys):
            stream.hold(message.held, message.number)
        elif isinstance(message, Shown):
            stream.shown = max(stream.shown, min(message.frame, stream.number))
        elif isinstance(message, Pause):
            (stream.running.clear if message.paused else stream.running.set)()
        elif isinstance(message, Record):
            await self._record(message.on)
        elif isinstance(message, Start):
            await self._start(message)

    async def _start(self, message: Start) -> None:
        if not self.starts.take():
            raise InputError("start", "", "worlds opened too quickly", "one a second", "wait a moment")
        if message.picture is None and self.uploaded is None:
            raise InputError("start", "picture", "none uploaded", "a picture sent before", "send one, or choose one that is offered")
        if message.picture is not None and message.picture >= len(self.player.pictures):
            raise InputError("start", "picture", message.picture, f"below {len(self.player.pictures)}", "choose one that is offered")
        picture = self.uploaded if message.picture is None else self.player.pictures[message.picture]
        await _ended(self.playing)
        await self.stream.seat.settled()
        self.stream.running.set()
        self.playing = asyncio.create_task(self._play(picture, message.prompt or self.player.prompt, message.seed))

    async def _play(self, picture: Any, prompt: str, seed: int) -> None:
        try:
            await self.stream.play(picture, prompt, seed)
        except InputError as error:
            await self.socket.send_json({"type": "error", "message": str(error)})

    async def _upload(self, data: bytes) -> None:
        if not self.uploads.take():
            raise InputError("picture", "", "uploads in too quick a succession", "one in two seconds", "wait a moment")
        config, loop = self.player.engine.model.config, asyncio.get_running_loop()
        self.uploaded = await loop.run_in_executor(self.player.reader, _read_small, data, (config.height, config.width))
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

    async def _end(self, code: int, reason: str) -> None:
        with contextlib.suppress(ConnectionError):
            await self.socket.send_json({"type": "error", "message": reason})
            await self.socket.close(code=code, message=reason.encode())


async def _ended(task: "asyncio.Task[None] | None") -> None:
    if task is not None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _read_small(data: bytes, size_hw: tuple[int, int]) -> Frames:
    """What a session takes of an uploaded picture: the picture itself may be a thousand times as large."""
    return resize_to_cover(read_picture(data), size_hw)


def _write_recording(folder: Path, jpegs: list[bytes], fps: float, keep: int = 8) -> str:
    """Write a recording under a name that cannot be guessed, and drop the oldest ones."""
    import cv2

    from moworld.video import write_video

    name = secrets.token_hex(16)
    frames = (cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB) for jpeg in jpegs)
    write_video(folder / f"{name}.mp4", frames, fps)
    for old in sorted(folder.glob("*.mp4"), key=lambda path: path.stat().st_mtime)[:-keep]:
        old.unlink(missing_ok=True)
    return name


def pictures_of(folder: Path) -> list[Frames]:
    """The pictures that a model folder offers to start from: pictures/*.png in the order of their names."""
    return [read_picture(path.read_bytes()) for path in sorted((folder / "pictures").glob("*.png"))]


def new_token() -> str:
    """A token for addresses that others can reach."""
    return secrets.token_urlsafe(24)


def address(host: str, port: int, token: str) -> str:
    """The address to open."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")


def listen(host: str, port: int) -> socket_module.socket:
    """A bound socket; port 0 takes a free one. Raises InputError where the address cannot be had."""
    try:
        return socket_module.create_server((host, port), family=socket_module.AF_INET6 if ":" in host else socket_module.AF_INET)
    except OSError as error:
        raise InputError(
            "play", "host, port", f"{host}:{port} ({error.strerror})", "an address that is free", "choose another --port"
        ) from None


def serve(player: Player, listening: socket_module.socket) -> None:
    """Serve on a bound socket until interrupted."""
    web.run_app(player.application(), sock=listening, print=lambda *_: None, handle_signals=True, shutdown_timeout=2)
