"""`moworld bench geometry`: cameras recovered from the pictures of game episodes, compared with the engine's cameras."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from moworld.camera.cameras import Cameras
from moworld.camera.formats import read_cameras
from moworld.camera.se3 import align, centre_error_rms, rotation_angle_degrees
from moworld.data.clips import Clip
from moworld.data.game import GameSettings, record_game
from moworld.data.game_maps import split_of_map
from moworld.data.geometry import recover_cameras
from moworld.data.verification import GeometrySettings

KEYS = ("registered", "rotation_degrees", "ate_percent", "focal", "lens_error", "followed_share", "followed_share_lowest")


def bench_geometry(settings: GeometrySettings, maps: tuple[str, ...], frames: int = 97, seed: int = 7) -> Iterator[dict[str, Any]]:
    """Yields a row per episode of `frames` frames at 640x480, then their medians.

    registered: share of frames with a camera; rotation_degrees: median rotation error; ate_percent: Sim(3) ATE, % of the path's length;
    focal: recovered over true focal length; the other keys are measured without the truth
    """
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in maps:
            folder = Path(scratch) / name
            sizes = {"frames_per_episode": frames, "width": 640, "height": 480}
            level = {"train_maps": (), f"{split_of_map(name) or 'train'}_maps": (name,), "train_episodes_per_map": 1}
            game = GameSettings.model_validate({**level, "workers": 1, **sizes})
            (clip,), _ = record_game(folder, game, seed)
            rows.append({"episode": clip.clip_id, **compare(clip, folder, settings)})
            yield rows[-1]
    yield {"episode": f"median of {len(rows)}", **{key: round(float(np.nanmedian([row[key] for row in rows])), 4) for key in KEYS}}


def compare(clip: Clip, folder: Path, settings: GeometrySettings) -> dict[str, float]:
    """Returns the measures of KEYS for a clip: cameras recovered from its pictures against those of its camera file."""
    truth = read_cameras(folder / str(clip.camera))
    hidden = replace(clip, clip_id=f"{clip.clip_id}-hidden", camera=None, camera_origin=None)
    start_of, made, found = _recovered(hidden, folder, settings)
    if found is None:
        return {"registered": 0.0, **dict.fromkeys(KEYS[1:], float("nan"))}
    true = _square(truth.slice(start_of, start_of + len(found)), (clip.height, clip.width))
    moved = align(found.c2w, true.c2w)
    turned = rotation_angle_degrees(np.swapaxes(moved[:, :3, :3], 1, 2) @ true.c2w[:, :3, :3])
    path = float(np.linalg.norm(np.diff(true.c2w[:, :3, 3], axis=0), axis=1).sum())
    return {
        "registered": round(len(found) / len(truth), 4),
        "rotation_degrees": round(float(np.median(turned)), 4),
        "ate_percent": round(100 * centre_error_rms(found.c2w, true.c2w) / path, 4),
        "focal": round(float(found.intrinsics[0, 0] / true.intrinsics[0, 0]), 4),
        "lens_error": float(made.lens_error or 0.0),
        **{key: float("nan") if getattr(made, key) is None else getattr(made, key) for key in KEYS[-2:]},
    }


def _square(truth: Cameras, size_hw: tuple[int, int]) -> Cameras:
    """Returns the engine's cameras in a world with heights scaled so that pixels are square.

    A level camera draws the same picture of either world, so they cannot be distinguished by pictures: stairs would count as an error.
    """
    c2w = np.array(truth.c2w)
    c2w[:, 2, 3] *= truth.intrinsics[0, 1] * size_hw[0] / (truth.intrinsics[0, 0] * size_hw[1])
    return Cameras.from_c2w(truth.intrinsics[0], c2w)


def _recovered(clip: Clip, folder: Path, settings: GeometrySettings) -> tuple[int, Clip, Cameras | None]:
    """Returns the first frame with a camera, the clip with its measures, and the cameras from that frame on."""
    firsts: list[int] = []

    def backend(images: Path, scratch: Path, settings: GeometrySettings) -> Any:
        from moworld.data.geometry import longest_run
        from moworld.data.structure import colmap

        found = colmap(images, scratch, settings)
        firsts.append(longest_run(sorted(found[0].poses), 2 * settings.sfm_every)[0] if found else 0)
        return found

    made, _ = recover_cameras(clip, folder, settings, backend)
    return firsts[0], made, None if made.camera is None else read_cameras(folder / made.camera)
