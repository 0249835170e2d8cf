"""Where the worlds of an environment are computed: an engine that was given, one of this process, or a server that worker processes share.

    model given as      in this process     in a worker of multiprocessing
    an Engine           that engine         refused: a fork has none of its threads
    a model folder      one engine, shared  a client of one server process (see `engine_client`)

An engine of a folder is made when the first world is opened, so making an environment to look at its spaces is cheap.
Importing this module loads no PyTorch.
"""

import multiprocessing
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from moworld.errors import InputError
from moworld.files import SHIPPED_MODEL, Pathlike
from moworld.video import Frames

if TYPE_CHECKING:  # they load PyTorch
    from moworld.inference.engine import Engine
    from moworld.model.world import WorldConfig

MAX_SESSIONS = 256  # of an engine that environments share
FOLDER_FIX = "pass a model folder or an Engine"


@dataclass(frozen=True)
class WorldFacts:
    """What an environment needs of a model: frame size, frame rate, frames of a chunk, and model units that a key moves in a frame.

    pitch: whether it was trained on footage that looks up and down
    """

    height: int
    width: int
    fps: float
    chunk_frames: int
    move_units: float
    pitch: bool = False


class PendingChunk(Protocol):
    """A chunk that was requested; `result` waits for it and returns an object with `frames` (T, H, W, 3) uint8."""

    def result(self) -> Any: ...
    def exception(self) -> BaseException | None: ...


class Seat(Protocol):
    """One world: `moworld.inference.engine.Slot`, or its like on a server."""

    @property
    def c2w(self) -> NDArray[np.float64]: ...
    def open(self, first_frame: Frames, prompt: str = "", seed: int = 0) -> PendingChunk: ...
    def step(self, controls: Any) -> PendingChunk: ...
    def release(self) -> None: ...


class Worlds(Protocol):
    """A source of seats. `close` frees what was made for the environment that holds it."""

    facts: WorldFacts

    def admit(self) -> Seat: ...
    def close(self) -> None: ...


def find_worlds(model: "Pathlike | Engine | None", chunk_latents: int | None, device: str) -> Worlds:
    """Returns the source of worlds for a model (see the module). None is the model that comes with a clone.

    chunk_latents, device: of a model folder, see `WorldSession` and `pick_device`
    Raises InputError for a folder, chunk length or device that cannot be used, and for an Engine of another process.
    """
    if not isinstance(device, str):
        raise InputError("environment", "device", repr(device), 'a name such as "cuda:1", or ""', "omit it")
    if chunk_latents is not None and (isinstance(chunk_latents, bool) or not isinstance(chunk_latents, int) or chunk_latents < 1):
        raise InputError("environment", "chunk_latents", repr(chunk_latents), "an integer of at least 1, or None", "omit it")
    if model is not None and not isinstance(model, str | Path):
        return EngineWorlds(_engine(model))
    folder = model_path(model)
    if multiprocessing.parent_process() is not None:
        from moworld.inference.engine_client import connect

        return connect(folder, chunk_latents, device)
    return FolderWorlds(folder, chunk_latents, device)


def model_path(model: Pathlike | None) -> Path:
    """Returns a model folder; None is the one that comes with a clone. Raises InputError if that is missing."""
    if model is not None:
        return Path(model)
    if not SHIPPED_MODEL.is_dir():
        raise InputError("environment", "model", "none, and none in the installed package", "a model folder", "pass model=...")
    return SHIPPED_MODEL


def facts_of(config: "WorldConfig", chunk_latents: int | None) -> WorldFacts:
    """Returns the facts of a model. Raises InputError for chunks longer than the trained ones."""
    from moworld.model.latent_grid import CODEC_GRID

    longest = config.model.chunk_latents
    if chunk_latents is not None and chunk_latents > longest:
        raise InputError("environment", "chunk_latents", chunk_latents, f"1 to {longest}, as trained", "choose a shorter chunk")
    frames = CODEC_GRID.frames_after_first(chunk_latents or longest)
    return WorldFacts(config.height, config.width, config.fps, frames, config.move_units, config.pitch)


class EngineWorlds:
    """Worlds on an engine that was given; each has a slot from the start, as on a server with few of them."""

    def __init__(self, engine: "Engine") -> None:
        self.engine, self.facts = engine, facts_of(engine.model.config, engine.chunk_latents)

    def admit(self) -> Seat:
        return self.engine.admit()

    def close(self) -> None:
        """Does nothing: the engine belongs to its maker."""


class FolderWorlds:
    """Worlds on an engine of this process, which all environments with equal arguments share. The last `close` stops it."""

    _engines: dict[tuple[Any, ...], tuple["Engine", int]] = {}  # noqa: RUF012  shared on purpose: engine and number of users
    _lock = threading.Lock()

    def __init__(self, folder: Path, chunk_latents: int | None, device: str) -> None:
        from moworld.devices import pick_device
        from moworld.model.world import read_config

        self.facts, self.device = facts_of(read_config(folder), chunk_latents), pick_device(device)
        self.folder, self.chunk_latents, self._borrowed = folder, chunk_latents, False
        self._key = (folder.resolve(), chunk_latents, str(self.device))

    def admit(self) -> Seat:
        from moworld.inference.engine import Engine
        from moworld.inference.threads import denoising_workers
        from moworld.model.world import WorldModel

        with self._lock:
            engine, users = self._engines.get(self._key, (None, 0))
            if engine is None:
                world = WorldModel.load(self.folder, self.device)
                engine = Engine(world, MAX_SESSIONS, self.chunk_latents, workers=denoising_workers(world))
            if not self._borrowed:
                self._engines[self._key], self._borrowed = (engine, users + 1), True
        return engine.admit()

    def close(self) -> None:
        with self._lock:
            if not self._borrowed:
                return
            self._borrowed = False
            engine, users = self._engines.pop(self._key)
            if users > 1:
                self._engines[self._key] = engine, users - 1
        if users == 1:
            engine.close()


def _engine(model: Any) -> "Engine":
    from moworld.inference.engine import Engine

    if not isinstance(model, Engine):
        raise InputError("environment", "model", f"{type(model).__name__} {model!r}"[:80], "a model folder, an Engine or None", FOLDER_FIX)
    model.require_own_process()
    return model
