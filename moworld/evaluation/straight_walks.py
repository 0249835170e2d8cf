"""Long walks straight on: whether worlds stay apart, and whether their pictures fade; and short ones that look up and down. From features alone,
for the release gates.

A model that forgets its world ends in the same picture from every start, so the PSNR between walks from different starts rises. The walks
of protocol `walk` are measured with the same functions, beside what a game engine shows.
"""

import itertools
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from moworld.camera.controls import controls_to_c2w
from moworld.data.features import FeatureStore
from moworld.evaluation.camera_accuracy import correlation
from moworld.evaluation.egomotion import commanded_pitch, pitch_motion
from moworld.evaluation.protocol import held_out_windows, student_rollout
from moworld.evaluation.settings import BenchmarkSettings
from moworld.model.latent_grid import CODEC_GRID
from moworld.model.rollout import NoisePerWorld, world_generator
from moworld.model.world import WorldModel
from moworld.training.codec import psnr, to_frames

Frames = NDArray[np.uint8]
AROUND = 24  # frames before a moment that are measured
LOOKS = ("contrast", "saturation", "sharpness")
UP_AND_DOWN = ["i"] * 6 + [""] * 6 + ["k"] * 12 + [""] * 6 + ["i"] * 6 + [""] * 12


def straight_actions(rng: np.random.Generator, count: int) -> list[str]:
    """Returns keys of a walk that goes mostly straight on: stretches of W, and short bends while walking."""
    actions: list[str] = []
    while len(actions) < count:
        actions += ["w"] * int(rng.integers(40, 61)) + [str(rng.choice(["wj", "wl"]))] * int(rng.integers(6, 13))
    return actions[:count]


def separation(videos: list[Frames], at: int) -> float:
    """Returns the mean PSNR in dB between pairs of videos over the AROUND frames before `at`; lower is more different."""
    parts = [video[max(0, at - AROUND) : at].astype(np.float64) / 255 for video in videos]
    return float(np.mean([psnr(float(np.square(a - b).mean())) for a, b in itertools.combinations(parts, 2)]))


def looks(frames: Frames) -> dict[str, float]:
    """Returns standard deviation of luma, saturation, variance of the Laplacian, and change between frames, means over frames (T, H, W, 3)."""
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]).astype(np.float64)
    return {
        "contrast": float(grey.std(axis=(1, 2)).mean()),
        "saturation": float(np.mean([cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)[..., 1].mean() for frame in frames])),
        "sharpness": float(np.mean([cv2.Laplacian(frame, cv2.CV_64F).var() for frame in grey])),
        "motion": float(np.abs(np.diff(grey, axis=0)).mean()),
    }


def drift(videos: list[Frames], parts: int = 10) -> dict[str, float]:
    """Returns the drift of each of LOOKS over equal parts of the videos (VDE), and what the last fifth has lost of the first's sharpness.

    drift_LOOK: sum of w_i |m_i - m_1| / m_1 over the parts, w_i = parts + 1 - i, divided by the sum of w_i
    late_drop:  1 - last / first
    """
    edges = np.linspace(1, len(videos[0]), parts + 1).astype(int)
    by_part = [looks(np.concatenate([video[low:high] for video in videos])) for low, high in itertools.pairwise(edges)]
    weights, values = np.arange(parts, 0, -1), {}
    for name in LOOKS:
        series = np.array([part[name] for part in by_part])
        values[f"drift_{name}"] = float(weights @ (np.abs(series - series[0]) / series[0]) / weights.sum())
    sharp, fifth = [part["sharpness"] for part in by_part], parts // 5
    return values | {"late_drop": float(1 - np.mean(sharp[-fifth:]) / np.mean(sharp[:fifth]))}


@torch.inference_mode()
def measure_straight_walks(world: WorldModel, store: FeatureStore, settings: BenchmarkSettings, seed: int) -> dict[str, Any]:
    """Returns the metrics of straight walks from held-out first frames under the same keys, by the names of moworld/evaluation/metrics.py.

    Without `walk_frames`, or with fewer than two held-out clips, nothing is measured.
    """
    clips = store.of_split("held_out")
    starts, shortest = min(settings.walk_starts, len(clips)), min(row.num_latents for row in clips)
    if not settings.walk_frames or starts < 2 or shortest < 2:
        return {}
    config, chunk = world.config, world.config.model.chunk_frames
    batch, _ = held_out_windows(store, shortest, starts, seed)
    recorded = [to_frames(world.codec.decode(each[None].to(world.device))) for each in batch["latents"]]

    def walk(keys: list[str]) -> list[Frames]:
        poses = controls_to_c2w([frozenset(key) for key in keys], step=config.move_units, degrees=config.yaw_degrees)
        c2w = batch["c2w"][:, :1] @ torch.tensor(poses, dtype=torch.float32)
        cameras = {"c2w": c2w, "intrinsics": batch["intrinsics"][:, :1].expand(-1, c2w.shape[1], -1)}
        noise = NoisePerWorld(tuple(world_generator(seed, video[0]) for video in recorded))  # as in a session
        return [to_frames(world.codec.decode(each[None])) for each in student_rollout(world, {**batch, **cameras}, noise)]

    actions = straight_actions(np.random.default_rng(seed), -(-settings.walk_frames // chunk) * chunk)
    away = -(-CODEC_GRID.frames_after_first(6) // chunk) * chunk
    straight, around = walk(actions), walk(["j"] * away + ["l"] * away)
    tilt = UP_AND_DOWN + [""] * (-len(UP_AND_DOWN) % chunk)
    tilted = np.concatenate([pitch_motion(video, batch["intrinsics"][0, 0].numpy()) for video in walk(tilt)])
    asked = commanded_pitch(controls_to_c2w([frozenset(key) for key in tilt], step=config.move_units, degrees=config.yaw_degrees))
    reference, found = looks(np.concatenate(recorded)), looks(np.concatenate([video[-AROUND:] for video in straight]))
    apart, own = separation(straight, len(straight[0])), separation(recorded, len(recorded[0]))
    errors = [np.square((video[-1].astype(np.float64) - real[0]) / 255).mean() for video, real in zip(around, recorded, strict=True)]
    return {
        "separation": apart,
        "real_separation": own,
        "separation_excess": apart - own,
        **{f"walk_{name}": found[name] / reference[name] for name in LOOKS},
        "looking_correlation": correlation(tilted, np.tile(asked, starts)),
        "return_psnr": float(np.mean([psnr(float(error)) for error in errors])),
    }
