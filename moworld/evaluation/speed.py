"""How fast a world answers: time to the first chunk, time from a key to its frames, frames a second, memory."""

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moworld.errors import InputError
from moworld.files import Pathlike

if TYPE_CHECKING:
    from moworld.inference import WorldSession
    from moworld.model.world import WorldConfig

PROMPT = "a corridor of grey stone with torches on the walls"


def measure_speed(folder: Pathlike, chunks: int = 6, controls: str = "w") -> dict[str, float]:
    """Open a session on a model folder and time its chunks, as a player would feel them.

    chunks:  chunks to time after the first one, which also warms caches; at least 1
    returns: frames_per_second, time_to_first_chunk_seconds (open and first step; loading the model is not in it),
             chunk_interval_seconds (median), chunk_interval_p90_seconds, load_seconds, peak_bytes, frames_per_chunk
    """
    if chunks < 1:
        raise InputError("speed", "chunks", chunks, "at least 1", "time one chunk or more")
    started = time.perf_counter()
    session, config = open_session(folder)
    loaded = time.perf_counter()
    keys = [controls] * (4 * config.model.chunk_latents)
    session.open(example_picture(config.height, config.width), PROMPT, seed=0)
    session.step(keys)
    first = time.perf_counter()
    intervals, frames = [], 0
    for _ in range(chunks):
        begun = time.perf_counter()
        frames += len(session.step(keys))
        intervals.append(time.perf_counter() - begun)
    return {
        "frames_per_second": frames / sum(intervals),
        "time_to_first_chunk_seconds": first - loaded,
        "chunk_interval_seconds": statistics.median(intervals),
        "chunk_interval_p90_seconds": float(np.quantile(intervals, 0.9)),
        "load_seconds": loaded - started,
        "peak_bytes": float(peak_bytes()),
        "frames_per_chunk": float(len(keys)),
    }


def cost_per_1000_frames(frames_per_second: float, price_per_hour: float) -> float:
    """What 1,000 frames cost on a machine that one session keeps busy, in the price's currency."""
    return 1000.0 / frames_per_second * price_per_hour / 3600.0


def open_session(folder: Pathlike) -> "tuple[WorldSession, WorldConfig]":
    """A serving session on a model folder, and the model's configuration."""
    from moworld.inference import WorldSession
    from moworld.model.world import WorldModel

    model = WorldModel.load(folder)
    return WorldSession(model), model.config


def control_chunks(controls: str, frames: int) -> list[list[str]]:
    """Controls such as "w*48,d*24" as key strings, cut into chunks of `frames`; the last chunk is filled with no key."""
    from moworld.camera.controls import parse_controls

    keys = ["".join(sorted(action)) for action in parse_controls(controls)]
    keys += [""] * (-len(keys) % frames)
    return [keys[start : start + frames] for start in range(0, len(keys), frames)]


def example_picture(height: int, width: int) -> NDArray[np.uint8]:
    """A first frame with texture everywhere, (H, W, 3) uint8, the same each time: smooth noise over a floor and a wall."""
    import cv2

    generator = np.random.default_rng(0)
    picture = np.zeros((height, width, 3))
    for cells, weight in ((4, 60.0), (12, 40.0), (32, 20.0)):
        noise = generator.uniform(-1, 1, (max(2, cells * height // width), cells, 3))
        picture += weight * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    picture += np.linspace(90, 150, height)[:, None, None]
    return picture.clip(0, 255).astype(np.uint8)


def peak_bytes() -> int:
    """Peak resident bytes of this process so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def weight_bytes(folder: Pathlike) -> int:
    """Bytes of the experts' weight files in a model folder (the codec is not among them)."""
    return sum(path.stat().st_size for part in ("transformer", "transformer_2") for path in Path(folder, part).glob("*.safetensors"))
