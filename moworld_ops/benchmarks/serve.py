"""`moworld bench serve`: visitors of one served model over WebSocket connections on loopback, and one more, who waits in the queue.

The server is a process of its own, as `python -m moworld.inference.player` starts it. Visitors hold a key and change it now and then, and
report every frame as drawn, as the page does. They decode nothing, so the server has nearly all of the machine.
"""

import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from moworld.errors import InputError
from moworld.inference.player.messages import HEADER
from moworld_ops.benchmarks.measure import Row, row

STALL_SECONDS = 0.5  # a pause between two frames of a visitor that is longer counts as a stall
WARM_FRAMES = 24  # of each visitor before anything is counted
WARM_SECONDS, QUEUE_SECONDS = 300.0, 30.0


@dataclass
class Load:
    """Settings of a measurement.

    sessions: visitors with a place; fps: frames a second that each is to get; seconds: of the measurement
    price:    of an hour of one core, in any currency; 0: cost is stated in hours of cores alone
    backend:  see `moworld play --backend`
    """

    sessions: int = 8
    fps: float = 30.0
    seconds: float = 20.0
    price: float = 0.0
    backend: str = "auto"


def bench_serve(model: Path, load: Load, home: Path) -> list[Row]:
    """Returns rows of cadence, stalls, cost per session-hour and the queue. home: state folder of the server.

    Raises InputError if the server does not start.
    """
    with _server(model, load, home) as (process, url):
        return asyncio.run(_measure(url, psutil.Process(process.pid), load))


@contextlib.contextmanager
def _server(model: Path, load: Load, home: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    command = [sys.executable, "-m", "moworld.inference.player", str(model), "--port", "0", "--sessions", str(load.sessions)]
    command += ["--fps", str(load.fps), "--backend", load.backend]
    with subprocess.Popen(command, env={**os.environ, "MOWORLD_HOME": str(home)}, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("listening on "):
                raise InputError(
                    model, "", f"a server that ended with status {process.wait()}", "a model that is served", "see its message above"
                )
            yield process, f"ws://{line.removeprefix('listening on ').strip()}/world"
        finally:
            process.terminate()


@dataclass
class _Visitor:
    """One connection: times of its frames, and the newest message of each type."""

    socket: aiohttp.ClientWebSocketResponse
    at: list[float] = field(default_factory=list)
    newest: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def listen(self) -> None:
        async for message in self.socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                found = json.loads(message.data)
                self.newest[found["type"]] = found
            else:
                self.at.append(time.perf_counter())
                await self.socket.send_json({"type": "shown", "frame": HEADER.unpack(message.data[: HEADER.size])[0]})

    async def walk(self, number: int) -> None:
        """Starts a world and holds other keys every one to three seconds."""
        chance = random.Random(number)
        await self.socket.send_json({"type": "start", "seed": number, "picture": 0})
        for press in range(2**31):
            await self.socket.send_json({"type": "keys", "keys": chance.choice(("w", "wl", "wj", "a", "d", "s", "")), "number": press})
            await asyncio.sleep(chance.uniform(1, 3))

    async def until(self, kind: str, seconds: float) -> dict[str, Any]:
        """Returns the newest message of a type when there is one. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while kind not in self.newest:
                await asyncio.sleep(0.005)
        return self.newest[kind]

    def between(self, start: float, end: float) -> list[float]:
        """Returns the pauses between frames in a time, in seconds; one without an end counts up to the end."""
        times = [at for at in self.at if start <= at <= end]
        return [later - at for at, later in zip([start, *times], [*times, end], strict=True)]


@contextlib.asynccontextmanager
async def _visitor(http: aiohttp.ClientSession, url: str) -> AsyncIterator[_Visitor]:
    async with http.ws_connect(url, max_msg_size=0) as socket:
        visitor = _Visitor(socket)
        listening = asyncio.create_task(visitor.listen())
        try:
            yield visitor
        finally:
            listening.cancel()


async def _measure(url: str, process: psutil.Process, load: Load) -> list[Row]:
    async with aiohttp.ClientSession() as http, contextlib.AsyncExitStack() as stack:
        visitors = [await stack.enter_async_context(_visitor(http, url)) for _ in range(load.sessions)]
        walks = [asyncio.create_task(visitor.walk(number)) for number, visitor in enumerate(visitors)]
        async with asyncio.timeout(WARM_SECONDS):
            while min(len(visitor.at) for visitor in visitors) < WARM_FRAMES:
                await asyncio.sleep(0.1)
        late = await stack.enter_async_context(_visitor(http, url))
        place = (await late.until("queue", QUEUE_SECONDS))["place"]
        start, used = time.perf_counter(), _core_seconds(process)
        await asyncio.sleep(load.seconds)
        end, used = time.perf_counter(), _core_seconds(process) - used
        rows = _rows(visitors, load, start, end, used, process.memory_info().rss)
        left = time.perf_counter()
        walks[0].cancel()
        await visitors[0].socket.close()
        await late.until("hello", QUEUE_SECONDS)
        for walk in walks:
            walk.cancel()
        return [
            *rows,
            row("queue: place of one more visitor", place, ""),
            row("queue: seconds to the place of one who left", time.perf_counter() - left, "s"),
        ]


def _rows(visitors: list[_Visitor], load: Load, start: float, end: float, core_seconds: float, memory: int) -> list[Row]:
    """Returns the rows of all but the queue."""
    pauses = [visitor.between(start, end) for visitor in visitors]
    rates = sorted((len(found) - 1) / (end - start) for found in pauses)
    every = sorted(pause for found in pauses for pause in found)
    stalls = [pause for pause in every if pause > STALL_SECONDS]
    frames, minutes = sum(len(found) - 1 for found in pauses), load.sessions * (end - start) / 60
    hours = load.fps * core_seconds / max(1, frames)  # a core's seconds for a second of a session's frames
    in_time = [visitor.newest["numbers"]["deadline_attainment"] for visitor in visitors if "numbers" in visitor.newest]
    rows = [
        row(
            "cadence: frames a second of a session, median",
            statistics.median(rates),
            "1/s",
            load.fps,
            "wanted",
            statistics.median(rates) / load.fps,
        ),
        row("cadence: the slowest session", rates[0], "1/s", load.fps, "wanted", rates[0] / load.fps),
        row("cadence: all sessions", sum(rates), "1/s", load.fps * load.sessions, "wanted", sum(rates) / load.fps / load.sessions),
        row("cadence: chunks in time, median session", 100 * statistics.median(in_time or [0.0]), "%"),
        row(f"stalls: pauses over {STALL_SECONDS:g} s, a session-minute", len(stalls) / minutes, "1/min"),
        row("stalls: share of the time", 100 * sum(stalls) / 60 / minutes, "%"),
        row("stalls: longest pause", every[-1], "s"),
        row(f"cost: hours of a core per session-hour at {load.fps:g} frames a second", hours, "h"),
        row("cost: cores in use", core_seconds / (end - start), ""),
        row("cost: memory of the server per session", memory / 1e6 / load.sessions, "MB"),
    ]
    return rows if not load.price else [*rows, row("cost: price per session-hour", load.price * hours, "")]


def _core_seconds(process: psutil.Process) -> float:
    """Returns the processor time that a process and its children have used."""
    times = [process.cpu_times(), *(child.cpu_times() for child in process.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))
