"""One browser's world: keys in, paced frames out. A chunk is begun as late as it can be and still be in time, so that it obeys the newest keys.

What bounds the time from a key to its first frame: a chunk of n frames plays for n / fps. Keys are read once a chunk, `lead` = making + margin
before its first frame is due, so a key waits up to n / fps to be read, then `lead`, then for the wire and the drawing: n / fps + lead + wire at
most, half a chunk less on average. At 12 frames and 30 FPS the wait alone is 0.4 s. So where keys change and the engine has time to spare, the
next chunk is begun at once, and of the frames that are left of the one that plays every second is left out: what the world does under old
keys then passes in half the time. A key that came just after the keys were read waits for `lead`, and then for half a chunk:
max(n / (2 fps), lead) + lead + wire at most. Frames are left out, never queued; recordings have them all.
"""

import asyncio
import time
from collections import deque
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moworld.inference.engine import Chunk, Seat

Frames = NDArray[np.uint8]
LAG_FRAMES = 30  # frames that the browser has not drawn yet; more are dropped, not queued
MARGIN = 0.012  # seconds by which a chunk is begun earlier than its making is expected to take
SPARE = 0.75  # share of a chunk's time below which `lead` has to be for frames to be left out: others share the engine
RECORDED_FRAMES = 3600


class Stream:
    """Plays one seat of an engine at `fps`. `send(number, keys, seconds, jpeg)` delivers a frame."""

    def __init__(self, seat: Seat, fps: float, send: Any) -> None:
        self.seat, self.fps, self.send = seat, fps, send
        self.keys, self.keys_number, self.shown, self.number = "", 0, 0, 0
        self.running = asyncio.Event()  # cleared while paused
        self.running.set()
        self.changed = asyncio.Event()  # other keys are held than those of the newest chunk
        self.makings = deque[float]([0.2], maxlen=24)  # seconds of the newest chunks from request to frames
        self.recorded, self.recording = list[bytes](), False
        self.numbers: dict[str, Any] = {"chunks": 0, "late": 0, "dropped": 0, "hurried": 0}
        self.intervals, self.sent_at = deque[float](maxlen=60), deque[float](maxlen=240)
        self.left = deque[tuple[Frames, bool]]()  # frames of the chunk that plays, and whether each is shown
        self.next_at = 0.0  # when the next of them is due

    def hold(self, keys: str, number: int) -> None:
        """The keys that are held from now on; `number` comes back with the frames that obey them."""
        if keys != self.keys:
            self.changed.set()
        self.keys, self.keys_number = keys, number

    async def play(self, first_frame: Frames, prompt: str, seed: int) -> None:
        """Open the world and play until cancelled."""
        chunk = await asyncio.wrap_future(self.seat.open(first_frame, prompt, seed))
        self.number, self.shown = 0, 0
        self.left.clear()
        await self._deliver(chunk.frames[0], self.keys_number, chunk.seconds)
        playing, ready = None, time.monotonic()
        self.next_at = ready + self.lead
        try:
            while True:
                await self._moment()
                chunk, number = await self._make()
                now = time.monotonic()
                self.intervals.append(now - ready)
                ready = now
                self.numbers["chunks"] += 1
                self.numbers["late"] += now > self.due + 1 / self.fps  # a frame's time is forgiven
                if playing is not None:
                    await playing
                self.next_at = max(self.next_at, time.monotonic())  # a late chunk moves the clock: frames are never queued to catch up
                self.left.extend((frame, True) for frame in chunk.frames)
                playing = asyncio.create_task(self._pace(number, chunk.seconds))
        finally:
            if playing is not None:
                playing.cancel()

    @property
    def due(self) -> float:
        """When the first frame of the next chunk is due."""
        return self.next_at + sum(shown for _, shown in self.left) / self.fps

    @property
    def making(self) -> float:
        """Seconds that a chunk takes, nine times in ten: one that took long now and then does not make keys be read sooner ever after."""
        return float(np.quantile(self.makings, 0.9))

    @property
    def lead(self) -> float:
        """Seconds before it is due that a chunk has to be begun."""
        return self.making + MARGIN

    async def _moment(self) -> None:
        """Until the next chunk has to begin: as late as can be, which is sooner where keys have changed and there is time to spare."""
        may_hurry = self.lead < SPARE * self.seat.session.chunk_frames / self.fps
        while (wait := self.due - self.lead - time.monotonic()) > 0:
            if may_hurry and self.changed.is_set():
                self._hurry()
                may_hurry = False
            elif may_hurry:
                await _within(self.changed, wait)
            else:
                await asyncio.sleep(wait)
        if not self.running.is_set():
            await self.running.wait()
            self.next_at += max(0.0, time.monotonic() + self.lead - self.due)  # a pause makes no chunk late

    def _hurry(self) -> None:
        """Leave out frames that are still to be played: every second one, or as many fewer as the making of the next chunk takes."""
        left = len(self.left)
        shown = min(left, max(-(-left // 2), ceil((time.monotonic() + self.lead - self.next_at) * self.fps)))
        if shown < left:
            self.numbers["hurried"] += left - shown
            chosen = {(number + 1) * left // shown - 1 for number in range(shown)}  # the last one is among them
            self.left = deque((frame, place in chosen) for place, (frame, _) in enumerate(self.left))

    async def _make(self) -> tuple[Chunk, int]:
        """The next chunk under the keys that are held now, and their number."""
        keys, number = self.keys, self.keys_number
        self.changed.clear()
        chunk = await asyncio.wrap_future(self.seat.step([keys] * self.seat.session.chunk_frames))
        self.makings.append(chunk.seconds)
        return chunk, number

    async def _pace(self, keys_number: int, seconds: float) -> None:
        while self.left:
            await asyncio.sleep(max(0.0, self.next_at - time.monotonic()))
            frame, shown = self.left.popleft()
            if shown:
                self.next_at += 1 / self.fps
            await self._deliver(frame, keys_number, seconds, shown)

    async def _deliver(self, frame: Frames, keys_number: int, seconds: float, shown: bool = True) -> None:
        jpeg = encode_jpeg(frame)
        self.number += 1
        if self.recording and len(self.recorded) < RECORDED_FRAMES:
            self.recorded.append(jpeg)
        if not shown:
            return
        if self.number - self.shown > LAG_FRAMES + self.shown_grace:
            self.numbers["dropped"] += 1
            return
        self.sent_at.append(time.monotonic())
        await self.send(self.number, keys_number, seconds, jpeg)

    @property
    def shown_grace(self) -> int:
        """Frames that may be on their way before the browser has reported its first."""
        return LAG_FRAMES if not self.shown else 0

    def report(self) -> dict[str, float]:
        """Live numbers: frames a second, chunk interval, making and deadline attainment, drops."""
        recent = [at for at in self.sent_at if at > time.monotonic() - 2]
        chunks = max(1, self.numbers["chunks"])
        return {
            "fps": round((len(recent) - 1) / (recent[-1] - recent[0]), 1) if len(recent) > 2 else 0.0,
            "chunk_interval_ms": round(1000 * float(np.median(self.intervals)), 1) if self.intervals else 0.0,
            "making_ms": round(1000 * self.making, 1),
            "deadline_attainment": round(1 - self.numbers["late"] / chunks, 4),
            "dropped": self.numbers["dropped"],
            "hurried": self.numbers["hurried"],
            "chunks": self.numbers["chunks"],
        }


async def _within(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, at most so long."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def encode_jpeg(frame: Frames, quality: int = 88) -> bytes:
    """A frame (H, W, 3) uint8 RGB as JPEG."""
    import cv2

    return cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
