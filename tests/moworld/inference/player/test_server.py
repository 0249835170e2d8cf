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
        player = Player(engine, [picture(16, 32), picture(16, 32, seed=1)], FPS, **{"recordings": folder, **settings})
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
            hello = {"type": "hello", "width": 32, "height": 16, "fps": FPS, "prompt": "", "pictures": 2, "chunk": 12, "resumed": False}
            assert hello.items() <= one.received[0].items()
            await one.say(type="start", seed=5)
            await one.until(lambda: len(one.frames) > 30)
            await one.say(type="keys", keys="wl", number=7)
            await one.until(lambda: bool(one.frames) and one.frames[-1][1] == 7)
            await one.until(lambda: len(one.frames) > 100)
            numbers = [number for number, _, _ in one.frames]
            assert numbers == sorted(set(numbers))
            left_out = {number for number in range(1, numbers[-1]) if number not in numbers}
            assert len(left_out) <= 8 and all(0 <= number - 30 <= 24 for number in left_out)  # only where the keys changed
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
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"], "a foreign page could take a seat in a frame"
            assert answer.headers["X-Frame-Options"] == "DENY"
        if status != 200:
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await http.ws_connect(served.make_url("/world"), headers=headers)
            assert player.engine.sessions == 0

    visit(tmp_path, scenario)


def test_a_token_is_required_where_one_is_set(tmp_path: Path):
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        for query, status in (("", 401), ("?token=wrong", 401), ("?token=sesam%C3%A4", 401), ("?token=sesame", 200)):
            for path in ("/", "/settings", "/pictures/0", "/metrics"):
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


def test_a_visitor_above_the_limit_waits_and_sees_the_place(tmp_path: Path):
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        async with guest(served, http), guest(served, http) as second, guest(served, http) as third, guest(served, http) as fourth:
            await fourth.until(lambda: bool(fourth.received) and bool(third.received))
            assert third.received == [{"type": "queue", "place": 1, "sessions": 2}]
            assert fourth.received == [{"type": "queue", "place": 2, "sessions": 2}] and player.engine.sessions == 2
            async with http.get(served.make_url("/metrics")) as answer:
                assert "moworld_player_waiting 2.0" in await answer.text()
            await second.socket.close()
            await third.until(lambda: third.received[-1]["type"] == "hello")
            await fourth.until(lambda: fourth.received[-1] == {"type": "queue", "place": 1, "sessions": 2})
            await fourth.socket.close()  # leaves the queue
            await third.until(lambda: not player.seats.waiting)
            await third.socket.close()
        async with guest(served, http) as one:
            await one.until(lambda: bool(one.received) and one.received[0]["type"] == "hello")

    visit(tmp_path, scenario)


def test_a_page_that_comes_back_goes_on_where_it_was(tmp_path: Path):
    query = "?session=" + "a1" * 16

    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        async with guest(served, http, query=query) as one:
            await one.say(type="start", seed=3, picture=1, prompt="a hall")
            await one.until(lambda: len(one.frames) > 30)
        (stream,) = player.streams
        async with guest(served, http, query=query) as again:
            await again.until(lambda: len(again.received) > 1)
            assert again.received[0]["resumed"] is True
            assert again.received[1] == {"type": "opened", "picture": 1, "seed": 3, "prompt": "a hall"}
            await again.until(lambda: len(again.frames) > 12)
            assert player.streams == {stream} and again.frames[0][0] > 30  # the same world
            async with guest(served, http, query=query) as other:  # a second window takes the walk over
                await again.until(lambda: again.socket.closed)
                assert again.socket.close_code == 4001 and "another window" in again.received[-1]["message"]
                await other.until(lambda: len(other.frames) > 3)
                assert player.engine.sessions == 1

    visit(tmp_path, scenario)


def test_a_seat_is_not_held_where_somebody_waits_and_a_held_one_is_given_away(tmp_path: Path):
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        async with guest(served, http, query="?session=" + "0" * 32) as one:
            await one.say(type="start")
            await one.until(lambda: len(one.frames) > 3)
        await one.until(lambda: bool(player.seats.held))
        async with guest(served, http, query="?session=" + "1" * 32) as two:  # the only seat is held for one who is absent
            await two.until(lambda: bool(two.received) and two.received[0]["type"] == "hello")
            await two.say(type="start")
            await two.until(lambda: len(two.frames) > 3)
            assert not player.seats.held
            async with guest(served, http) as three:
                await three.until(lambda: bool(three.received))
                await two.socket.close()
                await three.until(lambda: three.received[-1]["type"] == "hello")
        async with http.get(served.make_url("/world?session=xyz")) as answer:
            assert answer.status == 400

    visit(tmp_path, scenario, max_sessions=1)


def test_the_keys_of_a_link_make_the_same_walk_again(tmp_path: Path):
    async def walk(served: TestServer, http: aiohttp.ClientSession, keys: str) -> tuple[dict[int, bytes], dict[str, Any]]:
        async with guest(served, http) as one:
            await one.say(type="start", seed=2, walk=keys)
            await one.until(lambda: any(message.get("frames", 0) >= 48 for message in one.received))
            report = next(message for message in one.received if message.get("frames", 0) >= 48)
            return {number: jpeg for number, _, jpeg in one.frames}, report

    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        first, report = await walk(served, http, "w*12,lw*24")
        assert report["walk"].startswith("w*12,lw*24,none*") and report["frames"] == 36 + int(report["walk"].rpartition("*")[2])
        again, _ = await walk(served, http, report["walk"])
        other, _ = await walk(served, http, "s*12,jw*24")
        common = sorted(set(first) & set(again) & {13, 25, 37})
        assert common == [13, 25, 37], "the last frame of each chunk that is made again is shown"
        assert all(first[number] == again[number] for number in common) and first[37] != other[37]
        async with guest(served, http) as one:
            await one.say(type="start", walk="q*3")
            await one.say(type="start", walk="w*99999")
            await one.until(lambda: sum(message["type"] == "error" for message in one.received) == 2)
            refused = [message["message"] for message in one.received if message["type"] == "error"]
            assert "'q'" in refused[0] and "3600" in refused[1]

    visit(tmp_path, scenario)


def test_of_six_quick_starts_the_last_one_plays(tmp_path: Path):
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        async with guest(served, http) as one:
            for number in range(6):
                await one.say(type="start", seed=number, picture=number % 2)
            await one.until(lambda: [message["seed"] for message in one.received if message["type"] == "opened"][-1:] == [5])
            await one.until(lambda: len(one.frames) > 3)
            assert not [message for message in one.received if message["type"] == "error"]
            (seat,) = player.seats.taken
            assert seat.started is not None and (seat.started.seed, seat.started.picture) == (5, 1)

    visit(tmp_path, scenario)


def test_a_picture_that_is_too_large_is_refused_by_a_message_and_the_walk_goes_on(tmp_path: Path):
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        async with guest(served, http) as one:
            await one.say(type="start")
            await one.socket.send_bytes(bytes(7 * 2**20))
            await one.until(lambda: any("7.0 MiB" in str(message.get("message")) for message in one.received))
            before = len(one.frames)
            await one.until(lambda: len(one.frames) > before + 12)

    visit(tmp_path, scenario)


def test_keys_that_the_model_has_not_learned_are_not_offered_and_move_nothing(tmp_path: Path):
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        async with guest(served, http) as one:
            await one.say(type="start")
            await one.say(type="keys", keys="iw", number=1)
            await one.until(lambda: bool(one.frames) and one.frames[-1][1] == 1)
            (stream,) = player.streams
            assert stream.keys == "w" and one.received[0]["keys"] == "wasdjl"
        world = player.engine.model
        world.config = world.config.model_copy(update={"pitch": True})
        assert Player(player.engine, player.pictures, FPS, recordings=tmp_path).keys == "wasdjlik"

    visit(tmp_path, scenario)


def test_one_address_makes_no_flood_of_requests_behind_a_proxy(tmp_path: Path):
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        player.origin = "https://world.example"
        host = {"Host": "world.example", "Origin": "https://world.example", "Authorization": "Bearer sesame"}
        answers = []
        for _ in range(100):
            async with http.get(served.make_url("/settings"), headers={**host, "X-Forwarded-For": "10.1.1.1, 192.0.2.7"}) as answer:
                answers.append(answer.status)
        assert answers[:50] == [200] * 50 and 429 in answers
        for headers, status in ((host | {"X-Forwarded-For": "192.0.2.8"}, 200), (host | {"Host": "evil.example"}, 403)):
            async with http.get(served.make_url("/settings"), headers=headers) as answer:
                assert answer.status == status

    visit(tmp_path, scenario, token="sesame")


def test_recordings_are_large_and_removed_when_the_server_ends(tmp_path: Path):
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        async with guest(served, http) as one:
            await one.say(type="start")
            await one.say(type="record", on=True)
            await one.until(lambda: len(one.frames) > 14)
            await one.say(type="record", on=False)
            await one.until(lambda: any(message["type"] == "recording" for message in one.received))
            (path,) = player.recording_folder.glob("*.mp4")
            with av.open(str(path)) as video:
                assert (video.streams.video[0].width, video.streams.video[0].height) == (960, 480)
        folders.append(player.recording_folder)

    folders: list[Path] = []
    visit(tmp_path, scenario, recordings=None)
    assert folders and not folders[0].exists()


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
