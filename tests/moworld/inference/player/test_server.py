"""The player over real sockets on loopback: pacing, keys, uploads, recordings, tokens and limits."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import av
import cv2
import numpy as np
import pytest
from aiohttp.test_utils import TestServer

from moworld.errors import InputError
from moworld.inference.player import server as servers
from moworld.inference.player.messages import HEADER
from moworld.inference.player.server import Player
from tests.moworld.inference.player.hostile import bomb
from tests.moworld.inference.worlds import picture, tiny_engine

FPS = 40.0
Visit = Callable[[Player, TestServer, aiohttp.ClientSession], Coroutine[Any, Any, None]]


def visit(folder: Path, scenario: Visit, **settings: Any) -> None:
    """Run a scenario against a served player."""

    async def run() -> None:
        engine = tiny_engine(folder, max_sessions=settings.pop("max_sessions", 2))
        player = Player(engine, [picture(16, 32), picture(16, 32, seed=1)], FPS, recordings=folder, **settings)
        async with TestServer(player.application()) as served, aiohttp.ClientSession() as http:
            await scenario(player, served, http)
        engine.close()

    asyncio.run(run())


class Guest:
    """A browser's side of the socket: collects frames and messages, and reports drawn frames."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, draws: bool = True) -> None:
        self.socket, self.draws = socket, draws
        self.frames: list[tuple[int, int, bytes]] = []
        self.received: list[dict[str, Any]] = []
        self.at: list[float] = []
        self.task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for message in self.socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                self.received.append(json.loads(message.data))
                continue
            number, keys, _ = HEADER.unpack(message.data[: HEADER.size])
            self.frames.append((number, keys, message.data[HEADER.size :]))
            self.at.append(asyncio.get_running_loop().time())
            if self.draws:
                await self.say(type="shown", frame=number)

    async def say(self, **message: Any) -> None:
        await self.socket.send_str(json.dumps(message))

    async def until(self, ready: Callable[[], bool], seconds: float = 20.0) -> None:
        async with asyncio.timeout(seconds):
            while not ready():
                await asyncio.sleep(0.01)

    def rate(self) -> float:
        return (len(self.at) - 1) / (self.at[-1] - self.at[0])


@contextlib.asynccontextmanager
async def guest(
    served: TestServer, http: aiohttp.ClientSession, draws: bool = True, query: str = "", **options: Any
) -> AsyncIterator[Guest]:
    async with http.ws_connect(str(served.make_url("/world")) + query, max_msg_size=0, **options) as socket:
        visitor = Guest(socket, draws)
        yield visitor
        visitor.task.cancel()


def test_frames_arrive_in_order_no_faster_than_the_rate_and_follow_the_keys(tmp_path: Path):
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        async with guest(served, http) as one:
            await one.until(lambda: bool(one.received))
            assert one.received[0] == {"type": "hello", "width": 32, "height": 16, "fps": FPS, "prompt": "", "pictures": 2, "chunk": 12}
            await one.say(type="start", seed=5)
            await one.until(lambda: len(one.frames) > 30)
            await one.say(type="keys", keys="wl", number=7)
            await one.until(lambda: bool(one.frames) and one.frames[-1][1] == 7)
            await one.until(lambda: len(one.frames) > 100)
            numbers = [number for number, _, _ in one.frames]
            assert numbers == sorted(set(numbers))
            left_out = {number for number in range(1, numbers[-1]) if number not in numbers}
            assert len(left_out) <= 6 and all(0 <= number - 30 <= 24 for number in left_out)  # only where the keys changed
            assert [keys for _, keys, _ in one.frames] == sorted(keys for _, keys, _ in one.frames)  # 0 until the keys take effect, then 7
            first_following = next(number for number, keys, _ in one.frames if keys == 7)
            assert first_following % 12 == 2, "keys take effect at the boundary of a chunk, the first frame counted"
            assert cv2.imdecode(np.frombuffer(one.frames[40][2], np.uint8), cv2.IMREAD_COLOR).shape == (16, 32, 3)
            assert one.rate() < 1.15 * FPS
            await one.until(lambda: any(message["type"] == "numbers" for message in one.received))

    visit(tmp_path, scenario)


def test_pause_stops_the_world_and_start_opens_another(tmp_path: Path):
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        async with guest(served, http) as one:
            await one.say(type="start")
            await one.until(lambda: len(one.frames) > 20)
            await one.say(type="pause", paused=True)
            await asyncio.sleep(1.0)  # chunks that are finished are still played
            before = len(one.frames)
            await asyncio.sleep(0.5)
            assert len(one.frames) == before
            await one.say(type="pause", paused=False)
            await one.until(lambda: len(one.frames) > before + 12)
            worlds = []
            for seed, chosen in ((5, 0), (5, 0), (5, 1)):
                one.frames.clear()
                await asyncio.sleep(1.0)
                await one.say(type="start", seed=seed, picture=chosen)
                await one.until(lambda: [number for number, _, _ in one.frames].count(1) == 1 and one.frames[-1][0] == 13)
                numbers = [number for number, _, _ in one.frames]
                worlds.append([jpeg for _, _, jpeg in one.frames[numbers.index(1) :]])
            assert worlds[0] == worlds[1] and worlds[0][0] != worlds[2][0]

    visit(tmp_path, scenario)


def test_an_uploaded_picture_opens_a_world_and_a_hostile_one_does_not(tmp_path: Path):
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        async with guest(served, http) as one:
            await one.say(type="start", picture=None)
            await one.until(lambda: any("uploaded" in str(message.get("message")) for message in one.received))
            await one.socket.send_bytes(bomb(5_500))
            await one.until(lambda: any("5500x5500" in str(message.get("message")) for message in one.received))
            red = np.zeros((64, 64, 3), np.uint8)
            red[:, :, 2] = 255
            await one.socket.send_bytes(cv2.imencode(".png", red)[1].tobytes())
            await one.until(lambda: any(message["type"] == "uploaded" for message in one.received))
            await one.say(type="start", picture=None)
            await one.until(lambda: len(one.frames) > 12)
            await one.say(type="start", picture=2)
            await one.until(lambda: any("below 2" in str(message.get("message")) for message in one.received))

    visit(tmp_path, scenario)


def test_a_recording_is_a_video_of_what_was_played(tmp_path: Path):
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        async with guest(served, http) as one:
            await one.say(type="start")
            await one.until(lambda: len(one.frames) > 5)
            await one.say(type="record", on=True)
            await asyncio.sleep(0.7)
            await one.say(type="record", on=False)
            await one.until(lambda: any(message["type"] == "recording" for message in one.received))
            recording = next(message for message in one.received if message["type"] == "recording")
            async with http.get(served.make_url("/" + recording["url"])) as answer:
                (tmp_path / "got.mp4").write_bytes(await answer.read())
            with av.open(str(tmp_path / "got.mp4")) as video:
                assert sum(1 for _ in video.decode(video=0)) == recording["frames"] > 10
            for name in ("../../etc/passwd", "0" * 32):
                async with http.get(served.make_url(f"/recordings/{name}.mp4")) as answer:
                    assert answer.status == 404

    visit(tmp_path, scenario)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example:80"}, 403),
        ({"Host": "evil.example"}, 403),
    ],
)
def test_foreign_origins_and_rebound_hosts_are_refused(tmp_path: Path, headers: dict[str, str], status: int):
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        async with http.get(served.make_url("/"), headers=headers) as answer:
            assert answer.status == status
            if status == 200:
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        if status != 200:
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await http.ws_connect(served.make_url("/world"), headers=headers)
            assert player.engine.sessions == 0

    visit(tmp_path, scenario)


def test_a_token_is_required_where_one_is_set(tmp_path: Path):
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        for query, status in (("", 401), ("?token=wrong", 401), ("?token=sesam%C3%A4", 401), ("?token=sesame", 200)):
            for path in ("/", "/pictures/0", "/metrics"):
                async with http.get(str(served.make_url(path)) + query) as answer:
                    assert answer.status == status, (path, query)
        with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
            await http.ws_connect(served.make_url("/world"))
        async with http.get(served.make_url("/health")) as answer:
            assert answer.status == 200 and (await answer.json())["max_sessions"] == 2
        for credentials, status in (("Bearer sesame", 200), ("Bearer wrong", 401), ("", 401)):  # as Prometheus sends it
            async with http.get(str(served.make_url("/metrics")), headers={"Authorization": credentials}) as answer:
                assert answer.status == status
        async with http.ws_connect(str(served.make_url("/world")) + "?token=sesame"):
            assert player.engine.sessions == 1

    visit(tmp_path, scenario, token="sesame")


def test_a_visitor_above_the_limit_is_refused_and_a_released_slot_is_free(tmp_path: Path):
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        async with guest(served, http), guest(served, http), http.ws_connect(served.make_url("/world")) as third:
            assert "fewer than 2" in (await third.receive_json())["message"]
            assert (await third.receive()).type == aiohttp.WSMsgType.CLOSE and third.close_code == 1013
        async with guest(served, http) as one:
            await one.until(lambda: bool(one.received) and one.received[0]["type"] == "hello")

    visit(tmp_path, scenario)


def test_frames_are_dropped_for_a_browser_that_draws_nothing(tmp_path: Path):
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        async with guest(served, http, draws=False) as lazy:
            await lazy.say(type="start")
            await lazy.until(lambda: any(message.get("dropped", 0) > 20 for message in lazy.received), 30)
            assert len(lazy.frames) <= 60
            await lazy.say(type="shown", frame=2**32 - 1)  # a frame that was never sent
            await lazy.until(lambda: len(lazy.frames) > 61)

    visit(tmp_path, scenario)


def test_floods_are_disconnected(tmp_path: Path):
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        async with guest(served, http) as noisy:
            for number in range(1000):
                await noisy.say(type="keys", keys="w", number=number)
            await noisy.until(lambda: noisy.socket.closed)
            assert noisy.socket.close_code == 1008 and noisy.received[-1]["message"] == "too many messages"

    visit(tmp_path, scenario)


def test_an_address_in_use_is_refused():
    taken = servers.listen("127.0.0.1", 0)
    with pytest.raises(InputError, match="another --port"):
        servers.listen("127.0.0.1", taken.getsockname()[1])
    taken.close()
    assert servers.address("::1", 80, "") == "http://[::1]:80/" and servers.address("0.0.0.0", 80, "t").endswith("/?token=t")


def test_a_path_of_thousands_of_digits_is_not_found(tmp_path: Path):
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        for number in ("2", "9999", "9" * 5000):
            async with http.get(served.make_url(f"/pictures/{number}")) as answer:
                assert answer.status == 404

    visit(tmp_path, scenario)
