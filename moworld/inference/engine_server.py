"""Process that serves one model to the worker processes of a program: one connection is one world (see `engine_client`).

Started as `python -m moworld.inference.engine_server` with its settings as a line of JSON on standard input. It answers with one line on
standard output when it listens, or with the error of the model. It ends by itself when nobody has been connected for a while.
"""

import dataclasses
import fcntl
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moworld.errors import InputError
from moworld.inference.engine_client import MAX_FRAMES_BYTES, MAX_HEADER_BYTES, PARTS
from moworld.inference.worlds import MAX_SESSIONS, WorldFacts, facts_of

if TYPE_CHECKING:
    from moworld.inference.engine import Chunk, Engine, Slot

FIRST_SECONDS, IDLE_SECONDS = 60.0, 3.0  # without a connection, before the first one and after the last one
BACKLOG = 256


class Connections:
    """Counts open connections, and ends the process when there has been none for a while."""

    def __init__(self, address: Path) -> None:
        self.address, self._count, self._lock = address, 0, threading.Lock()
        self._until = time.monotonic() + FIRST_SECONDS

    def change(self, by: int) -> None:
        with self._lock:
            self._count, self._until = self._count + by, time.monotonic() + IDLE_SECONDS

    def watch(self) -> None:
        """Ends the process in time."""
        while True:
            time.sleep(0.2)
            with self._lock:
                if not self._count and time.monotonic() > self._until and self._nobody_connects():
                    self.address.unlink(missing_ok=True)
                    self.address.with_suffix(".lock").unlink(missing_ok=True)
                    os._exit(0)

    def _nobody_connects(self) -> bool:
        """Returns whether no client holds the lock with which it looks for a server; this process then holds it until it ends."""
        self._lock_file = open(self.address.with_suffix(".lock"), "wb")  # noqa: SIM115  kept open with its lock
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock_file.close()
            return False
        return True


def main() -> None:
    """Loads the model, listens, and serves until it is idle."""
    settings = json.loads(sys.stdin.readline())
    address, chunk_latents = Path(settings["address"]), settings["chunk_latents"]
    try:
        from moworld.devices import pick_device
        from moworld.inference.engine import Engine
        from moworld.inference.threads import denoising_workers
        from moworld.model.world import WorldModel

        world = WorldModel.load(settings["model"], pick_device(settings["device"]))
        engine = Engine(world, MAX_SESSIONS, chunk_latents, workers=denoising_workers(world))
        facts = facts_of(engine.model.config, chunk_latents)
    except InputError as error:
        print(json.dumps(_error(error)), flush=True)
        return
    with Listener(str(address), family="AF_UNIX", backlog=BACKLOG, authkey=bytes.fromhex(settings["key"])) as listener:
        print(json.dumps({"listening": True}), flush=True)
        for stream in (1, 2):  # whoever reads them waits for their end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        connections = Connections(address)
        threading.Thread(target=connections.watch, daemon=True).start()
        while True:
            try:
                connection: Any = listener.accept()
            except (AuthenticationError, EOFError, OSError):  # somebody without the key, or who left
                continue
            connections.change(1)
            threading.Thread(target=serve, args=(connection, engine, facts, connections.change), daemon=True).start()


def serve(connection: Connection, engine: "Engine", facts: WorldFacts, change: Callable[[int], None]) -> None:
    """Answers the requests of one client until it leaves, then frees its slot."""
    slot: Slot | None = None
    with suppress(EOFError, OSError), connection:  # the client left: how every connection ends
        try:
            slot = engine.admit()
            _send(connection, {"facts": dataclasses.asdict(facts)})
            while True:
                _answer(connection, slot)
        except InputError as error:  # no free slot
            _send(connection, _error(error))
        finally:
            change(-1)
            if slot is not None:
                slot.release()


def _answer(connection: Connection, slot: "Slot") -> None:
    """Reads a request and sends the chunk, or the error. Raises EOFError or OSError if the client has left."""
    header = json.loads(connection.recv_bytes(MAX_HEADER_BYTES))
    first = connection.recv_bytes(MAX_FRAMES_BYTES) if "open" in header else b""
    try:
        chunk = _chunk(slot, header, first)
    except Exception as error:  # any failure of a world is its client's to report, and the others' worlds go on
        _send(connection, _error(error))
        return
    _send(connection, {"shape": chunk.frames.shape, "c2w": slot.c2w.ravel().tolist()})
    connection.send_bytes(np.ascontiguousarray(chunk.frames).tobytes())


def _chunk(slot: "Slot", header: dict[str, Any], first: bytes) -> "Chunk":
    if "open" in header:
        picture = np.frombuffer(first, np.uint8).reshape(header["open"])
        return slot.open(picture, header["prompt"], header["seed"]).result()
    return slot.step(header["step"]).result()


def _send(connection: Connection, header: dict[str, Any]) -> None:
    connection.send_bytes(json.dumps(header).encode())


def _error(error: Exception) -> dict[str, Any]:
    if not isinstance(error, InputError):
        error = InputError("worlds", "server", f"{type(error).__name__}: {error}"[:500], "a chunk", "report it with this line")
    return {"error": {part: getattr(error, part) for part in PARTS}}


if __name__ == "__main__":
    main()
