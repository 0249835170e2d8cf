"""Hostile messages, pictures and connections beside one visitor who plays: the visitor is not disturbed and no resource leaks."""

import asyncio
import gc
import json
import os
import socket
import sys
from collections import Counter
from pathlib import Path

import aiohttp
import psutil
import pytest
from aiohttp.test_utils import TestServer
from PIL import Image

from moworld.inference.player import server as servers
from moworld.inference.player.server import Player
from tests.moworld.inference.player.hostile import Hostile, encoded, websocket_text
from tests.moworld.inference.player.test_server import FPS, Guest, guest, visit
from tests.moworld.inference.worlds import picture, tiny_engine

LARGEST = encoded(Image.new("L", (5_000, 5_000)), "PNG")  # the most pixels that a picture may have, in 25 kB
KINDS = {"text", "picture", "flood", "refused", "not found", "bytes", "frames", "slow"}


def left_behind() -> tuple[int, int]:
    """Tasks and open files of this process."""
    gc.collect()
    return len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))


async def attacked(served: TestServer, token: str, count: int, seed: int = 0, attackers: int = 2) -> Counter[str]:
    """Attackers in processes of their own, until each has sent its share."""
    command = [sys.executable, "-m", "tests.moworld.inference.player.hostile", str(served.port), token]
    started = [
        await asyncio.create_subprocess_exec(*command, str(seed + number), str(-(-count // attackers)), stdout=asyncio.subprocess.PIPE)
        for number in range(attackers)
    ]
    outputs = [(await process.communicate())[0] for process in started]
    assert [process.returncode for process in started] == [0] * attackers
    return sum((Counter(json.loads(text)) for text in outputs), Counter[str]())


def rate(one: Guest, since: float) -> float:
    at = [moment for moment in one.at if moment >= since]
    return (len(at) - 1) / (at[-1] - at[0])


@pytest.mark.parametrize(("count", "attackers", "parts"), [(300, 1, 2), pytest.param(10_000, 2, 4, marks=pytest.mark.slow)])
def test_hostile_visitors_disturb_no_other_and_leak_nothing(tmp_path: Path, count: int, attackers: int, parts: int):
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        clock = asyncio.get_running_loop().time
        await attacked(served, "sesame", 100, attackers=1)  # fills caches; the largest picture fills the allocator's pools
        async with guest(served, http, query="?token=sesame") as first:
            await first.socket.send_bytes(LARGEST)
            await first.until(lambda: any(message["type"] == "uploaded" for message in first.received), 60)
        async with http.get(served.make_url("/health")):
            pass
        await asyncio.sleep(0.5)
        memory, (tasks, files) = [psutil.Process().memory_info().rss], left_behind()
        async with guest(served, http, query="?token=sesame") as good:
            await good.say(type="start")
            await good.until(lambda: len(good.frames) > 60)
            began = clock()
            await asyncio.sleep(2)
            alone, began = rate(good, began), clock()
            sent = Counter[str]()
            for part in range(parts):
                sent += await attacked(served, "sesame", count // parts, 10 * part, attackers)
                await good.until(lambda: player.engine.sessions == 1, 60)
                await asyncio.get_running_loop().run_in_executor(player.worker, int)  # no picture is being decoded
                gc.collect()
                memory.append(psutil.Process().memory_info().rss)
            beside, before = rate(good, began), len(good.frames)
            assert sent.total() >= count and (count < 5000 or sent.keys() == KINDS)
            await good.until(lambda: len(good.frames) > before + 60)
            numbers = [number for number, _, _ in good.frames]
            assert numbers == sorted(set(numbers)) and good.socket.close_code is None
            assert not any(message["type"] == "error" for message in good.received)
            assert len(player.streams) == 1  # every slot was released
            print(f"\n{dict(sent)}: the visitor at {FPS:.0f} frames per second received {alone:.1f} alone, {beside:.1f} beside them")
        async with asyncio.timeout(20):
            while player.engine.sessions or left_behind()[0] > tasks or left_behind()[1] > files:
                await asyncio.sleep(0.2)
        assert not player.streams
        print(f"resident memory before, and after each part: {', '.join(f'{value / 1e6:.0f}' for value in memory)} MB")
        assert memory[-1] - memory[1] < 160e6  # the allocator keeps the peak of a few large pictures and messages, once

    visit(tmp_path, scenario, max_sessions=3, token="sesame")


def test_a_visitor_that_never_reads_is_disconnected(tmp_path: Path):
    """It reports every frame as drawn and reads none; without the limit it would keep a slot, a socket and unsent frames for ever."""

    async def run() -> None:
        engine, listening = tiny_engine(tmp_path, max_sessions=1), servers.listen("127.0.0.1", 0)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # otherwise the kernel buffers minutes of frames
        player = Player(engine, [picture()], FPS, recordings=tmp_path)
        async with TestServer(player.application(), socket_factory=lambda *_: listening) as served, asyncio.timeout(120):
            assert served.port is not None
            _, files = left_behind()
            _, writer = await Hostile(served.port, "", 0).opened(receive_bytes=4096)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(websocket_text('{"type":"start"}'))
            while not player.streams:
                await asyncio.sleep(0.05)
            (stream,) = player.streams
            while engine.sessions:
                writer.write(websocket_text('{"type":"shown","frame":4294967295}'))
                await asyncio.sleep(0.1)
            assert stream.numbers["dropped"] == 0  # no frame was dropped for it
            while left_behind()[1] > files + 1:  # the attacker's socket is still open
                await asyncio.sleep(0.1)
            writer.transport.abort()
        engine.close()

    asyncio.run(run())


def test_pictures_are_decoded_one_at_a_time_and_stored_small(tmp_path: Path):
    """The largest accepted picture takes 0.1 GB while it is decoded; several visitors send it at once."""

    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        before = psutil.Process().memory_info().rss
        guests = [guest(served, http) for _ in range(6)]
        opened = [await one.__aenter__() for one in guests]
        for one in opened:
            await one.socket.send_bytes(LARGEST)
        highest = before
        for one in opened:
            async with asyncio.timeout(60):
                while not any(message["type"] == "uploaded" for message in one.received):
                    highest = max(highest, psutil.Process().memory_info().rss)
                    await asyncio.sleep(0.01)
        kept = psutil.Process().memory_info().rss - before
        for one_guest in guests:
            await one_guest.__aexit__(None, None, None)
        assert kept < 250e6 and highest - before < 700e6, (kept, highest - before)  # 6 x 75 MB if kept, over 1 GB if decoded at once

    visit(tmp_path, scenario, max_sessions=6)
