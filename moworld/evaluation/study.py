"""The study of distillation (paper 4): teacher, students before and after, histories and INT8 on held-out episodes.

All variants get the same episodes and the same noise. Measured are the error to the recorded frames, camera obedience, the drift of the
image over a thousand frames, and the consistency of a place on revisit.
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
from moworld.evaluation.protocol import held_out_windows, obedience, sample_depth, student_rollout, teacher_chunk
from moworld.evaluation.straight_walks import AROUND, looks
from moworld.files import atomic_write, read_json, sha256_tree, write_json
from moworld.model.latent_grid import CODEC_GRID
from moworld.model.settings import HistoryPolicy
from moworld.model.world import WorldModel
from moworld.settings import PositiveInt, Settings
from moworld.training.codec import psnr, to_frames
from moworld.training.trainer import Batch
from moworld.video import write_video

Frames = NDArray[np.uint8]
AT_FRAMES = (100, 500, 1000)
CAMERA_KEYS = ("c2w", "intrinsics")
LOOKS = ("contrast", "saturation", "sharpness", "motion")
SHEET, WALK_SHEET = (0, 4, 8, 12, 24, 48, 72, 96), (0, 12, 48, 100, 250, 500, 750, 1000)  # frames shown side by side
FORMAT = 4  # version of the result of `measure`; stored results of a different version are measured again


class StudySettings(Settings):
    """`episodes` held-out episodes of `chunks` chunks; `walks` of `frames` frames; loops of `loop_chunks` chunks forth and as many back."""

    episodes: PositiveInt = 11
    chunks: PositiveInt = 8
    walks: PositiveInt = 4
    frames: PositiveInt = 1008
    loop_chunks: PositiveInt = 4
    seeds: PositiveInt = 3


@dataclass(frozen=True)
class Material:
    """Input of all measurements: features, folder of the clips with depth ("" if there is none), codec of all variants, settings."""

    store: FeatureStore
    clips: str
    codec: Any
    settings: StudySettings


@dataclass(frozen=True)
class Variant:
    """A model folder and its use: `steps` steps of the bidirectional teacher, or (0) the rollout that serves, optionally with a different history."""

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
        """Returns latents (B, C, F, h, w) along the batch's cameras."""
        if self.steps:
            return teacher_chunk(world, batch, self.steps, seed, self.camera)
        return student_rollout(world, batch, seed, self.camera)


def variants(teacher: str, before: str, after: str, quantized: str, others: dict[str, str]) -> list[Variant]:
    """Returns the variants of the study, without those of empty folders; `others` are further students by name, from other runs."""
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
    """Measures every variant with every seed; returns a list per variant, by seed. Results are stored in `folder` and reused.

    Raises InputError if no clip of the features is held out.
    """
    from tqdm import tqdm

    codec = WorldModel.load(next(v for v in compared if not v.steps).folder).codec
    material = Material(FeatureStore(features), clips, codec, settings)
    found: dict[str, list[dict[str, Any]]] = {}
    for variant, seed in tqdm([(v, seed) for v in compared for seed in range(settings.seeds)], desc="study", unit="measurement"):
        stored = folder / "measured" / f"{stem_of(variant.name)}-{seed}.json"
        key = {"format": FORMAT, "model": sha256_tree(variant.folder), "variant": repr((variant.steps, variant.history, variant.camera)),
               "features": str(features), **settings.model_dump()}  # fmt: skip
        if not stored.is_file() or read_json(stored)["key"] != key:
            video = folder / "videos" / f"{stored.stem}.mp4" if seed == 0 else None
            values = measure(variant, material, seed, video)
            write_json(stored, {"key": key, "values": values})
        found.setdefault(variant.name, []).append(read_json(stored)["values"])
    return found


def stem_of(name: str) -> str:
    """Returns a variant's name as in file names."""
    return name.replace(" ", "-").replace(",", "")


@torch.inference_mode()
def measure(variant: Variant, material: Material, seed: int, video: Path | None = None) -> dict[str, Any]:
    """Measures one variant with one seed.

    A bidirectional teacher generates the episodes in one window, and its first chunk in a window of one chunk.
    video:   path of the first episode, with recorded.mp4 and image sheets in the same folder; None writes none
    returns: `first_psnr`, `chunk_psnr` (dB, by chunk), `still_psnr` (the first frame repeated, by chunk), `seconds_per_frame`, and the values
             of `obedience` (gains as shares of those of the recorded frames). Variants with a rollout also have `looks` {frame: shares of
             recorded footage}, `revisit_psnr` (against the recording) and `revisit_self_psnr` (against the first visit).
    """
    world, store, codec, settings = variant.load(), material.store, material.codec, material.settings
    length = world.config.model.chunk_latents
    longest = max(row.num_latents for row in store.of_split("held_out"))
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
    chunk = world.config.model.chunk_frames
    by_time = by_chunk(made, real, chunk)
    first = by_time[0]
    if variant.steps and chunks > 1:
        opening = {**with_cameras_at(batch, list(range(1 + chunk))), "latents": batch["latents"][:, :, : 1 + length]}
        alone = frames_of(codec, variant.generate(world, opening, seed))
        first = by_chunk(alone, [each[: 1 + chunk] for each in real], chunk)[0]
    depth = sample_depth(material.clips or None, places, len(real[0]), (world.config.height, world.config.width))
    seen, ceiling = (obedience(videos, batch, depth) for videos in (made, real))
    values: dict[str, Any] = {
        "first_psnr": first,
        "chunk_psnr": by_time,
        "still_psnr": by_chunk(still, real, chunk),
        "seconds_per_frame": seconds,
        **seen,
        **{name: share(seen[name], ceiling[name]) for name in ("turning_gain", "walking_gain")},
    }
    if variant.camera and not variant.steps:
        values |= revisit(variant, world, material, seed)
        walk = video.with_name(f"{video.stem}-walk.png") if video is not None else None
        values["looks"] = long_walk(variant, world, material, seed, walk)
    return values


def share(value: float | None, of: float | None) -> float | None:
    """Returns `value` divided by `of`, or None if either is unknown."""
    return None if value is None or not of else value / of


def long_walk(variant: Variant, world: WorldModel, material: Material, seed: int, sheet: Path | None = None) -> dict[str, dict[str, float]]:
    """Returns `looks` before frames 100, 500 and 1,000 of a walk back and forth along recorded cameras, as shares of the recording.

    sheet: image file for frames of the first walk; None writes none
    """
    codec, settings = material.codec, material.settings
    batch = _back_and_forth(material.store, settings, seed, world.config.model.chunk_frames)
    recorded = looks(np.concatenate(frames_of(codec, batch["latents"])))  # of the same places, because levels differ more than drift may
    made = frames_of(codec, variant.generate(world, batch, seed))
    if sheet is not None:
        write_sheet(sheet, made[0], WALK_SHEET)
    shares = {}
    for at in (at for at in AT_FRAMES if at <= settings.frames):
        found = looks(np.concatenate([frames[at - AROUND : at] for frames in made]))
        shares[str(at)] = {name: found[name] / recorded[name] for name in LOOKS}
    return shares


def revisit(variant: Variant, world: WorldModel, material: Material, seed: int) -> dict[str, float]:
    """Returns the PSNR of the frames on the way back along a recorded path, against the recording and against the frames on the way out."""
    num_latents = 1 + material.settings.loop_chunks * world.config.model.chunk_latents
    batch, _ = held_out_windows(material.store, num_latents, material.settings.episodes, seed)
    out = CODEC_GRID.last_frame(num_latents - 1)
    loop = [*range(out + 1), *range(out - 1, -1, -1)]
    made = frames_of(material.codec, variant.generate(world, with_cameras_at(batch, loop), seed))
    real = frames_of(material.codec, batch["latents"])
    back = [each[out + 1 :] for each in made]
    return {
        "revisit_psnr": _psnr(back, [each[out - 1 :: -1] for each in real]),
        "revisit_self_psnr": _psnr(back, [each[out - 1 :: -1] for each in made]),
    }


def _back_and_forth(store: FeatureStore, settings: StudySettings, seed: int, chunk_frames: int) -> Batch:
    """Returns a batch with cameras back and forth along recorded paths, `frames` frames in whole chunks; its latents cover one way."""
    shortest = min(row.num_latents for row in store.of_split("held_out")[: settings.walks])
    batch, _ = held_out_windows(store, shortest, settings.walks, seed)
    frames = batch["c2w"].shape[1]
    cycle = [*range(frames), *range(frames - 2, 0, -1)]
    total = 1 + -(-settings.frames // chunk_frames) * chunk_frames
    return with_cameras_at(batch, [cycle[index % len(cycle)] for index in range(total)])


def with_cameras_at(batch: Batch, frames: list[int]) -> Batch:
    """Returns the batch with the cameras of these frames."""
    return {**batch, **{key: batch[key][:, frames] for key in CAMERA_KEYS}}


def frames_of(codec: Any, latents: Tensor) -> list[Frames]:
    """Decodes latents (B, C, F, h, w) to B videos (T, H, W, 3)."""
    return [to_frames(codec.decode(each[None])) for each in latents]


def write_film(path: Path, frames: Frames, fps: float) -> None:
    """Writes a video, and a sheet of its frames beside it."""
    write_video(path, frames, fps)
    write_sheet(path.with_suffix(".png"), frames, SHEET)


def write_sheet(path: Path, frames: Frames, at: tuple[int, ...]) -> None:
    """Writes frames of (T, H, W, 3) side by side as an image, without those after the end."""
    from PIL import Image

    with atomic_write(path) as stream:
        Image.fromarray(np.concatenate([frames[index] for index in at if index < len(frames)], axis=1)).save(stream, "PNG")


def by_chunk(made: list[Frames], real: list[Frames], chunk_frames: int) -> list[float]:
    """Returns the PSNR in dB of each chunk after the first frame, over all videos."""
    starts = range(1, len(real[0]), chunk_frames)
    return [_psnr([v[at : at + chunk_frames] for v in made], [v[at : at + chunk_frames] for v in real]) for at in starts]


def _psnr(made: list[Frames], real: list[Frames]) -> float:
    return psnr(float(np.mean([np.square((a.astype(np.float64) - b) / 255).mean() for a, b in zip(made, real, strict=True)])))
