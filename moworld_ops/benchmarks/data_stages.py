"""CPU time of the data steps for one video, by which `moworld plan --data` estimates more footage.

`python -m moworld_ops.benchmarks.data_stages VIDEO [MAX_HEIGHT]` prints JSON. The work on the video runs in this process, on one thread,
and its CPU time counts, so that other work on the machine changes little; the start of processes is not part of it. It is divided by the
pixels that a step reads: source pixels for the import, clip pixels for the others.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from moworld.data.duplicates import clip_hashes
from moworld.data.geometry import JumpLimits, complete_clip
from moworld.data.importing import Source, import_video
from moworld.data.quality import measure_quality
from moworld.data.settings import DataSettings, GeometrySettings
from moworld.files import sha256_file
from moworld.video import video_info

LIMITS = JumpLimits(15.0, 30.0)  # degrees, and median steps: they cost no time
T = TypeVar("T")


def data_stages(video: Path, max_height: int = 480) -> dict[str, Any]:
    """Returns CPU seconds per 10^9 pixels of import, geometry (cameras recovered) and quality, and bytes per 10^9 pixels of clips."""
    info = video_info(video)
    settings = DataSettings.model_validate({"videos": str(video), "max_height": max_height})
    with tempfile.TemporaryDirectory(prefix="data-stages-") as scratch:
        folder = Path(scratch)
        source = Source(video, video.name, "train", sha256_file(video))
        importing, (clips, _, _) = _cpu_seconds(lambda: import_video(source, folder, settings, lambda: None))
        geometry, _ = _cpu_seconds(lambda: [complete_clip(clip, folder, GeometrySettings(), LIMITS) for clip in clips])
        quality, _ = _cpu_seconds(lambda: [(measure_quality(clip, folder), clip_hashes(clip, folder)) for clip in clips])
        size = sum((folder / clip.video).stat().st_size for clip in clips)
    read, pixels = info.num_frames * info.height * info.width / 1e9, sum(clip.num_frames * clip.height * clip.width for clip in clips) / 1e9
    rates = {"import": importing / read, "geometry": geometry / pixels, "quality": quality / pixels}
    facts = {"video": video.name, "frames": info.num_frames, "size": f"{info.width}x{info.height}", "clips": len(clips), "max_height": max_height}
    return {**facts, "cpu_seconds_per_gigapixel": {name: round(rate, 2) for name, rate in rates.items()}, "bytes_per_gigapixel": round(size / pixels)}


def _cpu_seconds(work: Callable[[], T]) -> tuple[float, T]:
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


if __name__ == "__main__":
    print(json.dumps(data_stages(Path(sys.argv[1]), *map(int, sys.argv[2:3]))))
