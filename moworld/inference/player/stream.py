"""One browser's world: keys in, paced frames out. A chunk is started as late as possible, so that it follows the newest keys.

Latency from a key to its first frame: a chunk of n frames plays for n / fps. Keys are read once per chunk, `lead` = making + margin before its
first frame is due. So a key waits up to n / fps to be read, then `lead`, then for network and drawing: at most n / fps + lead + network, half a
chunk less on average. With 12 frames at 30 FPS the first wait alone is 0.4 s. Therefore, if keys change and the engine has spare time, the next
chunk is started at once, and only every third one of the frames still to be played is shown: the rest of the old chunk plays in a third of the
time. A key that changes just after the keys were read waits for `lead`, then for a third of a chunk: at most max(n / (3 fps), lead) + lead +
network. Frames are skipped, never queued; recordings contain all of them.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from math import ceil

import numpy as np
from numpy.typing import NDArray

from moworld.inference.engine import Chunk, Slot
from moworld.inference.pictures import encode_jpeg
from moworld.inference.player.drift import Drift
from moworld.inference.player.messages import MAX_WALK
from moworld.inference.provenance import digest_of
from moworld.video import Frames

LAG_FRAMES = 30  # frames sent and not drawn yet; further ones are dropped, not queued
MARGIN = 0.012  # seconds by which a chunk is started earlier than its expected duration requires
HURRY = 3  # of so many frames one is shown while the next chunk follows changed keys
SPARE = 0.75  # frames are skipped only while `lead` is below this share of a chunk's duration: others share the engine
RECORDED_FRAMES = 3600
MAX_RUNS = 50_000  # of frames under the same keys that are noted of a walk

Send = Callable[[int, int, float, bytes], Awaitable[None]]


async def discard(number: int, keys: int, seconds: float, jpeg: bytes) -> None:
    """Delivers a frame to nobody."""


class Stream:
    """Plays one slot of an engine at `fps`. `send(number, keys, seconds, jpeg)` delivers a frame.

    path: of a client that steers by poses: returns those of the next chunk, (frames, 4, 4), in place of the held keys
    take: of a client that plays chunks itself: gets the frames (T, H, W, 3) of the first frame and of each chunk as soon as they are made
    """

    def __init__(self, slot: Slot, fps: float, send: Send = discard) -> None:
        self.slot, self.fps, self.send = slot, fps, send
        self.keys, self.keys_number, self.shown, self.number = "", 0, 0, 0
        self.running = asyncio.Event()  # cleared while paused
        self.running.set()
        self.changed = asyncio.Event()  # the held keys differ from those of the newest chunk
        self.makings = deque[float]([0.2], maxlen=24)  # seconds of the newest chunks from request to frames
        self.recorded, self.recording, self.recorded_from = list[bytes](), False, (0, 0)  # the last: see `record`
        self.world, self.digests = 0, list[str]()  # number of the world that is open, SHA-256 of its first frame and of each chunk
        self.numbers = {"chunks": 0, "late": 0, "dropped": 0, "hurried": 0}
        self.intervals, self.sent_at = deque[float](maxlen=60), deque[float](maxlen=240)
        self.left = deque[tuple[Frames, bool]]()  # remaining frames of the current chunk, and whether each is shown
        self.next_at = 0.0  # time at which the next of them is due
        self.walked, self.drift = Walked(), Drift()
        self.path: Callable[[int], NDArray[np.float64]] | None = None
        self.take: Callable[[Frames], Awaitable[None]] | None = None

    def hold(self, keys: str, number: int) -> None:
        """Sets the held keys; frames that follow them carry `number`."""
        if keys != self.keys:
            self.changed.set()
        self.keys, self.keys_number = keys, number

    def record(self) -> None:
        """Keeps the frames from now on. `recorded_from` is then the number of the world, and the frames of it that were played before."""
        self.recorded, self.recording, self.recorded_from = [], True, (self.world, self.number)

    async def play(self, first_frame: Frames, prompt: str, seed: int, walk: Iterable[Iterable[str]] = ()) -> None:
        """Opens the world and plays until cancelled.

        walk: keys of frames that are made first, as fast as possible; the last frame of each of their chunks is delivered
        """
        chunk = await asyncio.wrap_future(self.slot.open(first_frame, prompt, seed))
        self.number, self.shown, self.world = 0, 0, self.world + 1
        if not self.recorded:
            self.recorded_from = self.world, 0
        self.left.clear()
        self.walked, self.drift, self.digests = Walked(), Drift(chunk.frames), [digest_of(chunk.frames)]
        if self.take is not None:
            await self.take(chunk.frames)
        await self._deliver(chunk.frames[0], self.keys_number, chunk.seconds)
        await self._follow(["".join(sorted(keys)) for keys in walk])
        playing, ready = None, time.monotonic()
        self.next_at = ready + self.lead
        try:
            while True:
                await self._wait_for_start()
                chunk, number = await self._make()
                now = time.monotonic()
                self.intervals.append(now - ready)
                ready = now
                self.numbers["chunks"] += 1
                self.numbers["late"] += now > self.due + 1 / self.fps  # one frame's duration is tolerated
                if playing is not None:
                    await playing
                self.next_at = max(self.next_at, time.monotonic())  # a late chunk shifts the clock: frames never queue up
                self.left.extend((frame, True) for frame in chunk.frames)
                playing = asyncio.create_task(self._pace(number, chunk.seconds))
        finally:
            if playing is not None:
                playing.cancel()

    async def _follow(self, walk: list[str]) -> None:
        size = self.slot.session.chunk_frames
        for start in range(0, len(walk), size):
            keys = [*walk[start : start + size], *[""] * size][:size]
            chunk = await asyncio.wrap_future(self.slot.step(keys))
            self._note(keys, chunk)
            self.number += size - 1
            self.shown = max(self.shown, self.number - LAG_FRAMES)  # the frames between are not late: nobody sent them
            await self._deliver(chunk.frames[-1], self.keys_number, chunk.seconds)

    def _note(self, keys: list[str], chunk: Chunk) -> None:
        for held in keys:
            self.walked.add(held)
        self.drift.add(chunk.frames)
        self.digests.append(digest_of(chunk.frames))

    @property
    def due(self) -> float:
        """Time at which the first frame of the next chunk is due."""
        return self.next_at + sum(shown for _, shown in self.left) / self.fps

    @property
    def making(self) -> float:
        """90th percentile of the seconds per chunk: a rare slow chunk does not make keys be read earlier for good."""
        return float(np.quantile(self.makings, 0.9))

    @property
    def lead(self) -> float:
        """Seconds before its due time at which a chunk is started."""
        return self.making + MARGIN

    async def _wait_for_start(self) -> None:
        """Waits until the next chunk has to start, which is earlier if keys change and there is spare time."""
        may_hurry = self.lead < SPARE * self.slot.session.chunk_frames / self.fps
        while (wait := self.due - self.lead - time.monotonic()) > 0:
            if may_hurry and self.changed.is_set():
                self._hurry()
                may_hurry = False
            elif may_hurry:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self.changed.wait()
            else:
                await asyncio.sleep(wait)
        if not self.running.is_set():
            await self.running.wait()
            self.next_at += max(0.0, time.monotonic() + self.lead - self.due)  # a pause makes no chunk late

    def _hurry(self) -> None:
        """Shows one of `HURRY` remaining frames, or more if the next chunk would not be ready in time."""
        left = len(self.left)
        shown = min(left, max(ceil(left / HURRY), ceil((time.monotonic() + self.lead - self.next_at) * self.fps)))
        if shown < left:
            self.numbers["hurried"] += left - shown
            chosen = {(number + 1) * left // shown - 1 for number in range(shown)}  # includes the last one
            self.left = deque((frame, place in chosen) for place, (frame, _) in enumerate(self.left))

    async def _make(self) -> tuple[Chunk, int]:
        """Returns the next chunk under the keys held now, and their number."""
        keys, number = self.keys, self.keys_number
        self.changed.clear()
        size = self.slot.session.chunk_frames
        held = [keys] * size
        chunk = await asyncio.wrap_future(self.slot.step(held if self.path is None else self.path(size)))
        self.makings.append(chunk.seconds)
        self._note(held, chunk)
        if self.take is not None:
            await self.take(chunk.frames)
        return chunk, number

    async def _pace(self, keys_number: int, seconds: float) -> None:
        while self.left:
            await asyncio.sleep(max(0.0, self.next_at - time.monotonic()))
            frame, shown = self.left.popleft()
            if shown:
                self.next_at += 1 / self.fps
            await self._deliver(frame, keys_number, seconds, shown)

    async def _deliver(self, frame: Frames, keys_number: int, seconds: float, shown: bool = True) -> None:
        self.number += 1
        if self.send is discard and not self.recording:  # nobody draws it
            return
        jpeg = encode_jpeg(frame)
        if self.recording and len(self.recorded) < RECORDED_FRAMES:
            self.recorded.append(jpeg)
        if not shown:
            return
        if self.number - self.shown > (LAG_FRAMES if self.shown else 2 * LAG_FRAMES):  # more until the browser reports its first
            self.numbers["dropped"] += 1
            return
        self.sent_at.append(time.monotonic())
        await self.send(self.number, keys_number, seconds, jpeg)

    def report(self) -> dict[str, float]:
        """Returns live numbers: frames per second, chunk interval and duration, share of chunks in time, counts, drift (see `Drift`)."""
        recent = [at for at in self.sent_at if at > time.monotonic() - 2]
        return {
            "fps": round((len(recent) - 1) / (recent[-1] - recent[0]), 1) if len(recent) > 2 else 0.0,
            "chunk_interval_ms": round(1000 * float(np.median(self.intervals)), 1) if self.intervals else 0.0,
            "making_ms": round(1000 * self.making, 1),
            "deadline_attainment": round(1 - self.numbers["late"] / max(1, self.numbers["chunks"]), 4),
            **{name: self.numbers[name] for name in ("dropped", "hurried", "chunks")},
            "drift": round(self.drift.value, 2),
        }


class Walked:
    """The keys of a walk so far, as controls that make it again: "w*24,lw*12,none*12"."""

    def __init__(self) -> None:
        self.runs = list[tuple[str, int]]()

    def add(self, keys: str) -> None:
        """Appends the keys of one frame."""
        if self.runs and self.runs[-1][0] == keys:
            self.runs[-1] = keys, self.runs[-1][1] + 1
        elif len(self.runs) <= MAX_RUNS:
            self.runs.append((keys, 1))

    def report(self) -> dict[str, object]:
        """Returns {"frames", "walk"}: number of frames, and `controls`."""
        return {"frames": sum(count for _, count in self.runs), "walk": self.controls}

    @property
    def controls(self) -> str:
        """The controls, or "" if they are longer than `MAX_WALK` characters."""
        text = self.all_controls if len(self.runs) <= MAX_WALK else ""
        return text if len(text) <= MAX_WALK else ""

    @property
    def all_controls(self) -> str:
        """The controls of any length, or "" after more than `MAX_RUNS` changes of keys."""
        return ",".join(f"{keys or 'none'}*{count}" for keys, count in self.runs) if len(self.runs) <= MAX_RUNS else ""
