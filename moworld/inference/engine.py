"""Serves several sessions on one model (paper 5.2): admission up to a limit, chunks in the order of requests.

Workers denoise, one chunk each, and one thread decodes, so a chunk is denoised while another is decoded, unless both would use several
threads of the same CPU: then one thread does both (see `decodes_beside`). A session has at most one chunk in progress: sessions that
request without pause get the same number of chunks.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moworld.devices import use_device
from moworld.errors import InputError
from moworld.inference.session import Controls, LazyTextEncoder, WorldSession
from moworld.inference.threads import decodes_beside
from moworld.model.text import TextEncoder
from moworld.model.world import WorldModel
from moworld.video import Frames


@dataclass(frozen=True)
class Chunk:
    """Frames (T, H, W, 3) uint8, and the seconds from the request to them."""

    frames: Frames
    seconds: float


class Engine:
    """Shares a model's experts, codec and text encoder among sessions. Thread-safe; `close` stops the threads.

    A process that was forked from the engine's has none of its threads, so requests there raise InputError.

    chunk_latents: see `WorldSession`
    text_encoder:  None loads the model's encoder at the first prompt
    workers:       chunks that are denoised at once, of different sessions (see `denoising_workers`). Frames do not depend on it
    """

    def __init__(
        self,
        model: WorldModel,
        max_sessions: int = 4,
        chunk_latents: int | None = None,
        text_encoder: TextEncoder | None = None,
        workers: int = 1,
    ) -> None:
        self.model, self.max_sessions, self.chunk_latents = model, max_sessions, chunk_latents
        self.codec, self.text_encoder = model.codec, text_encoder or LazyTextEncoder(model)
        self._slots, self._lock, self._process = set["Slot"](), threading.Lock(), os.getpid()
        self._denoiser = ThreadPoolExecutor(workers, "denoise", use_device, (model.device,))
        self._decoder = ThreadPoolExecutor(1, "decode", use_device, (model.device,))

    @property
    def sessions(self) -> int:
        """Number of sessions now."""
        return len(self._slots)

    def admit(self) -> "Slot":
        """Returns a slot for one session, to be freed by `Slot.release`. Raises InputError if all are taken."""
        self.require_own_process()
        with self._lock:
            if len(self._slots) >= self.max_sessions:
                found = f"{len(self._slots)} sessions"
                raise InputError("engine", "sessions", found, f"fewer than {self.max_sessions}", "try again when one has ended")
            slot = Slot(self)
            self._slots.add(slot)
            return slot

    def require_own_process(self) -> None:
        """Raises InputError in a process that was forked from the one that made the engine."""
        if os.getpid() != self._process:
            fix = "pass the model folder to environments in worker processes: they share one server"
            raise InputError("engine", "process", f"a fork of process {self._process}", "the process that made the engine", fix)

    def close(self) -> None:
        """Cancels waiting chunks and stops the threads."""
        for executor in (self._denoiser, self._decoder):
            executor.shutdown(wait=True, cancel_futures=True)


class Slot:
    """One session of an engine. `open` and `step` return futures; they raise RuntimeError while a chunk is in progress."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.session = WorldSession(engine.model, engine.text_encoder, engine.codec, engine.chunk_latents)
        self._pending: Future[Chunk] | None = None

    @property
    def c2w(self) -> NDArray[np.float64]:
        """The camera's pose, (4, 4) camera to world, in the world of the first frame."""
        return self.session.walk.c2w

    def open(self, first_frame: Frames, prompt: str = "", seed: int = 0) -> "Future[Chunk]":
        """Starts a new world: its first frame (see `WorldSession.open`)."""
        return self._request(lambda: self.session.open(first_frame, prompt, seed), lambda frames: frames)

    def step(self, controls: Controls) -> "Future[Chunk]":
        """Requests the next chunk (see `WorldSession.step`)."""
        return self._request(lambda: self.session.denoise(controls), self.session.decode)

    async def wait_until_idle(self) -> None:
        """Waits until no chunk is in progress; cancels one that has not started."""
        if self._pending is not None and not self._pending.cancel():
            await asyncio.wait([asyncio.wrap_future(self._pending)])

    def release(self) -> None:
        """Frees the slot. A waiting chunk is cancelled; the result of a running one is discarded."""
        if self._pending is not None:
            self._pending.cancel()
        with self.engine._lock:
            self.engine._slots.discard(self)

    def _request(self, first: Callable[[], Any], second: Callable[[Any], Frames]) -> "Future[Chunk]":
        self.engine.require_own_process()
        if self._pending is not None and not self._pending.done():
            raise RuntimeError("a chunk of this session is in progress: wait for it")
        result: Future[Chunk] = Future()
        self._pending, requested = result, time.perf_counter()

        def denoise() -> None:
            if result.set_running_or_notify_cancel():
                output = first()
                if decodes_beside(self.engine.codec):
                    self.engine._decoder.submit(_forward_error, result, decode, output)
                else:
                    decode(output)

        def decode(output: Any) -> None:
            result.set_result(Chunk(second(output), time.perf_counter() - requested))

        self.engine._denoiser.submit(_forward_error, result, denoise)
        return result


def _forward_error(result: "Future[Chunk]", work: Callable[..., None], *arguments: Any) -> None:
    """Runs `work`; an exception becomes the result's, so that the waiting thread receives it."""
    try:
        work(*arguments)
    except BaseException as error:
        result.set_exception(error)
