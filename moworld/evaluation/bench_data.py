"""The data's hot paths side by side: random windows of cached clips, cached input against encoding on the fly, a contract over many rows.

WebDataset and MosaicML Streaming are peers where they are installed; neither is a dependency (the second wants older numpy and transformers,
so it is installed beside: `pip install --no-deps --target peers ...`, and handed in by PYTHONPATH).
"""

import importlib.machinery
import os
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moworld.data.features import FeatureStore, FeatureWriter
from moworld.data.loader import batches, sample_window
from moworld.evaluation.bench import Row, side_by_side
from moworld.model.codec import CodecSettings, StreamingCodec

CLIP_FRAMES = 2001
AHEAD = 4  # windows that are announced to the operating system before they are read
TEXT = (16, 384)


def bench_loader(height: int, width: int, fps: float, clips: int, windows: int = 64) -> list[Row]:
    """Random 2-second windows of clips of 2,001 frames: samples a second of ours, of both peers, and of reading the bytes alone.

    Every reader starts each turn with the operating system's cache of its files dropped.
    """
    latents = round(2 * fps) // 4 + 1
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        root = Path(scratch)
        write_clips(root / "ours", height, width, clips)
        store = FeatureStore(root / "ours")
        chosen = [sample_window(store.clips, latents, 0, number) for number in range(windows)]

        def ours() -> None:
            forget(root / "ours")
            for _ in islice(batches(store, "train", latents, batch=1, seed=0, ahead=AHEAD), windows):
                pass

        def raw(ahead: int) -> None:
            forget(root / "ours")
            read_ranges(store, chosen, latents, ahead)

        peers: list[tuple[str, Callable[[], None]]] = [
            ("the same bytes read alone", partial(raw, 0)),
            (f"the same, {AHEAD} windows announced", partial(raw, AHEAD)),
        ]
        for name, make in (("WebDataset", _webdataset), ("MosaicML Streaming", _streaming)):
            try:
                peers.append((name, make(store, root / name.split()[-1].lower(), windows, latents)))
            except ImportError as error:
                print(f"not beside {name}: {error}", file=sys.stderr)
        for name, peer in peers:
            row = side_by_side(f"{windows} windows of {4 * (latents - 1) + 1} frames, {height}x{width}", ours, peer, name, turns=3)
            rows.append(
                {**row, "ours": round(1000 * windows / row["ours"], 1), "peer": round(1000 * windows / row["peer"], 1), "unit": "samples/s"}
            )
    return rows


def write_clips(folder: Path, height: int, width: int, clips: int) -> None:
    """Feature shards of clips of noise, as many latents as a clip of 2,001 frames of this size has."""
    folder.mkdir()
    writer, frames = FeatureWriter(folder), (CLIP_FRAMES - 1) // 4 + 1
    generator = torch.Generator().manual_seed(0)
    for number in range(clips):
        row = {"clip_id": f"clip-{number}", "split": "train", "scene": "s", "source": "game", "caption": "", "video_sha256": str(number)}
        tensors = {
            "latents": torch.randn(16, frames, height // 8, width // 8, generator=generator).half(),
            "text": torch.randn(TEXT, generator=generator),
            "c2w": torch.eye(4).expand(CLIP_FRAMES, 4, 4),
            "intrinsics": torch.ones(CLIP_FRAMES, 4),
        }
        writer.add({**row, "num_frames": CLIP_FRAMES}, tensors)
    writer.close()


def forget(folder: Path) -> None:
    """Drop the files of a folder from the operating system's cache, so that the disk is read."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_ranges(store: FeatureStore, chosen: list[Any], latents: int, ahead: int = 0) -> None:
    """The byte ranges of the windows, one after another, and nothing else done with them; the system is told of `ahead` windows beforehand."""
    coming = iter(chosen if ahead else ())
    for index, (row, start) in enumerate(chosen):
        for later, begin in islice(coming, 1 if index else ahead + 1):
            store.expect_window(later.clip_id, begin, latents)
        shard, wanted = store._ranges(row.clip_id, start, latents)
        assert shard.file is not None
        for key, first, count in wanted:
            shape, dtype, place = shard.entries[key].rows(first, count)
            os.pread(shard.file.fileno(), int(np.prod(shape)) * dtype.itemsize, place)


def _arrays(store: FeatureStore, clip_id: str) -> dict[str, Any]:
    row = next(row for row in store.clips if row.clip_id == clip_id)
    window = store.read_window(clip_id, 0, row.num_latents)
    return {"latents": window["latents"].transpose(0, 1).half().numpy(), **{k: window[k].numpy() for k in ("text", "c2w", "intrinsics")}}


def _window(arrays: dict[str, Any], start: int, latents: int) -> dict[str, Tensor]:
    """A window of a whole clip that was read: what both peers leave to their user."""
    frames = slice(4 * start, 4 * (start + latents - 1) + 1)
    cut = {"latents": arrays["latents"][start : start + latents], "text": arrays["text"], "c2w": arrays["c2w"][frames],
           "intrinsics": arrays["intrinsics"][frames]}  # fmt: skip
    return {name: torch.from_numpy(np.array(array)).float() for name, array in cut.items()}


def _webdataset(store: FeatureStore, folder: Path, windows: int, latents: int) -> Callable[[], None]:
    """Tar shards, a clip a sample, shuffled: read in order, as the format is made for, and cut to a window."""
    import webdataset

    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "shard-%05d.tar"), maxsize=256 * 2**20, verbose=0) as sink:
        for row in store.clips:
            sink.write({"__key__": row.clip_id, **{f"{k}.npy": v for k, v in _arrays(store, row.clip_id).items()}})
    shards = sorted(str(path) for path in folder.glob("*.tar"))

    def run() -> None:
        forget(folder)
        generator = np.random.default_rng(0)
        samples = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0).repeat().shuffle(2).decode()
        for sample in islice(samples, windows):
            arrays = {name: sample[f"{name}.npy"] for name in ("latents", "text", "c2w", "intrinsics")}
            _window(arrays, int(generator.integers(len(arrays["latents"]) - latents + 1)), latents)

    return run


def _streaming(store: FeatureStore, folder: Path, windows: int, latents: int) -> Callable[[], None]:
    """MDS shards, a clip a sample, read at random places and cut to a window."""
    _without_torchvision()
    from streaming import MDSWriter, StreamingDataset

    columns = dict.fromkeys(("latents", "text", "c2w", "intrinsics"), "ndarray")
    with MDSWriter(out=str(folder), columns=columns, size_limit=256 * 2**20) as sink:
        for row in store.clips:
            sink.write(_arrays(store, row.clip_id))
    samples = StreamingDataset(local=str(folder), remote=None, shuffle=False, batch_size=1)

    def run() -> None:
        forget(folder)
        generator = np.random.default_rng(0)
        for number in generator.integers(len(store.clips), size=windows).tolist():
            sample = samples[number]
            _window(sample, int(generator.integers(len(sample["latents"]) - latents + 1)), latents)

    return run


def _without_torchvision() -> None:
    """Streaming imports torchvision for data sets that are not used here; its wheels do not load beside a torch for CPUs."""
    if "torchvision" in sys.modules:
        return
    names = (
        "torchvision",
        "torchvision.datasets",
        "torchvision.datasets.folder",
        "torchvision.transforms",
        "torchvision.transforms.functional",
    )
    for name in names:
        module: Any = types.ModuleType(name)
        module.__spec__, module.VisionDataset, module.to_tensor = importlib.machinery.ModuleSpec(name, None), object, None
        sys.modules[name] = module
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], own, module)


def bench_caching(height: int, width: int, fps: float, codec: CodecSettings) -> list[Row]:
    """Training input of one 2-second window: from the cache, against decoding the video and encoding it with the codec."""
    from moworld.video import read_frames, write_video

    frames = round(2 * fps) // 4 * 4 + 1
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_clips(root / "ours", height, width, 1)
        store = FeatureStore(root / "ours")
        noise = np.random.default_rng(0).integers(0, 256, (8, height // 8, width // 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
        write_video(root / "clip.mp4", _still(noise, frames), fps)
        encoder = StreamingCodec(16, hidden=codec.hidden, blocks=codec.blocks).eval()

        @torch.no_grad()
        def on_the_fly() -> None:
            video = torch.from_numpy(read_frames(root / "clip.mp4", 0, frames)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
            encoder.encode(video)

        case = f"training input of {frames} frames, {height}x{width}"
        return [side_by_side(case, lambda: store.read_window("clip-0", 9, (frames - 1) // 4 + 1), on_the_fly, "decode and encode")]


def _still(pictures: np.ndarray, count: int) -> Iterator[np.ndarray]:
    return (pictures[index // 8 % len(pictures)] for index in range(count))


def bench_contract(check: Callable[[Path], int], rows: int = 1_000_000) -> dict[str, Any]:
    """Seconds and peak bytes of a check of a manifest with many rows, each with its measures; `check` says how many it rejected."""
    import resource

    import pyarrow
    from pyarrow import parquet

    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        measures = {"epipolar_error_px": 1.6, "max_rotation_step_degrees": 15.1, "max_translation_step": 12.1, "jitter_degrees": 1.0}
        columns: dict[str, Any] = {name: generator.uniform(0, high, rows) for name, high in measures.items()}
        columns |= {"clip_id": [f"clip-{number:08d}" for number in range(rows)], "camera": ["cameras/a.txt"] * rows}
        parquet.write_table(pyarrow.table(columns), Path(scratch) / "manifest.parquet")
        del columns
        started = time.perf_counter()
        rejected = check(Path(scratch))
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"case": f"contract check of {rows:,} rows", "rejected": rejected, "seconds": round(seconds, 2), "peak_bytes": peak}
