"""Held-out measurement: teacher, student and INT8 student beside their baselines, on maps that training has not seen.

Every compared variant sees the same windows and the same noise. Errors are in pixel space [0, 1] after the codec; the given first frame
does not count.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moworld.data.clips import read_manifest
from moworld.data.features import FeatureStore
from moworld.data.frames import model_depth
from moworld.evaluation.camera_accuracy import correlation, gain
from moworld.evaluation.egomotion import GRID, camera_motion, commanded_motion
from moworld.files import Pathlike
from moworld.model.latent_cameras import LatentCameras
from moworld.model.rollout import Rollout, roll_out, sample_window
from moworld.model.window import Window, make_window
from moworld.model.world import WorldModel
from moworld.settings import Settings
from moworld.training.codec import psnr, to_frames
from moworld.video import write_video

Batch = dict[str, Tensor]
CLEAR_TURN = 2.0  # degrees in a latent frame


class BenchmarkSettings(Settings):
    """`windows` held-out windows of one chunk; `samples` longer episodes of `sample_chunks` chunks, shown real beside generated."""

    windows: int = 12
    teacher_steps: int = 8
    samples: int = 3
    sample_chunks: int = 4
    speed_chunks: int = 4


def held_out_windows(store: FeatureStore, num_latents: int, count: int, seed: int) -> tuple[Batch, list[tuple[str, int]]]:
    """`count` windows, spread over the held-out clips (over all clips where there are none), as a batch; and where each starts."""
    rows = [row for row in store.of_split("held_out") or store.clips if row.num_latents >= num_latents]
    generator = np.random.default_rng(seed)
    places = [
        (row.clip_id, int(generator.integers(row.num_latents - num_latents + 1))) for row in (rows[i % len(rows)] for i in range(count))
    ]
    windows = [store.read_window(clip, start, num_latents) for clip, start in places]
    return {key: torch.stack([window[key] for window in windows]) for key in windows[0]}, places


@torch.inference_mode()
def teacher_chunk(world: WorldModel, batch: Batch, steps: int, seed: int, camera: bool = True) -> Tensor:
    """Next chunk (B, C, 1 + L, h, w) of the bidirectional teacher; without `camera` its rays are zeros."""
    latents, count = batch["latents"], len(batch["latents"])
    cameras = LatentCameras.from_frames(batch["intrinsics"], batch["c2w"])
    window = make_window(latents[:, :, :1], cameras, torch.zeros(count, dtype=torch.long), batch["text"])
    if not camera:
        window = window.without(camera=torch.ones(count, dtype=torch.bool))
    return sample_window(world.experts, window, steps, world.config.model.shift, torch.Generator().manual_seed(seed))


class BlindRollout(Rollout):
    """A rollout whose camera rays are zeros; its history is chosen by the cameras as ever."""

    def window(self, cameras: LatentCameras) -> Window:
        window = super().window(cameras)
        return window.without(camera=torch.ones(len(window.condition), dtype=torch.bool))


@torch.inference_mode()
def student_rollout(world: WorldModel, batch: Batch, seed: int, camera: bool = True) -> Tensor:
    """The student's rollout (B, C, F, h, w) along the batch's cameras: the function that serves; without `camera` its rays are zeros."""
    config = world.config
    rollout = (Rollout if camera else BlindRollout)(
        world.experts,
        batch["latents"][:, :, :1],
        batch["text"],
        batch["intrinsics"][:, 0],
        schedule=config.schedule,
        policy=config.model.history,
        chunk_latents=config.model.chunk_latents,
        generator=torch.Generator().manual_seed(seed),
        first_pose=batch["c2w"][:, 0],
        sampler=config.model.sampler,
    )
    return roll_out(rollout, batch["c2w"][:, 1:], batch["intrinsics"][:, 1:])


def pixel_mse(codec: Any, latents: Tensor, target: Tensor) -> float:
    """Mean squared error in [0, 1] of the frames after the first, both decoded by the codec."""
    with torch.inference_mode():
        error = (codec.decode(latents) - codec.decode(target))[:, :, 1:]
    return float(error.square().mean() / 4)


def measure_accuracy(
    model: WorldModel, teacher: WorldModel, unquantized: WorldModel, store: FeatureStore, settings: BenchmarkSettings, seed: int
) -> dict[str, Any]:
    """Next-chunk errors of teacher and student with their baselines (names: moworld/evaluation/metrics.py)."""
    batch, _ = held_out_windows(store, 1 + model.config.model.chunk_latents, settings.windows, seed)
    codec, target = model.codec, batch["latents"]
    mse = {
        "teacher": pixel_mse(codec, teacher_chunk(teacher, batch, settings.teacher_steps, seed), target),
        "zeroed": pixel_mse(codec, teacher_chunk(teacher, batch, settings.teacher_steps, seed, camera=False), target),
        "student": pixel_mse(codec, student_rollout(model, batch, seed), target),
        "student_fp32": pixel_mse(codec, student_rollout(unquantized, batch, seed), target),
        "last": pixel_mse(codec, target[:, :, :1].expand_as(target), target),
    }
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
    """Held-out episodes real beside generated as videos, how the camera was obeyed, and the drift: PSNR of the first chunk minus that of the last.

    clips: the folder of the same clips with their depth, by which the motion in the picture is read; None reads it without depth
    """
    chunks = settings.sample_chunks
    longest = max((row.num_latents for row in store.of_split("held_out") or store.clips), default=0)
    chunks = max(1, min(chunks, (longest - 1) // model.config.model.chunk_latents))
    batch, places = held_out_windows(store, 1 + chunks * model.config.model.chunk_latents, settings.samples, seed + 1)
    latents = {
        "real": batch["latents"],
        "generated": student_rollout(model, batch, seed),
        "camera_zeroed": student_rollout(model, batch, seed, camera=False),
    }
    with torch.inference_mode():
        videos = {kind: [to_frames(model.codec.decode(each[None])) for each in of] for kind, of in latents.items()}
    depth = sample_depth(clips, places, len(videos["real"][0]), (model.config.height, model.config.width))
    rows, drift = [], []
    for index, (clip, start) in enumerate(places):
        names = {kind: f"samples/{index:02d}-{kind}.mp4" for kind in ("real", "generated")}
        for kind, name in names.items():
            write_video(Path(folder) / name, videos[kind][index], model.config.fps)
        note = "the same first frame and camera path; both through the codec"
        rows.append({"title": f"{clip} from frame {4 * start}", **names, "note": note})
        real, made = videos["real"][index], videos["generated"][index]
        error = (made.astype(np.float64) - real).reshape(len(made), -1) / 255
        drift.append(psnr(float(np.square(error[1:13]).mean())) - psnr(float(np.square(error[-12:]).mean())))
    seen = {kind: obedience(frames, batch, depth) for kind, frames in videos.items()}
    told = {f"{prefix}{name}{suffix}": seen[kind][name] for kind, prefix, suffix, names in READINGS for name in names}
    return {"samples": rows, **told, "drift": float(np.mean(drift))}


CORRELATIONS = ("turning_correlation", "walking_correlation")
READINGS = (
    ("generated", "", "", (*CORRELATIONS, "swapped_turns")),
    ("real", "real_", "", (*CORRELATIONS, "swapped_turns")),
    ("camera_zeroed", "", "_camera_zeroed", CORRELATIONS),
)


def sample_depth(clips: Pathlike | None, places: list[tuple[str, int]], num_frames: int, size_hw: tuple[int, int]) -> list[Any]:
    """Depth (num_frames, *GRID) of each window that held_out_windows chose, or None where the clips folder has none."""
    known = {} if clips is None else {clip.clip_id: clip for clip in read_manifest(clips)}
    found: list[Any] = []
    for clip_id, start in places:
        depth = model_depth(str(clips), known[clip_id], size_hw, GRID) if clip_id in known else None
        found.append(None if depth is None else depth[4 * start : 4 * start + num_frames])
    return found


def obedience(videos: list[Any], batch: Batch, depth: list[Any]) -> dict[str, float | None]:
    """How the motion seen in videos, each (T, H, W, 3) uint8, follows the batch's cameras, a latent frame at a time.

    turning_correlation: of degrees to the right; walking_correlation: of steps ahead and aside together; None where nothing moves
    swapped_turns:       share of latent frames with a clear turn that are seen to turn to the other side
    turning_error, walking_error: root mean square of seen minus asked for, degrees and model units a latent frame
    turning_gain, walking_gain:   how much of it is seen for one that is asked for, by least squares; flow reads recorded video as less than 1
    """
    seen = [
        camera_motion(frames, intrinsics, known)
        for frames, intrinsics, known in zip(videos, batch["intrinsics"][:, 0].double().numpy(), depth, strict=True)
    ]
    wanted = [commanded_motion(c2w) for c2w in batch["c2w"].double().numpy()]
    made, asked = np.concatenate(seen), np.concatenate(wanted)
    clear = np.abs(asked[:, 0]) >= CLEAR_TURN
    error = np.sqrt(np.square(made - asked).mean(axis=0))
    return {
        "turning_correlation": correlation(made[:, 0], asked[:, 0]),
        "walking_correlation": correlation(made[:, 1:].ravel(), asked[:, 1:].ravel()),
        "swapped_turns": float(np.mean(made[clear, 0] * asked[clear, 0] < 0)) if clear.any() else None,
        "turning_error": float(error[0]),
        "walking_error": float(np.hypot(*error[1:])),
        "turning_gain": gain(made[:, 0], asked[:, 0]),
        "walking_gain": gain(made[:, 1:].ravel(), asked[:, 1:].ravel()),
    }
