"""One browser's world: keys in, paced frames out. A chunk is begun as late as it can be and still be in time, so that it obeys the newest keys."""

import asyncio
import time
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moworld.inference.engine import Chunk, Seat

Frames = NDArray[np.uint8]
LAG_FRAMES = 30  # frames that the browser has not drawn yet; more are dropped, not queued
MARGIN = 0.012  # seconds by which a chunk is begun earlier than its making is expected to take
RECORDED_FRAMES = 3600


class Stream:
    """Plays one seat of an engine at `fps`. `send(number, keys, seconds, jpeg)` delivers a frame."""

    def __init__(self, seat: Seat, fps: float, send: Any) -> None:
        self.seat, self.fps, self.send = seat, fps, send
        self.keys, self.keys_number, self.shown, self.number = "", 0, 0, 0
        self.running = asyncio.Event()  # cleared while paused
        self.running.set()
        self.making, self.recorded = 0.2, list[bytes]()
        self.recording = False
        self.numbers: dict[str, Any] = {"chunks": 0, "late": 0, "dropped": 0}
        self.intervals, self.sent_at = deque[float](maxlen=60), deque[float](maxlen=240)

    async def play(self, first_frame: Frames, prompt: str, seed: int) -> None:
        """Open the world and play until cancelled."""
        chunk = await asyncio.wrap_future(self.seat.open(first_frame, prompt, seed))
        self.number, self.shown = 0, 0
        await self._deliver(chunk.frames[0], self.keys_number, chunk.seconds)
        due, playing, ready = time.monotonic(), None, time.monotonic()
        try:
            while True:
                chunk, number = await self._make(due)
                now = time.monotonic()
                self.intervals.append(now - ready)
                ready = now
                self.numbers["chunks"] += 1
                self.numbers["late"] += now > due + 1 / self.fps  # a frame's time is forgiven
                if playing is not None:
                    await playing
                start = max(due, time.monotonic())  # a late chunk moves the clock: frames are never queued to catch up
                playing = asyncio.create_task(self._pace(chunk, number, start))
                due = start + len(chunk.frames) / self.fps
        finally:
            if playing is not None:
                playing.cancel()

    async def _make(self, due: float) -> tuple[Chunk, int]:
        """The chunk whose first frame is due then, under the keys that are held when its making has to begin."""
        await asyncio.sleep(max(0.0, due - self.making - MARGIN - time.monotonic()))
        await self.running.wait()
        keys, number = self.keys, self.keys_number
        chunk = await asyncio.wrap_future(self.seat.step([keys] * self.seat.session.chunk_frames))
        self.making += (0.5 if chunk.seconds > self.making else 0.1) * (chunk.seconds - self.making)  # quick to grow, slow to shrink
        return chunk, number

    async def _pace(self, chunk: Chunk, keys_number: int, start: float) -> None:
        for index, frame in enumerate(chunk.frames):
            await asyncio.sleep(max(0.0, start + index / self.fps - time.monotonic()))
            await self._deliver(frame, keys_number, chunk.seconds)

    async def _deliver(self, frame: Frames, keys_number: int, seconds: float) -> None:
        jpeg = encode_jpeg(frame)
        self.number += 1
        if self.recording and len(self.recorded) < RECORDED_FRAMES:
            self.recorded.append(jpeg)
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
            "chunks": self.numbers["chunks"],
        }


def encode_jpeg(frame: Frames, quality: int = 88) -> bytes:
    """A frame (H, W, 3) uint8 RGB as JPEG."""
    import cv2

    return cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
