"""Client of the server that computes the worlds of all worker processes of a program (see `engine_server`). Loads no PyTorch.

The first worker that needs a server starts it; the others wait and connect. Workers find it by a name made from the key that
multiprocessing gives to a program and all its workers, so that another program, or another user, can neither find nor use it.
Messages are JSON and bytes, never pickles.
"""

import fcntl
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moworld.documents import parse_json_object
from moworld.errors import InputError
from moworld.inference.worlds import WorldFacts
from moworld.video import Frames

MAX_HEADER_BYTES = 1 << 20
MAX_FRAMES_BYTES = 1 << 30
MAX_ADDRESS = 100  # bytes of a Unix socket's path: 104 on macOS, 108 on Linux
PARTS = ("file", "field", "found", "expected", "fix")


@dataclass(frozen=True)
class RemoteChunk:
    """Frames (T, H, W, 3) uint8 of a chunk."""

    frames: Frames


class RemoteReply:
    """The answer to a request that was sent; `result` waits for it and is then as of a Future that is done."""

    def __init__(self, seat: "RemoteSeat") -> None:
        self._seat = seat
        self._chunk: RemoteChunk | None = None
        self._error: BaseException | None = None

    def result(self) -> RemoteChunk:
        """Returns the chunk. Raises InputError as the server did, and if the server has ended."""
        if self._chunk is None and self._error is None:
            try:
                self._chunk = self._seat.receive()
            except InputError as error:
                self._error = error
        if self._error is not None:
            raise self._error
        assert self._chunk is not None
        return self._chunk

    def exception(self) -> BaseException | None:
        """Returns what `result` raises, or None."""
        try:
            self.result()
        except InputError as error:
            return error
        return None


class RemoteSeat:
    """One world on a server, with the methods of `Slot`. One request at a time."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.c2w: NDArray[np.float64] = np.eye(4)

    def open(self, first_frame: Frames, prompt: str = "", seed: int = 0) -> RemoteReply:
        """Starts a new world (see `WorldSession.open`)."""
        first = np.ascontiguousarray(first_frame)
        return self._request({"open": list(first.shape), "prompt": prompt, "seed": seed}, first.tobytes())

    def step(self, controls: list[str]) -> RemoteReply:
        """Requests the next chunk under one set of keys per frame."""
        return self._request({"step": controls})

    def release(self) -> None:
        """Closes the connection; the server then frees the slot."""
        self.connection.close()

    def receive(self) -> RemoteChunk:
        """Returns the chunk that was requested. Raises InputError as the server did, and if the server has ended."""
        header = receive_header(self.connection)
        frames = np.frombuffer(_received(self.connection, MAX_FRAMES_BYTES), np.uint8).reshape(header["shape"])
        self.c2w = np.array(header["c2w"], dtype=np.float64).reshape(4, 4)
        return RemoteChunk(frames)

    def _request(self, header: dict[str, Any], body: bytes = b"") -> RemoteReply:
        try:
            self.connection.send_bytes(json.dumps(header).encode())
            if body:
                self.connection.send_bytes(body)
        except OSError:
            raise _ended() from None
        return RemoteReply(self)


class ServerWorlds:
    """Worlds on the server of a program's worker processes. One connection is one world."""

    def __init__(self, connection: Connection) -> None:
        facts = receive_header(connection)["facts"]
        self.facts, self._connection = WorldFacts(**facts), connection

    def admit(self) -> RemoteSeat:
        return RemoteSeat(self._connection)

    def close(self) -> None:
        self._connection.close()


def connect(folder: Path, chunk_latents: int | None, device: str) -> ServerWorlds:
    """Returns a connection to the server of a model, which this call starts if no worker did. Raises InputError as loading the model does."""
    key = bytes(multiprocessing.current_process().authkey)
    name = hashlib.sha256(json.dumps([key.hex(), str(folder.resolve()), chunk_latents, device]).encode()).hexdigest()[:24]
    address = _place() / f"{name}.sock"
    with _locked(address.with_suffix(".lock")):
        connection = _connected(address, key)
        if connection is None:
            address.unlink(missing_ok=True)
            settings = {"address": str(address), "key": key.hex(), "model": str(folder), "chunk_latents": chunk_latents, "device": device}
            _start(settings)
            connection = _connected(address, key)
    if connection is None:
        raise _ended()
    return ServerWorlds(connection)


def receive_header(connection: Connection) -> dict[str, Any]:
    """Returns the next JSON message. Raises the InputError that it holds, and one if the other side has ended."""
    header = parse_json_object(_received(connection, MAX_HEADER_BYTES), "worlds")
    if "error" in header:
        raise InputError(*(header["error"][part] for part in PARTS))
    return header


def _received(connection: Connection, limit: int) -> bytes:
    try:
        return connection.recv_bytes(limit)
    except (EOFError, OSError):
        raise _ended() from None


def _connected(address: Path, key: bytes) -> Connection | None:
    """Returns a connection, or None if no server listens there."""
    try:
        return Client(str(address), family="AF_UNIX", authkey=key)  # type: ignore[return-value]
    except (FileNotFoundError, ConnectionError, EOFError):
        return None


def _start(settings: dict[str, Any]) -> None:
    """Starts a server and returns when it listens. Raises the InputError with which it ended."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    process = subprocess.Popen(
        [sys.executable, "-m", "moworld.inference.engine_server"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}, start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    with process.stdin, process.stdout:
        process.stdin.write(json.dumps(settings).encode() + b"\n")
        process.stdin.flush()
        answer = process.stdout.readline(MAX_HEADER_BYTES)
    if not answer.startswith(b"{"):
        process.wait()
        raise InputError("worlds", "server", f"a process that ended with status {process.returncode}", "a server", "see its message above")
    header = parse_json_object(answer, "worlds")
    if "error" in header:
        process.wait()
        raise InputError(*(header["error"][part] for part in PARTS))


def _ended() -> InputError:
    return InputError("worlds", "server", "the process that computes the worlds has ended", "a running one", "make the environments again")


def _place() -> Path:
    """Returns this user's directory for sockets, which nobody else may write to. Raises InputError if somebody else made it."""
    folder = Path(tempfile.gettempdir()) / f"moworld-{os.getuid()}"
    if len(str(folder)) + len("/.sock") + 24 > MAX_ADDRESS:
        folder = Path("/tmp") / folder.name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not folder.is_dir() or folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise InputError(folder, "", "a directory that others may write to", "one of this user alone", "remove it, or set TMPDIR")
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock file, which its server removes when it ends, or this function if none started. A lock on a removed file does not count."""
    while True:
        with open(path, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                try:
                    yield
                except BaseException:
                    path.unlink(missing_ok=True)
                    raise
                return
