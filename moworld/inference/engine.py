"""Several sessions on one model (paper 5.2): admitted up to a limit, served in turn, the DiT of one chunk beside the decoding of another.

One thread denoises and one decodes. Each session has at most one chunk under way, and the first queue is served in order: sessions that
ask all the time get chunk for chunk the same share.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moworld.errors import InputError
from moworld.inference.session import WorldSession
from moworld.model.text import TextEncoder
from moworld.model.world import WorldModel

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Chunk:
    """Frames (T, H, W, 3) uint8 and the seconds from the request to them, and of the two halves of the work."""

    frames: Frames
    seconds: float
    denoise_seconds: float
    decode_seconds: float


class Engine:
    """Shares a model's experts, codec and text encoder among sessions. Thread-safe; `close` ends the threads."""

    def __init__(
        self, model: WorldModel, max_sessions: int = 4, chunk_latents: int | None = None, text_encoder: TextEncoder | None = None
    ) -> None:
        self.model, self.max_sessions, self.chunk_latents = model, max_sessions, chunk_latents
        self.codec, self.text_encoder = model.codec, text_encoder or model.text_encoder
        self._seats, self._lock = set["Seat"](), threading.Lock()
        self._denoiser = ThreadPoolExecutor(1, thread_name_prefix="denoise")
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="decode")

    @property
    def sessions(self) -> int:
        """How many are admitted now."""
        return len(self._seats)

    def admit(self) -> "Seat":
        """A place for one session. Raises InputError where all are taken; `Seat.leave` gives it back."""
        with self._lock:
            if len(self._seats) >= self.max_sessions:
                found = f"{len(self._seats)} sessions"
                raise InputError("engine", "sessions", found, f"fewer than {self.max_sessions}", "try again when one has ended")
            seat = Seat(self)
            self._seats.add(seat)
            return seat

    def close(self) -> None:
        """Cancel what waits and end both threads."""
        for executor in (self._denoiser, self._decoder):
            executor.shutdown(wait=True, cancel_futures=True)


class Seat:
    """One session's place in an engine. `open` and `step` give futures; a second request before the first is answered is refused."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.session = WorldSession(engine.model, engine.text_encoder, engine.codec, engine.chunk_latents)
        self._pending: Future[Chunk] | None = None

    def open(self, first_frame: Frames, prompt: str = "", seed: int = 0) -> "Future[Chunk]":
        """Start a world anew: its first frame (see `WorldSession.open`)."""
        return self._request(lambda: self.session.open(first_frame, prompt, seed), None)

    def step(self, controls: str | Iterable[Iterable[str]]) -> "Future[Chunk]":
        """The next chunk (see `WorldSession.step`)."""
        return self._request(lambda: self.session.denoise(controls), self.session.decode)

    async def settled(self) -> None:
        """Wait until no chunk of this session is under way; one that has not begun is cancelled."""
        if self._pending is not None and not self._pending.cancel():
            await asyncio.wait([asyncio.wrap_future(self._pending)])

    def leave(self) -> None:
        """Give the place back. A chunk that waits is cancelled, one that is being made is dropped."""
        if self._pending is not None:
            self._pending.cancel()
        with self.engine._lock:
            self.engine._seats.discard(self)

    def _request(self, first: Callable[[], Any], second: Callable[[Any], Frames] | None) -> "Future[Chunk]":
        if self._pending is not None and not self._pending.done():
            raise RuntimeError("a chunk of this session is under way: wait for it")
        result: Future[Chunk] = Future()
        self._pending, asked = result, time.perf_counter()

        def decode(made: Any, denoise_seconds: float) -> None:
            begun = time.perf_counter()
            frames = made if second is None else second(made)
            now = time.perf_counter()
            result.set_result(Chunk(frames, now - asked, denoise_seconds, now - begun))

        def denoise() -> None:
            if not result.set_running_or_notify_cancel():
                return
            begun = time.perf_counter()
            made = first()
            seconds = time.perf_counter() - begun
            self.engine._decoder.submit(_forward_error, result, decode, made, seconds)

        self.engine._denoiser.submit(_forward_error, result, denoise)
        return result


def _forward_error(result: "Future[Chunk]", work: Callable[..., None], *arguments: Any) -> None:
    """Do the work; what it raises becomes the result, so that whoever waits hears of it."""
    try:
        work(*arguments)
    except BaseException as error:
        result.set_exception(error)
