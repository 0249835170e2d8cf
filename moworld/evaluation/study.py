"""The study of distillation (paper 4): teacher, students before and after, histories and INT8 side by side on held-out episodes.

Every variant sees the same episodes and the same noise. What it measures over time: the error to the recorded frames, how the camera is
obeyed, how the picture drifts over a thousand frames, and what is left of a place when it is seen again.
"""

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moworld.data.features import FeatureStore
from moworld.evaluation.protocol import Batch, held_out_windows, obedience, sample_depth, student_rollout, teacher_chunk
from moworld.files import atomic_write, read_json, sha256_tree, write_json
from moworld.model.history import HistoryPolicy
from moworld.model.world import WorldModel
from moworld.settings import Settings
from moworld.training.codec import psnr, to_frames
from moworld.video import write_video

Frames = NDArray[np.uint8]
AT_FRAMES = (100, 500, 1000)
AROUND = 24  # frames that a reading of the drift takes together
LOOKS = ("contrast", "saturation", "sharpness", "motion")
SHEET, WALK_SHEET = (0, 4, 8, 12, 24, 48, 72, 96), (0, 12, 48, 100, 250, 500, 750, 1000)  # frames that are shown side by side
FORMAT = 4  # of what `measure` returns: what was kept by another one is measured again


class StudySettings(Settings):
    """`episodes` held-out episodes of `chunks` chunks; `walks` of `frames` frames; loops of `loop_chunks` chunks out and as many back."""

    episodes: int = 11
    chunks: int = 8
    walks: int = 4
    frames: int = 1008
    loop_chunks: int = 4
    seeds: int = 3


@dataclass(frozen=True)
class Variant:
    """A model folder and how it is used: `steps` of the bidirectional teacher, or (0) the rollout that serves, with another history if given."""

    name: str
    folder: str
    steps: int = 0
    history: HistoryPolicy | None = None
    camera: bool = True

    def load(self) -> WorldModel:
        world = WorldModel.load(self.folder)
        if self.history is not None:
            world = copy.copy(world)
            world.config = world.config.model_copy(update={"model": world.config.model.model_copy(update={"history": self.history})})
        return world

    def generate(self, world: WorldModel, batch: Batch, seed: int) -> Tensor:
        """Latents (B, C, F, h, w) along the batch's cameras."""
        if self.steps:
            return teacher_chunk(world, batch, self.steps, seed, self.camera)
        return student_rollout(world, batch, seed, self.camera)


def variants(teacher: str, before: str, after: str, quantized: str, others: dict[str, str]) -> list[Variant]:
    """What the study compares. Empty folders are left out; `others` are further students by name, as other runs made them."""
    policy = WorldModel.load(after).config.model.history
    known = [
        Variant("teacher, 50 steps", teacher, 50),
        Variant("teacher, 4 steps", teacher, 4),
        Variant("student before DMD", before),
        Variant("student", after),
        Variant("student, camera zeroed", after, camera=False),
        Variant("student, recent history", after, history=HistoryPolicy(recent=policy.recent + policy.camera, camera=0)),
        Variant("student, field-of-view history", after, history=policy.model_copy(update={"similarity": "field_of_view"})),
        Variant("student, INT8", quantized),
        *(Variant(name, folder) for name, folder in others.items()),
    ]
    return [variant for variant in known if variant.folder]


def run_study(folder: Path, compared: list[Variant], features: str, clips: str, settings: StudySettings) -> dict[str, list[dict[str, Any]]]:
    """Measure every variant with every seed; returns a list per variant, by seed. What is measured is kept in `folder` and not done again."""
    from tqdm import tqdm

    store, codec = FeatureStore(features), WorldModel.load(next(v for v in compared if not v.steps).folder).codec
    found: dict[str, list[dict[str, Any]]] = {}
    for variant, seed in tqdm([(v, seed) for v in compared for seed in range(settings.seeds)], desc="study", unit="measurement"):
        kept = folder / "measured" / f"{stem_of(variant.name)}-{seed}.json"
        key = {"format": FORMAT, "model": sha256_tree(variant.folder), "variant": repr((variant.steps, variant.history, variant.camera)),
               "features": str(features), **settings.model_dump()}  # fmt: skip
        if not kept.is_file() or read_json(kept)["key"] != key:
            video = folder / "videos" / f"{kept.stem}.mp4" if seed == 0 else None
            values = measure(variant, store, clips, codec, settings, seed, video)
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(kept, {"key": key, "values": values})
        found.setdefault(variant.name, []).append(read_json(kept)["values"])
    return found


def stem_of(name: str) -> str:
    """A variant's name as files carry it."""
    return name.replace(" ", "-").replace(",", "")


@torch.inference_mode()
def measure(
    variant: Variant, store: FeatureStore, clips: str, codec: Any, settings: StudySettings, seed: int, video: Path | None = None
) -> dict[str, Any]:
    """One variant with one seed. A bidirectional teacher makes the episodes in one window, and its first chunk in one of a chunk's length.

    codec: decodes all variants alike; video: where to write the first episode (recorded is the file of the same folder), with sheets beside
    returns: `first_psnr`, `chunk_psnr` (dB, by chunk), `still_psnr` (the first frame repeated, by chunk), `obedience` figures (gains as
             shares of what the recorded frames show),
             `seconds_per_frame`, and of what rolls out `looks` {frame: shares of recorded footage}, `revisit_psnr` (against the recording)
             and `revisit_self_psnr` (against the first visit)
    """
    world = variant.load()
    length = world.config.model.chunk_latents
    longest = max(row.num_latents for row in store.of_split("held_out") or store.clips)
    chunks = min(settings.chunks, (longest - 1) // length)
    batch, places = held_out_windows(store, 1 + chunks * length, settings.episodes, seed)
    started = time.perf_counter()
    made = frames_of(codec, variant.generate(world, batch, seed))
    seconds = (time.perf_counter() - started) / (len(made) * (len(made[0]) - 1))
    real = frames_of(codec, batch["latents"])
    still = [np.broadcast_to(each[:1], each.shape) for each in real]
    if video is not None:
        write_film(video, made[0], world.config.fps)
        write_film(video.with_name("recorded.mp4"), real[0], world.config.fps)
    by_time = by_chunk(made, real, 4 * length)
    first = by_time[0]
    if variant.steps and chunks > 1:
        alone = frames_of(codec, variant.generate(world, first_chunk(batch, length), seed))
        first = by_chunk(alone, [each[: 1 + 4 * length] for each in real], 4 * length)[0]
    depth = sample_depth(clips or None, places, len(real[0]), (world.config.height, world.config.width))
    seen, ceiling = (obedience(videos, batch, depth) for videos in (made, real))
    values: dict[str, Any] = {
        "first_psnr": first,
        "chunk_psnr": by_time,
        "still_psnr": by_chunk(still, real, 4 * length),
        "seconds_per_frame": seconds,
        **seen,
        **{name: share(seen[name], ceiling[name]) for name in ("turning_gain", "walking_gain")},
    }
    if variant.camera and not variant.steps:
        values |= revisit(variant, world, codec, store, settings, seed)
        walk = video.with_name(f"{video.stem}-walk.png") if video is not None else None
        values["looks"] = long_walk(variant, world, codec, store, settings, seed, walk)
    return values


def share(value: float | None, of: float | None) -> float | None:
    """One number as a share of another, or None where either is not known."""
    return None if value is None or not of else value / of


def first_chunk(batch: Batch, chunk_latents: int) -> Batch:
    """The same windows cut to the given frame and one chunk."""
    frames = 1 + 4 * chunk_latents
    cut = {
        "latents": batch["latents"][:, :, : 1 + chunk_latents],
        "c2w": batch["c2w"][:, :frames],
        "intrinsics": batch["intrinsics"][:, :frames],
    }
    return {**batch, **cut}


def long_walk(
    variant: Variant,
    world: WorldModel,
    codec: Any,
    store: FeatureStore,
    settings: StudySettings,
    seed: int,
    sheet: Path | None = None,
) -> dict[str, dict[str, float]]:
    """`looks` around frames 100, 500 and 1,000 of a walk to and fro along recorded cameras, as shares of what was recorded on that way.

    sheet: where to write frames of the first walk side by side
    """
    batch = _along(store, settings.walks, seed, 4 * world.config.model.chunk_latents, settings.frames)
    recorded = looks(np.concatenate(frames_of(codec, batch["latents"])))  # of the same places: levels differ more than drift may
    made = frames_of(codec, variant.generate(world, batch, seed))
    if sheet is not None:
        write_sheet(sheet, made[0], WALK_SHEET)
    told = {}
    for at in (at for at in AT_FRAMES if at <= settings.frames):
        found = looks(np.concatenate([frames[at - AROUND : at] for frames in made]))
        told[str(at)] = {name: found[name] / recorded[name] for name in LOOKS}
    return told


def revisit(variant: Variant, world: WorldModel, codec: Any, store: FeatureStore, settings: StudySettings, seed: int) -> dict[str, float]:
    """PSNR of the frames on the way back over a recorded path: against the recording, and against what was made on the way out."""
    num_latents = 1 + settings.loop_chunks * world.config.model.chunk_latents
    batch, _ = held_out_windows(store, num_latents, settings.episodes, seed)
    out = 4 * (num_latents - 1)
    loop = [*range(out + 1), *range(out - 1, -1, -1)]
    made = frames_of(codec, variant.generate(world, {**batch, **{key: batch[key][:, loop] for key in ("c2w", "intrinsics")}}, seed))
    real = frames_of(codec, batch["latents"])
    back = [each[out + 1 :] for each in made]
    return {
        "revisit_psnr": _psnr(back, [each[out - 1 :: -1] for each in real]),
        "revisit_self_psnr": _psnr(back, [each[out - 1 :: -1] for each in made]),
    }


def _along(store: FeatureStore, count: int, seed: int, chunk_frames: int, num_frames: int) -> Batch:
    """A batch whose cameras walk recorded paths to and fro until there are `num_frames` and the chunk is whole; its latents are one way's."""
    shortest = min(row.num_latents for row in (store.of_split("held_out") or store.clips)[:count])
    batch, _ = held_out_windows(store, shortest, count, seed)
    frames = batch["c2w"].shape[1]
    to_and_fro = [*range(frames), *range(frames - 2, 0, -1)]
    total = 1 + -(-num_frames // chunk_frames) * chunk_frames
    order = [to_and_fro[index % len(to_and_fro)] for index in range(total)]
    return {**batch, "c2w": batch["c2w"][:, order], "intrinsics": batch["intrinsics"][:, order]}


def frames_of(codec: Any, latents: Tensor) -> list[Frames]:
    """(B, C, F, h, w) -> B videos (T, H, W, 3)."""
    return [to_frames(codec.decode(each[None])) for each in latents]


def write_film(path: Path, frames: Frames, fps: float) -> None:
    """A video, and a sheet of its frames beside it."""
    write_video(path, frames, fps)
    write_sheet(path.with_suffix(".png"), frames, SHEET)


def write_sheet(path: Path, frames: Frames, at: tuple[int, ...]) -> None:
    """Frames of (T, H, W, 3) side by side as a picture; those behind the end are left out."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as stream:
        Image.fromarray(np.concatenate([frames[index] for index in at if index < len(frames)], axis=1)).save(stream, "PNG")


def by_chunk(made: list[Frames], real: list[Frames], chunk_frames: int) -> list[float]:
    """PSNR in dB of each chunk after the first frame, over all videos together."""
    starts = range(1, len(real[0]), chunk_frames)
    return [_psnr([v[at : at + chunk_frames] for v in made], [v[at : at + chunk_frames] for v in real]) for at in starts]


def looks(frames: Frames) -> dict[str, float]:
    """How footage looks, frames (T, H, W, 3): mean standard deviation of luma, saturation, variance of the Laplacian, and change between frames."""
    import cv2

    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]).astype(np.float64)
    return {
        "contrast": float(grey.std(axis=(1, 2)).mean()),
        "saturation": float(np.mean([cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)[..., 1].mean() for frame in frames])),
        "sharpness": float(np.mean([cv2.Laplacian(frame, cv2.CV_64F).var() for frame in grey])),
        "motion": float(np.abs(np.diff(grey, axis=0)).mean()),
    }


def _psnr(made: list[Frames], real: list[Frames]) -> float:
    return psnr(float(np.mean([np.square((a.astype(np.float64) - b) / 255).mean() for a, b in zip(made, real, strict=True)])))
