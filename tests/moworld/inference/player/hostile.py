"""A hostile visitor: malformed messages, pictures, requests and connections.

python -m tests.moworld.inference.player.hostile PORT TOKEN SEED COUNT      sends COUNT of them; prints the number of each kind as JSON
"""

import asyncio
import base64
import contextlib
import io
import json
import random
import socket
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable

import aiohttp
import numpy as np
from PIL import Image


def bomb(side: int) -> bytes:
    """Returns a small PNG file of side x side pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def declared(jpeg: bytes, width: int, height: int) -> bytes:
    """Returns the JPEG with a false size in its header."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def many_scans(side: int, count: int) -> bytes:
    """Returns a progressive JPEG whose last scan is repeated: each is decoded into the whole picture."""
    jpeg = encoded(Image.new("RGB", (side, side)), "JPEG", progressive=True)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + scan * count + jpeg[-2:]


def hostile_pictures() -> list[bytes]:
    """Returns decompression bombs, JPEGs of many scans, false headers, truncated files, animations, and files of other kinds."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    flat = Image.new("RGB", (64, 64))
    frames = [Image.new("RGB", (64, 64), (number, 0, 0)) for number in range(40)]
    png, jpeg, webp = (encoded(noise, kind) for kind in ("PNG", "JPEG", "WEBP"))
    return [
        bomb(100_000), bomb(60_000), bomb(20_000), bomb(5_001), bomb(2_000),
        encoded(Image.new("L", (5_000, 5_000)), "PNG"),  # 25 MB of pixels in 25 kB: as large as pictures may be
        declared(jpeg, 65_500, 65_500), declared(jpeg, 4_900, 4_900), declared(jpeg, 0, 0), declared(jpeg, 65_500, 1),
        many_scans(1_000, 5_000), many_scans(2_000, 50),
        png[:100], png[:-20], jpeg[:200], jpeg[:-900], webp[:60], webp[: len(webp) // 2],
        encoded(flat, "GIF", save_all=True, append_images=frames), encoded(flat, "PNG", save_all=True, append_images=frames),
        encoded(flat, "WEBP", save_all=True, append_images=frames), encoded(flat, "BMP"), encoded(flat, "TIFF"), encoded(flat, "PDF"),
        b"", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", zlib.compress(bytes(5_000_000)), bytes(1_000_000),
    ]  # fmt: skip


def hostile_text(rng: random.Random) -> str:
    keys = json.dumps({"type": "keys", "keys": "w", "number": rng.randrange(2**31)})
    choices: list[Callable[[], str]] = [
        lambda: "", lambda: "{" * rng.randrange(4000), lambda: "x" * rng.randrange(5000, 20000), lambda: keys[: rng.randrange(len(keys))],
        lambda: json.dumps({"type": "shown", "frame": rng.randrange(2**40)}), lambda: json.dumps({"type": "record", "on": rng.random() < 0.5}),
        lambda: json.dumps({"type": "start", "seed": rng.randrange(-5, 2**33), "picture": rng.choice([None, -1, 0, 1, 2, 10**9])}),
        lambda: json.dumps({"type": "pause", "paused": rng.choice([True, False, None, 1])}), lambda: keys,
        lambda: json.dumps({"type": "start", "prompt": "\u0000\ud83d" * rng.randrange(300)}), lambda: "9" * 4090, lambda: "[" * 4090,
    ]  # fmt: skip
    return rng.choice(choices)()


def websocket_text(text: str) -> bytes:
    """Returns a WebSocket text frame of at most 125 bytes, masked with zeros."""
    return b"\x81" + bytes([0x80 | len(text.encode())]) + b"\0" * 4 + text.encode()


class Hostile:
    """One attacker: `attack` sends `count` messages, requests and connections."""

    def __init__(self, port: int, token: str, seed: int) -> None:
        self.port, self.token, self.rng, self.sent = port, token, random.Random(seed), Counter[str]()
        self.pictures = hostile_pictures()

    async def attack(self, count: int) -> Counter[str]:
        ways = [self.messages] * 6 + [self.flood] * 2 + [self.requests, self.bytes, self.frames, self.slow]
        async with aiohttp.ClientSession() as http:
            while self.sent.total() < count:
                with contextlib.suppress(aiohttp.ClientError, ConnectionError, TimeoutError):
                    async with asyncio.timeout(20):
                        await self.rng.choice(ways)(http)
        return self.sent

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def messages(self, http: aiohttp.ClientSession) -> None:
        """Malformed, oversized and misordered messages, and pictures; sometimes the connection is aborted."""
        async with http.ws_connect(self.url(f"/world?token={self.token}"), max_msg_size=0) as socket:
            for _ in range(self.rng.randrange(1, 60)):
                if self.rng.random() < 0.2:
                    await socket.send_bytes(self.rng.choice(self.pictures))
                    self.sent["picture"] += 1
                else:
                    await socket.send_str(hostile_text(self.rng))
                    self.sent["text"] += 1
            if self.rng.random() < 0.3:
                socket._response.connection.transport.abort()  # type: ignore[union-attr]

    async def flood(self, http: aiohttp.ClientSession) -> None:
        async with http.ws_connect(self.url(f"/world?token={self.token}"), max_msg_size=0) as socket:
            await socket.send_str('{"type":"start"}')
            for number in range(400):
                await socket.send_str(json.dumps({"type": "keys", "keys": "wl"[number % 2], "number": number}))
                self.sent["flood"] += 1

    async def requests(self, http: aiohttp.ClientSession) -> None:
        """Wrong tokens, foreign origins, rebound hosts, invalid paths."""
        foreign = ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example"})
        for query, headers, wanted in [("?token=wrong", {}, 401), ("", {}, 401), *((f"?token={self.token}", one, 403) for one in foreign)]:
            for path in ("/", "/world", "/metrics"):
                async with http.get(self.url(path + query), headers=headers) as answer:
                    assert answer.status == wanted, (path, query, headers, answer.status)
                self.sent["refused"] += 1
        for path in (
            "/pictures/99999",
            "/pictures/" + "9" * 5000,
            "/recordings/../../etc/passwd",
            "/recordings/" + "0" * 32 + ".mp4",
            "/%00",
        ):
            async with http.get(self.url(f"{path}?token={self.token}")) as answer:
                assert answer.status in (403, 404), (path[:40], answer.status)
            self.sent["not found"] += 1
        async with http.post(self.url(f"/world?token={self.token}"), data=bytes(100_000)) as answer:
            assert answer.status == 405
        self.sent["not found"] += 1

    async def bytes(self, http: aiohttp.ClientSession) -> None:
        """Bytes that are no HTTP, and truncated requests."""
        for data in (
            self.rng.randbytes(300),
            b"GET / HTTP/1.1\r\nHost: ",
            b"GET /" + b"a" * 20_000,
            b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        ):
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(data)
            await writer.drain()
            self.sent["bytes"] += 1
            writer.close()

    async def frames(self, http: aiohttp.ClientSession) -> None:
        """Invalid WebSocket frames: unmasked, reserved, oversized, endless fragments."""
        mask = b"\0" * 4
        endless = b"\x01\xff" + struct.pack(">Q", 60_000) + mask + b"a" * 60_000
        for data in (
            b"\x81\x02hi",
            b"\x8f\x80" + mask,
            b"\x82\xff" + b"\xff" * 8 + mask,
            endless * 120,
            b"\x88\x81" + mask + b"x",
            b"\x81\x82" + mask + b"\xff\xfe",
        ):
            reader, writer = await self.opened()
            writer.write(data)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.3):
                    await writer.drain()
                    await reader.read(4096)
            self.sent["frames"] += 1
            writer.close()

    async def slow(self, http: aiohttp.ClientSession) -> None:
        """Opens a world, reports every frame as drawn, and never reads."""
        _, writer = await self.opened(receive_bytes=4096)
        for text in ['{"type":"start"}', *['{"type":"shown","frame":4294967295}'] * 20]:
            writer.write(websocket_text(text))
            self.sent["slow"] += 1
            await asyncio.sleep(0.05)
        if self.rng.random() < 0.5:
            writer.transport.abort()
        writer.close()

    async def opened(self, receive_bytes: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Returns a raw connection after the handshake."""
        raw = socket.socket()
        if receive_bytes:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=raw, limit=1024)
        key = base64.b64encode(self.rng.randbytes(16)).decode()
        writer.write(
            f"GET /world?token={self.token} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        await writer.drain()
        return reader, writer


if __name__ == "__main__":
    port, token, seed, count = sys.argv[1:]
    print(json.dumps(asyncio.run(Hostile(int(port), token, int(seed)).attack(int(count)))))
