"""Held-out measurement: teacher, student and INT8 student beside their baselines, on maps outside the training data.

All variants get the same windows and the same noise. Errors are in pixel space [0, 1] after the codec; the given first frame does not count.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moworld.data.clips import read_manifest
from moworld.data.features import FeatureStore
from moworld.data.frames import model_depth
from moworld.distillation.autoregressive import rollout_of
from moworld.evaluation.camera_accuracy import correlation, gain
from moworld.evaluation.egomotion import GRID, camera_motion, commanded_motion
from moworld.evaluation.settings import BenchmarkSettings
from moworld.files import Pathlike
from moworld.model.latent_cameras import LatentCameras
from moworld.model.latent_grid import CODEC_GRID
from moworld.model.rollout import Noise, Rollout, roll_out, sample_window
from moworld.model.window import Window
from moworld.model.world import WorldModel
from moworld.training.codec import psnr, to_frames
from moworld.training.objective import bidirectional_window
from moworld.training.trainer import Batch
from moworld.video import write_video

CLEAR_TURN = 2.0  # degrees in a latent frame
CORRELATIONS = ("turning_correlation", "walking_correlation")
READINGS = (  # kind of video, prefix and suffix of the metric's name, measurements
    ("generated", "", "", (*CORRELATIONS, "swapped_turns")),
    ("real", "real_", "", (*CORRELATIONS, "swapped_turns")),
    ("camera_zeroed", "", "_camera_zeroed", CORRELATIONS),
)


def held_out_windows(store: FeatureStore, num_latents: int, count: int, seed: int) -> tuple[Batch, list[tuple[str, int]]]:
    """Returns a batch of `count` windows spread over the held-out clips, and (clip, start) of each; raises InputError without such clips."""
    rows = store.of_split("held_out", num_latents)
    generator = np.random.default_rng(seed)
    places = [
        (row.clip_id, int(generator.integers(row.num_latents - num_latents + 1))) for row in (rows[i % len(rows)] for i in range(count))
    ]
    windows = [store.read_window(clip, start, num_latents) for clip, start in places]
    return {key: torch.stack([window[key] for window in windows]) for key in windows[0]}, places


@torch.inference_mode()
def teacher_chunk(world: WorldModel, batch: Batch, steps: int, seed: int, camera: bool = True) -> Tensor:
    """Returns the next chunk (B, C, 1 + L, h, w) of the bidirectional teacher; without `camera` its rays are zeros."""
    batch = on_device(batch, world)
    window = bidirectional_window(batch, batch["latents"][:, :, :1])
    if not camera:
        window = without_camera(window)
    return sample_window(world.experts, window, steps, world.config.model.shift, torch.Generator().manual_seed(seed))


def without_camera(window: Window) -> Window:
    """Returns the window with camera rays of zero."""
    return window.without(camera=torch.ones(len(window.condition), dtype=torch.bool, device=window.condition.device))


def on_device(batch: Batch, world: WorldModel) -> Batch:
    """Returns the batch on the world's device."""
    return {key: value.to(world.device) for key, value in batch.items()}


class BlindRollout(Rollout):
    """A rollout with camera rays of zero; its history is still selected by the cameras."""

    def window(self, cameras: LatentCameras) -> Window:
        return without_camera(super().window(cameras))


@torch.inference_mode()
def student_rollout(world: WorldModel, batch: Batch, noise: int | Noise, camera: bool = True) -> Tensor:
    """Returns the student's rollout (B, C, F, h, w) along the batch's cameras; without `camera` its rays are zeros.

    noise: its generator, or the seed of one for all samples
    """
    batch, noise = on_device(batch, world), torch.Generator().manual_seed(noise) if isinstance(noise, int) else noise
    rollout = rollout_of(world, batch, noise, Rollout if camera else BlindRollout)
    return roll_out(rollout, batch["c2w"][:, 1:], batch["intrinsics"][:, 1:])


def pixel_mse(codec: Any, latents: Tensor, target: Tensor) -> float:
    """Returns the mean squared error in [0, 1] of the frames after the first, both decoded by the codec."""
    with torch.inference_mode():
        error = (codec.decode(latents) - codec.decode(target))[:, :, 1:]
    return float(error.square().mean() / 4)


def measure_accuracy(load: Callable[[str], WorldModel], store: FeatureStore, settings: BenchmarkSettings, seed: int) -> dict[str, Any]:
    """Returns next-chunk errors of teacher and student with their baselines, by the names of moworld/evaluation/metrics.py.

    load: returns the world "teacher", "unquantized" or "model"; one of them is held at a time, because three do not fit a device
    """
    world = load("teacher")
    batch, _ = held_out_windows(store, 1 + world.config.model.chunk_latents, settings.windows, seed)
    made = {"teacher": teacher_chunk(world, batch, settings.teacher_steps, seed).cpu()}
    made["zeroed"] = teacher_chunk(world, batch, settings.teacher_steps, seed, camera=False).cpu()
    for variant, name in (("student_fp32", "unquantized"), ("student", "model")):
        del world  # before the next is loaded
        world = load(name)
        made[variant] = student_rollout(world, batch, seed).cpu()
    target = batch["latents"].to(world.device)
    made["last"] = target[:, :, :1].expand_as(target)
    codec = world.codec
    mse = {variant: pixel_mse(codec, latents.to(world.device), target) for variant, latents in made.items()}
    return {
        "teacher_next_chunk_mse": mse["teacher"],
        "teacher_next_chunk_mse_camera_zeroed": mse["zeroed"],
        "teacher_camera_gain": psnr(mse["teacher"]) - psnr(mse["zeroed"]),
        "teacher_next_chunk_psnr": psnr(mse["teacher"]),
        "student_next_chunk_psnr": psnr(mse["student"]),
        "student_fp32_next_chunk_psnr": psnr(mse["student_fp32"]),
        "int8_psnr_drop": psnr(mse["student_fp32"]) - psnr(mse["student"]),
        "last_frame_psnr": psnr(mse["last"]),
        "last_frame_mse": mse["last"],
    }


def write_samples(
    model: WorldModel, store: FeatureStore, clips: Pathlike | None, folder: Pathlike, settings: BenchmarkSettings, seed: int
) -> dict[str, Any]:
    """Writes held-out episodes, real and generated, as videos; returns them with camera obedience and drift.

    clips: folder of the same clips with depth, to measure motion in the videos; None measures it without depth
    drift: PSNR of the first chunk minus that of the last
    Without samples in the settings nothing is written or measured.
    """
    if not settings.samples:
        return {"samples": []}
    length = model.config.model.chunk_latents
    longest = max(row.num_latents for row in store.of_split("held_out"))
    chunks = max(1, min(settings.sample_chunks, (longest - 1) // length))
    batch, places = held_out_windows(store, 1 + chunks * length, settings.samples, seed + 1)
    latents = {
        "real": batch["latents"],
        "generated": student_rollout(model, batch, seed),
        "camera_zeroed": student_rollout(model, batch, seed, camera=False),
    }
    with torch.inference_mode():
        codec = model.codec
        videos = {kind: [to_frames(codec.decode(each[None].to(model.device))) for each in of] for kind, of in latents.items()}
    depth = sample_depth(clips, places, len(videos["real"][0]), (model.config.height, model.config.width))
    rows, drift = [], []
    for index, (clip, start) in enumerate(places):
        names = {kind: f"samples/{index:02d}-{kind}.mp4" for kind in ("real", "generated")}
        for kind, name in names.items():
            write_video(Path(folder) / name, videos[kind][index], model.config.fps)
        note = "the same first frame and camera path; both through the codec"
        rows.append({"title": f"{clip} from frame {CODEC_GRID.last_frame(start)}", **names, "note": note})
        real, made = videos["real"][index], videos["generated"][index]
        error = (made.astype(np.float64) - real).reshape(len(made), -1) / 255
        drift.append(psnr(float(np.square(error[1:13]).mean())) - psnr(float(np.square(error[-12:]).mean())))
    seen = {kind: obedience(frames, batch, depth) for kind, frames in videos.items()}
    motion = {f"{prefix}{name}{suffix}": seen[kind][name] for kind, prefix, suffix, names in READINGS for name in names}
    return {"samples": rows, **motion, "drift": float(np.mean(drift))}


def sample_depth(clips: Pathlike | None, places: list[tuple[str, int]], num_frames: int, size_hw: tuple[int, int]) -> list[Any]:
    """Returns the depth (num_frames, *GRID) of each window of `held_out_windows`, or None if the clips folder has none."""
    known = {} if clips is None else {clip.clip_id: clip for clip in read_manifest(clips)}
    found: list[Any] = []
    for clip_id, start in places:
        depth = model_depth(str(clips), known[clip_id], size_hw, GRID) if clip_id in known else None
        first = CODEC_GRID.last_frame(start)
        found.append(None if depth is None else depth[first : first + num_frames])
    return found


def obedience(videos: list[Any], batch: Batch, depth: list[Any]) -> dict[str, float | None]:
    """Compares the motion measured in videos, each (T, H, W, 3) uint8, with the batch's cameras, per latent frame.

    turning_correlation: of degrees right; walking_correlation: of steps ahead and aside together; None if nothing moves
    swapped_turns:       share of latent frames with a clear turn that turn in the opposite direction
    turning_error, walking_error: root mean square difference, degrees and model units per latent frame
    turning_gain, walking_gain:   least-squares ratio of measured to commanded motion; below 1 even for recorded video
    """
    intrinsics = batch["intrinsics"][:, 0].double().numpy()
    made = np.concatenate([camera_motion(*each) for each in zip(videos, intrinsics, depth, strict=True)])
    commanded = np.concatenate([commanded_motion(c2w) for c2w in batch["c2w"].double().numpy()])
    error = np.sqrt(np.square(made - commanded).mean(axis=0))
    return follows(made, commanded) | {
        "turning_error": float(error[0]),
        "walking_error": float(np.hypot(*error[1:])),
        "turning_gain": gain(made[:, 0], commanded[:, 0]),
        "walking_gain": gain(made[:, 1:].ravel(), commanded[:, 1:].ravel()),
    }


def follows(made: NDArray[np.float64], commanded: NDArray[np.float64]) -> dict[str, float | None]:
    """Returns turning_correlation, walking_correlation and swapped_turns (see `obedience`) of motions (F, 3) of `camera_motion`."""
    clear = np.abs(commanded[:, 0]) >= CLEAR_TURN
    return {
        "turning_correlation": correlation(made[:, 0], commanded[:, 0]),
        "walking_correlation": correlation(made[:, 1:].ravel(), commanded[:, 1:].ravel()),
        "swapped_turns": float(np.mean(made[clear, 0] * commanded[clear, 0] < 0)) if clear.any() else None,
    }
