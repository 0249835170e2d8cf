"""Pacing of one browser: newest keys, frames skipped if keys change, none if the engine has no spare time."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from moworld.inference.player.stream import Stream
from tests.moworld.inference.worlds import picture, tiny_engine

FPS = 6.0  # a chunk of 12 frames plays for 2 s: a tiny model has spare time on any machine
Sent = list[tuple[int, int]]  # frame number, number of the keys it follows


def played(folder: Path, scenario: Callable[[Stream, Sent], Coroutine[Any, Any, None]]) -> tuple[Stream, Sent]:
    sent: Sent = []

    async def send(number: int, keys: int, seconds: float, jpeg: bytes) -> None:
        sent.append((number, keys))
        stream.shown = number

    async def run() -> None:
        stream.running.set()
        playing = asyncio.create_task(stream.play(picture(), "", 0))
        try:
            async with asyncio.timeout(120):
                await scenario(stream, sent)
        finally:
            playing.cancel()
            await asyncio.wait([playing])

    engine = tiny_engine(folder, max_sessions=1)
    stream = Stream(engine.admit(), FPS, send)
    asyncio.run(run())
    engine.close()
    return stream, sent


async def until(ready: Callable[[], bool]) -> None:
    while not ready():
        await asyncio.sleep(0.005)


def test_if_keys_change_every_third_remaining_frame_is_shown(tmp_path: Path):
    async def scenario(stream: Stream, sent: Sent) -> None:
        await until(lambda: len(sent) >= 13 + 3)  # the first frame, a chunk, and three frames of the next one
        stream.recording = True
        stream.makings.extend([0.05] * 24)  # chunks are quick on any machine
        pressed.append(len(sent))
        stream.hold("w", 1)
        await until(lambda: len(sent) > 40)

    pressed: list[int] = []

    stream, sent = played(tmp_path, scenario)
    numbers = [number for number, _ in sent]
    (at,) = pressed
    left, first = 25 - at, next(place for place, (_, keys) in enumerate(sent) if keys == 1)
    assert numbers[:at] == list(range(1, at + 1)) and left > 4
    shown = -(-left // 3)
    assert numbers[at:first] == [at + (place + 1) * left // shown for place in range(shown)] and numbers[first - 1] == 25  # the last one is shown
    assert numbers[first:] == list(range(26, 26 + len(numbers) - first))  # the first frame of a chunk follows the keys; nothing is skipped after it
    assert stream.numbers["hurried"] == left - shown and stream.numbers["dropped"] == 0
    assert len(stream.recorded) == numbers[-1] - at  # recordings contain all frames


def test_nothing_is_skipped_if_chunks_take_long(tmp_path: Path):
    async def scenario(stream: Stream, sent: Sent) -> None:
        stream.makings.extend([6.0] * 24)
        await until(lambda: len(sent) >= 16)
        stream.hold("w", 1)
        await until(lambda: sent[-1][1] == 1)

    stream, sent = played(tmp_path, scenario)
    assert [number for number, _ in sent] == list(range(1, len(sent) + 1)) and stream.numbers["hurried"] == 0


def test_nothing_is_skipped_if_keys_stay_the_same(tmp_path: Path):
    async def scenario(stream: Stream, sent: Sent) -> None:
        await until(lambda: len(sent) >= 16)
        stream.hold("", 1)
        await until(lambda: sent[-1][1] == 1)

    stream, sent = played(tmp_path, scenario)
    assert [number for number, _ in sent] == list(range(1, len(sent) + 1)) and stream.numbers["hurried"] == 0


def test_a_pause_makes_no_chunk_late(tmp_path: Path):
    async def scenario(stream: Stream, sent: Sent) -> None:
        await until(lambda: len(sent) > 13)
        before = stream.numbers["late"]
        stream.running.clear()
        await asyncio.sleep(4)  # longer than the finished chunks play
        held = len(sent)
        stream.running.set()
        await until(lambda: len(sent) > held + 2)
        assert stream.numbers["late"] == before

    played(tmp_path, scenario)
