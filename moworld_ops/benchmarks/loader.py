"""`moworld bench loader`: random windows of cached clips beside other formats, and cached input beside decoding and encoding.

WebDataset and MosaicML Streaming are peers where they are installed. Neither is a dependency: Streaming needs older numpy and transformers,
so install it apart (`pip install --no-deps --target peers ...`) and add that directory to PYTHONPATH.
"""

import importlib.machinery
import os
import sys
import tempfile
import types
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moworld.data.features import FeatureStore, FeatureWriter
from moworld.data.loader import batches, sample_window
from moworld.model.codec import StreamingCodec
from moworld.model.latent_grid import CODEC_GRID
from moworld.model.settings import CodecSettings
from moworld_ops.benchmarks.measure import Row, row, side_by_side

CLIP_FRAMES = 2001
AHEAD = 4  # windows that are announced to the operating system before they are read
TEXT = (16, 384)
ARRAYS = ("latents", "text", "c2w", "intrinsics")


def bench_loader(height: int, width: int, fps: float, clips: int, windows: int = 64) -> list[Row]:
    """Returns samples per second of random 2-second windows of clips of 2,001 frames: ours beside the raw bytes and other formats.

    Every reader starts each turn with its files dropped from the operating system's cache.
    """
    latents = CODEC_GRID.num_latents(_two_seconds(fps))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        root = Path(scratch)
        write_clips(root / "ours", height, width, clips)
        store = FeatureStore(root / "ours")
        chosen = [sample_window(store.clips, latents, 0, number) for number in range(windows)]

        def ours() -> None:
            drop_from_cache(root / "ours")
            for _ in islice(batches(store, "train", latents, batch=1, seed=0, ahead=AHEAD), windows):
                pass

        def raw(ahead: int) -> None:
            drop_from_cache(root / "ours")
            read_ranges(store, chosen, latents, ahead)

        peers: list[tuple[str, Callable[[], None]]] = [
            ("the same bytes read alone", partial(raw, 0)),
            (f"the same, {AHEAD} windows announced", partial(raw, AHEAD)),
        ]
        for name, make in (("WebDataset", webdataset_reader), ("MosaicML Streaming", streaming_reader)):
            try:
                peers.append((name, make(store, root / name.split()[-1].lower(), windows, latents)))
            except ImportError as error:
                print(f"not beside {name}: {error}", file=sys.stderr)
        case = f"{windows} windows of {CODEC_GRID.num_frames(latents)} frames, {height}x{width}"
        for name, peer in peers:
            timed = side_by_side(case, ours, peer, name, turns=3)
            rows.append(row(case, 1000 * windows / timed["ours"], "samples/s", 1000 * windows / timed["peer"], name, timed["ratio"]))
    return rows


def bench_caching(height: int, width: int, fps: float, codec: CodecSettings) -> list[Row]:
    """Returns a row of the training input of one 2-second window: from the cache, beside decoding the video and encoding it."""
    from moworld.video import read_frames, write_video

    frames = _two_seconds(fps)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_clips(root / "ours", height, width, 1)
        store = FeatureStore(root / "ours")
        noise = np.random.default_rng(0).integers(0, 256, (8, height // 8, width // 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
        write_video(root / "clip.mp4", (noise[index // 8 % len(noise)] for index in range(frames)), fps)
        encoder = StreamingCodec(16, hidden=codec.hidden, blocks=codec.blocks).eval()

        @torch.no_grad()
        def on_the_fly() -> None:
            video = torch.from_numpy(read_frames(root / "clip.mp4", 0, frames)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
            encoder.encode(video)

        case = f"training input of {frames} frames, {height}x{width}"
        return [side_by_side(case, lambda: store.read_window("clip-0", 9, CODEC_GRID.num_latents(frames)), on_the_fly, "decode and encode")]


def _two_seconds(fps: float) -> int:
    """Returns the frames of a window of 2 seconds, 4 k + 1."""
    return CODEC_GRID.whole_frames(round(2 * fps) + 1)


def write_clips(folder: Path, height: int, width: int, clips: int) -> None:
    """Writes feature shards of clips of noise, each with the latents of 2,001 frames of height x width pixels."""
    folder.mkdir()
    writer, frames = FeatureWriter(folder), CODEC_GRID.num_latents(CLIP_FRAMES)
    generator = torch.Generator().manual_seed(0)
    for number in range(clips):
        fields = {"clip_id": f"clip-{number}", "split": "train", "scene": "s", "source": "game", "caption": "", "video_sha256": str(number)}
        tensors = {
            "latents": torch.randn(16, frames, *CODEC_GRID.latent_size(height, width), generator=generator).half(),
            "text": torch.randn(TEXT, generator=generator),
            "c2w": torch.eye(4).expand(CLIP_FRAMES, 4, 4),
            "intrinsics": torch.ones(CLIP_FRAMES, 4),
        }
        writer.add({**fields, "num_frames": CLIP_FRAMES}, tensors)
    writer.close()


def drop_from_cache(folder: Path) -> None:
    """Drops the files below a directory from the operating system's cache, so that the next read is from the disk."""
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_ranges(store: FeatureStore, chosen: list[Any], latents: int, ahead: int = 0) -> None:
    """Reads the byte ranges of the windows in order and drops them. `ahead` windows are announced to the operating system beforehand."""
    coming = iter(chosen if ahead else ())
    for index, (clip, start) in enumerate(chosen):
        for later, begin in islice(coming, 1 if index else ahead + 1):
            store.expect_window(later.clip_id, begin, latents)
        shard, wanted = store._ranges(clip.clip_id, start, latents)
        assert shard.file is not None
        for key, first, count in wanted:
            part = shard.entries[key].rows(first, count)
            os.pread(shard.file.fileno(), part.nbytes, part.start)


def clip_arrays(store: FeatureStore, clip_id: str) -> dict[str, Any]:
    """Returns a whole clip as peers store it: latents (F, C, h, w) float16, text, c2w and intrinsics."""
    clip = next(clip for clip in store.clips if clip.clip_id == clip_id)
    window = store.read_window(clip_id, 0, clip.num_latents)
    return {"latents": window["latents"].transpose(0, 1).half().numpy(), **{name: window[name].numpy() for name in ARRAYS[1:]}}


def cut_window(arrays: dict[str, Any], start: int, latents: int) -> dict[str, Tensor]:
    """Returns a window of a whole clip as float32 tensors: both peers leave this to their user."""
    first = CODEC_GRID.last_frame(start)
    frames = slice(first, first + CODEC_GRID.num_frames(latents))
    places = {"latents": slice(start, start + latents), "text": slice(None), "c2w": frames, "intrinsics": frames}
    return {name: torch.from_numpy(np.array(arrays[name][place])).float() for name, place in places.items()}


def _random_window(arrays: dict[str, Any], latents: int, generator: np.random.Generator) -> None:
    cut_window(arrays, int(generator.integers(len(arrays["latents"]) - latents + 1)), latents)


def webdataset_reader(store: FeatureStore, folder: Path, windows: int, latents: int) -> Callable[[], None]:
    """Returns a reader of tar shards, a clip per sample, shuffled: read in order, as the format is meant, and cut to a window."""
    import webdataset

    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "shard-%05d.tar"), maxsize=256 * 2**20, verbose=0) as sink:
        for clip in store.clips:
            sink.write({"__key__": clip.clip_id, **{f"{k}.npy": v for k, v in clip_arrays(store, clip.clip_id).items()}})
    shards = sorted(str(path) for path in folder.glob("*.tar"))

    def run() -> None:
        drop_from_cache(folder)
        generator = np.random.default_rng(0)
        samples = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0).repeat().shuffle(2).decode()
        for sample in islice(samples, windows):
            _random_window({name: sample[f"{name}.npy"] for name in ARRAYS}, latents, generator)

    return run


def streaming_reader(store: FeatureStore, folder: Path, windows: int, latents: int) -> Callable[[], None]:
    """Returns a reader of MDS shards, a clip per sample, at random places, each cut to a window."""
    _without_torchvision()
    from streaming import MDSWriter, StreamingDataset

    with MDSWriter(out=str(folder), columns=dict.fromkeys(ARRAYS, "ndarray"), size_limit=256 * 2**20) as sink:
        for clip in store.clips:
            sink.write(clip_arrays(store, clip.clip_id))
    samples = StreamingDataset(local=str(folder), remote=None, shuffle=False, batch_size=1)

    def run() -> None:
        drop_from_cache(folder)
        generator = np.random.default_rng(0)
        for number in generator.integers(len(store.clips), size=windows).tolist():
            _random_window(samples[number], latents, generator)

    return run


def _without_torchvision() -> None:
    """Provides empty torchvision modules: Streaming imports it for data sets not used here, and its wheels do not load with CPU builds."""
    if "torchvision" in sys.modules:
        return
    for part in ("", ".datasets", ".datasets.folder", ".transforms", ".transforms.functional"):
        name = f"torchvision{part}"
        module: Any = types.ModuleType(name)
        module.__spec__, module.VisionDataset, module.to_tensor = importlib.machinery.ModuleSpec(name, None), object, None
        sys.modules[name] = module
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], own, module)
