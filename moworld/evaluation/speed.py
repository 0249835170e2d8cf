"""Speed of a world: time to the first chunk, time from a key to its frames, frames per second, memory."""

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
from numpy.typing import NDArray

from moworld.errors import InputError
from moworld.files import Pathlike

if TYPE_CHECKING:
    import torch

    from moworld.inference import WorldSession
    from moworld.model.world import WorldConfig

PROMPT = "a corridor of grey stone with torches on the walls"


def measure_speed(folder: Pathlike, chunks: int = 6, controls: str = "w", device: str = "") -> dict[str, float]:
    """Opens a session on a model folder and measures the time of its chunks, as a player experiences them.

    chunks:  chunks to measure after the first one, which also fills caches; at least 1
    device:  see `pick_device`
    returns: frames_per_second, time_to_first_chunk_seconds (opening and first step, without loading the model),
             chunk_interval_seconds (median), chunk_interval_p95_seconds, chunks_in_time (share of chunks that take no longer than they
             play), cpu_of_others (share of the machine's CPU time that other processes used meanwhile), load_seconds, frames_per_chunk,
             peak_bytes of this process
    Raises InputError if `chunks` is below 1.
    """
    if chunks < 1:
        raise InputError("speed", "chunks", chunks, "at least 1", "measure one chunk or more")
    started = time.perf_counter()
    session, config = open_session(folder, device)
    loaded = time.perf_counter()
    keys = [controls] * config.model.chunk_frames
    session.open(example_picture(config.height, config.width), PROMPT, seed=0)
    session.step(keys)
    first = time.perf_counter()
    intervals, frames, others = [], 0, CpuOfOthers()
    for _ in range(chunks):
        begun = time.perf_counter()
        frames += len(session.step(keys))
        intervals.append(time.perf_counter() - begun)
    return {
        "frames_per_second": frames / sum(intervals),
        "time_to_first_chunk_seconds": first - loaded,
        "chunk_interval_seconds": statistics.median(intervals),
        "chunk_interval_p95_seconds": float(np.quantile(intervals, 0.95)),
        "chunks_in_time": float(np.mean(np.array(intervals) <= len(keys) / config.fps)),
        "cpu_of_others": others.share(),
        "load_seconds": loaded - started,
        "peak_bytes": float(peak_bytes(session.model.device)),
        "frames_per_chunk": float(len(keys)),
    }


class CpuOfOthers:
    """Measures the share of the machine's CPU time that other processes use, from its creation on."""

    def __init__(self) -> None:
        self.start, self.busy, self.own = time.perf_counter(), _busy_seconds(), time.process_time()

    def share(self) -> float:
        """Returns the share, 0 to 1."""
        used = _busy_seconds() - self.busy - (time.process_time() - self.own)
        available = (time.perf_counter() - self.start) * (psutil.cpu_count() or 1)
        return min(1.0, max(0.0, used / available))


def _busy_seconds() -> float:
    """Returns the CPU seconds that the machine has worked since its start."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0))


def cost_per_1000_frames(frames_per_second: float, price_per_hour: float) -> float:
    """Returns the cost of 1,000 frames on a machine that one session occupies, in the currency of the price."""
    return 1000.0 / frames_per_second * price_per_hour / 3600.0


def open_session(folder: Pathlike, device: str = "") -> "tuple[WorldSession, WorldConfig]":
    """Returns a serving session on a model folder, and the model's configuration. device: see `pick_device`."""
    from moworld.devices import pick_device
    from moworld.inference import WorldSession
    from moworld.model.world import WorldModel

    model = WorldModel.load(folder, pick_device(device))
    return WorldSession(model), model.config


def control_chunks(controls: str, frames: int) -> list[list[str]]:
    """Returns controls such as "w*48,d*24" as key strings in chunks of `frames`; the last chunk is padded with no key."""
    from moworld.camera.controls import parse_controls

    keys = ["".join(sorted(action)) for action in parse_controls(controls)]
    keys += [""] * (-len(keys) % frames)
    return [keys[start : start + frames] for start in range(0, len(keys), frames)]


def example_picture(height: int, width: int) -> NDArray[np.uint8]:
    """Returns a fixed first frame with texture everywhere, (H, W, 3) uint8: smooth noise on a vertical gradient."""
    import torch
    from torch.nn.functional import interpolate

    generator = np.random.default_rng(0)
    picture = np.zeros((height, width, 3))
    for cells, weight in ((4, 60.0), (12, 40.0), (32, 20.0)):
        noise = torch.from_numpy(generator.uniform(-1, 1, (1, max(2, cells * height // width), cells, 3))).permute(0, 3, 1, 2)
        picture += weight * interpolate(noise, (height, width), mode="bicubic")[0].permute(1, 2, 0).numpy()
    picture += np.linspace(90, 150, height)[:, None, None]
    return picture.clip(0, 255).astype(np.uint8)


def peak_bytes(device: "torch.device") -> int:
    """Returns the peak bytes so far: those that PyTorch allocated on an accelerator, or the resident ones of this process."""
    import torch

    from moworld.devices import ACCELERATORS

    if device.type in ACCELERATORS:
        return torch.accelerator.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would include the process that started this one
        return 1024 * int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:")))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def weight_bytes(folder: Pathlike) -> int:
    """Returns the bytes of the experts' weight files in a model folder, without the codec."""
    return sum(path.stat().st_size for part in ("transformer", "transformer_2") for path in Path(folder, part).glob("*.safetensors"))
