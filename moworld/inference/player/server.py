"""HTTP server of the player: one page, and a WebSocket per visitor, of the page or of `/v1/realtime/video`. Loopback needs no token; any other address does."""

import asyncio
import hmac
import re
import shutil
import signal
import socket as socket_module
import tempfile
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import WSCloseCode, web
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily

from moworld.errors import InputError
from moworld.inference.engine import Engine
from moworld.inference.pictures import PICTURE_BYTES, encode_jpeg
from moworld.inference.player.messages import SESSION, RateLimit
from moworld.inference.player.realtime import RealtimeVideo
from moworld.inference.player.recorder import Origins
from moworld.inference.player.seats import Seats
from moworld.inference.player.stream import Stream
from moworld.inference.player.visitor import Visitor
from moworld.video import Frames

LOOPBACK = ("127.0.0.1", "localhost", "::1")
STALLED_SECONDS = 10  # frames are dropped if they are not drawn, so even on the slowest line no byte waits for so long
ADDRESS_RATE, ADDRESS_BURST, ADDRESSES = 10.0, 60.0, 4096  # requests of one address; a page makes about ten. Loopback has no limit
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "media-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
SCRIPTS = ("page.js", "address.js", "controls.js", "token.js", "page.css")
METRICS = {  # moworld_player_NAME; the first four are means over the sessions
    "fps": "Frames per second that are sent",
    "chunk_interval_ms": "Median time between chunks",
    "making_ms": "90th percentile of the time from the request of a chunk to its frames",
    "deadline_attainment": "Share of chunks in time",
    "sessions": "Sessions now",
    "sessions_limit": "Sessions at most",
    "dropped_frames": "Frames that were dropped because the browser fell behind",
    "waiting": "Visitors in the queue",
}


@dataclass(eq=False)
class Player:
    """Settings and state of one server.

    pictures:   (H, W, 3) uint8 of any size to start from
    prompt:     default prompt of the page
    recordings: folder of recordings; None makes one that is removed when the server ends
    origin:     address of a proxy with TLS in front of this server, such as "https://world.example": its requests are accepted, and
                visitors are distinguished by the last address of X-Forwarded-For
    model:      name that the page shows
    origins:    for the records of recordings; None writes none
    Raises InputError for a prompt if the extra `text` is not installed.
    """

    engine: Engine
    pictures: list[Frames]
    fps: float
    host: str = "127.0.0.1"
    token: str = ""
    prompt: str = ""
    recordings: Path | None = None
    origin: str = ""
    model: str = ""
    origins: Origins | None = None
    worker: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, "pictures"))  # decodes one picture at a time: each needs memory

    def __post_init__(self) -> None:
        self.seats = Seats(self.engine, self.fps)
        self.keys = "wasdjl" + ("ik" if self.engine.model.config.pitch else "")
        self.own_folder = None if self.recordings else Path(tempfile.mkdtemp(prefix="moworld-player-"))
        self.recording_folder = self.recordings or self.own_folder or Path()
        self.addresses: OrderedDict[str, RateLimit] = OrderedDict()
        self.sockets = set[web.WebSocketResponse]()
        self.registry = CollectorRegistry()
        self.registry.register(self)
        if self.prompt:
            self.engine.text_encoder.encode([self.prompt])

    @property
    def streams(self) -> set[Stream]:
        """The streams of all seats."""
        return {seat.stream for seat in self.seats.taken}

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics, as a collector of prometheus_client."""
        reports = [stream.report() for stream in self.streams]
        values = {name: sum(report[name] for report in reports) / len(reports) for name in list(METRICS)[:4] if reports}
        values |= {"sessions": self.engine.sessions, "sessions_limit": self.engine.max_sessions, "waiting": len(self.seats.waiting)}
        values["dropped_frames"] = sum(report["dropped"] for report in reports)
        for name, value in values.items():
            yield GaugeMetricFamily(f"moworld_player_{name}", METRICS[name], value)

    def settings(self, chunk: int | None = None) -> dict[str, Any]:
        """Returns what the page needs before it has a seat. chunk: frames of a chunk; None omits it."""
        config = self.engine.model.config
        found = {"width": config.width, "height": config.height, "fps": self.fps, "prompt": self.prompt, "pictures": len(self.pictures)}
        own = {"keys": self.keys, "model": self.model, "picture_bytes": PICTURE_BYTES}
        return found | own | ({} if chunk is None else {"chunk": chunk})

    def application(self) -> web.Application:
        """Returns the aiohttp application."""
        app = web.Application(middlewares=[self._guard], client_max_size=2**16)
        app.router.add_get("/", self._page)
        app.add_routes([web.get(f"/{name}", self._page) for name in SCRIPTS])
        app.router.add_get("/settings", self._settings)
        app.router.add_get("/pictures/{number:[0-9]{1,4}}", self._picture)
        app.router.add_get("/recordings/{name:[0-9a-f]{32}}{suffix:(\\.mp4|\\.mp4\\.json)}", self._recording)
        app.router.add_get("/world", self._world)
        app.router.add_get("/v1/realtime/video", self._realtime_video)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.on_shutdown.append(self._end_visits)
        app.on_cleanup.append(self._clean)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            self._check(request)
            response: web.StreamResponse = await handler(request)
        except web.HTTPException as error:
            error.headers.update(HEADERS)
            raise
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    def _check(self, request: web.Request) -> None:
        """Refuses foreign hosts and origins, a wrong token and floods. On loopback, a foreign host name is a sign of DNS rebinding."""
        name = request.host.rsplit(":", 1)[0].strip("[]") if not request.host.endswith("]") else request.host.strip("[]")
        proxied = bool(self.origin) and request.host == urlsplit(self.origin).netloc
        if self.host in LOOPBACK and name not in LOOPBACK and not proxied:
            raise web.HTTPForbidden(text="this host is not served here")
        origin = request.headers.get("Origin")
        if origin is not None and origin not in (f"http://{request.host}", f"https://{request.host}", self.origin or None):
            raise web.HTTPForbidden(text="requests of other origins are refused")
        if not self._within_rate(request):
            raise web.HTTPTooManyRequests(text="too many requests: wait a moment", headers={"Retry-After": "5"})
        public = request.path == "/health" or request.path[1:] in SCRIPTS  # no data of visitors
        given = request.query.get("token") or request.headers.get("Authorization", "").removeprefix("Bearer ")  # the latter: Prometheus
        if self.token and not public and not hmac.compare_digest(given.encode(), self.token.encode()):
            if request.path == "/":  # asks for the token, and keeps the rest of a shared link
                raise web.HTTPUnauthorized(text=(Path(__file__).parent / "token.html").read_text(), content_type="text/html")
            raise web.HTTPUnauthorized(text="open the address with the token that `moworld play` printed")

    def _within_rate(self, request: web.Request) -> bool:
        address = request.remote or ""
        if self.origin and (forwarded := request.headers.get("X-Forwarded-For")):
            address = forwarded.rpartition(",")[2].strip()
        if address in LOOPBACK:
            return True
        limit = self.addresses.pop(address, None) or RateLimit(ADDRESS_RATE, ADDRESS_BURST)
        self.addresses[address] = limit  # the newest is last
        if len(self.addresses) > ADDRESSES:
            self.addresses.popitem(last=False)
        return limit.take()

    async def _page(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(Path(__file__).parent / (request.path[1:] or "page.html"), headers={"Cache-Control": "no-cache"})

    async def _settings(self, request: web.Request) -> web.Response:
        return web.json_response(self.settings(), headers={"Cache-Control": "no-store"})

    async def _picture(self, request: web.Request) -> web.Response:
        number = int(request.match_info["number"])
        if number >= len(self.pictures):
            raise web.HTTPNotFound
        return web.Response(body=encode_jpeg(self.pictures[number]), content_type="image/jpeg")

    async def _recording(self, request: web.Request) -> web.StreamResponse:
        suffix = request.match_info["suffix"]
        path = self.recording_folder / f"{request.match_info['name']}{suffix}"
        if not path.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(path, headers={"Content-Disposition": f'attachment; filename="world{suffix}"'})

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"sessions": self.engine.sessions, "max_sessions": self.engine.max_sessions})

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.registry), content_type="text/plain", charset="utf-8")

    async def _world(self, request: web.Request) -> web.WebSocketResponse:
        session = request.query.get("session", "")
        if session and not re.fullmatch(SESSION, session):
            raise web.HTTPBadRequest(text="session: expected 32 hexadecimal digits")
        return await self._connected(request, lambda socket: Visitor(self, socket, session).visit())

    async def _realtime_video(self, request: web.Request) -> web.WebSocketResponse:
        return await self._connected(request, lambda socket: RealtimeVideo(self, socket).visit())

    async def _connected(self, request: web.Request, visit: Callable[[web.WebSocketResponse], Awaitable[None]]) -> web.WebSocketResponse:
        # twice the limit: a picture that is a bit too large is refused by a message, not by the end of the connection
        socket = web.WebSocketResponse(max_msg_size=2 * PICTURE_BYTES, heartbeat=20, compress=False)
        await socket.prepare(request)
        self.sockets.add(socket)
        watch = asyncio.create_task(_abort_stalled(request.transport))
        try:
            await visit(socket)
        except InputError as error:  # the queue is full
            await socket.send_json({"type": "error", "message": str(error)})
            await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"the queue is full")
        finally:
            self.sockets.discard(socket)
            watch.cancel()
            _abort_unread(request.transport)
        return socket

    async def _end_visits(self, app: web.Application) -> None:
        """Closes the connections of a server that ends, so that pages know it and try again later."""
        closing = [
            asyncio.ensure_future(socket.close(code=WSCloseCode.GOING_AWAY, message=b"the server ends")) for socket in self.sockets
        ]
        if closing:
            await asyncio.wait(closing, timeout=2)

    async def _clean(self, app: web.Application) -> None:
        for seat in list(self.seats.taken):
            self.seats.release(seat)
        self.worker.shutdown(wait=False, cancel_futures=True)
        if self.own_folder is not None:
            await asyncio.to_thread(shutil.rmtree, self.own_folder, ignore_errors=True)


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


def address(host: str, port: int, token: str, origin: str = "") -> str:
    """Returns the URL of the page. origin: of a proxy in front of the server."""
    name = f"[{host}]" if ":" in host else host
    return f"{origin.rstrip('/') or f'http://{name}:{port}'}/" + (f"?token={token}" if token else "")


def check_origin(origin: str) -> str:
    """Returns the origin of a proxy. Raises InputError for anything but scheme, host and port."""
    parts = urlsplit(origin)
    if origin and (parts.scheme not in ("http", "https") or not parts.hostname or origin.rstrip("/") != f"{parts.scheme}://{parts.netloc}"):
        raise InputError("play", "origin", origin, "scheme, host and port, such as https://world.example", "omit path and query")
    return origin.rstrip("/")


def listen(host: str, port: int) -> socket_module.socket:
    """Returns a bound socket; port 0 takes a free one. Raises InputError if the address is not available."""
    try:
        return socket_module.create_server((host, port), family=socket_module.AF_INET6 if ":" in host else socket_module.AF_INET)
    except OSError as error:
        found = f"{host}:{port} ({error.strerror})"
        raise InputError("play", "host, port", found, "an address that is free", "choose another --port") from None


def serve(player: Player, listening: socket_module.socket) -> int:
    """Serves on a bound socket until SIGINT or SIGTERM, whose exit status it returns: 130 or 143. A second signal ends the process at once."""
    return 128 + asyncio.run(_serve(player, listening))


async def _serve(player: Player, listening: socket_module.socket) -> int:
    loop, ended = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    def end(number: int) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        ended.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    runner = web.AppRunner(player.application(), access_log=None, shutdown_timeout=2)
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
        return int(await ended)
    finally:
        await runner.cleanup()
