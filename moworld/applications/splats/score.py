"""Protocol `splats`: scenes fitted to walks through held-out levels, against frames that were held out and views that the engine renders.

Held out are whole chunks, frames of the last part of a walk that see a place of its first part again, and views beside the path. Holding out
every 8th frame would flatter: repeating the frame before it scores higher there. A test frame whose camera stood exactly there in training is omitted.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moworld.applications.splats.baselines import backward_warp, forward_warp, mean_psnr, mean_ssim
from moworld.applications.splats.fit import fit_footage
from moworld.applications.splats.footage import Footage, footage_of
from moworld.applications.splats.scene import render_frames, view_of
from moworld.applications.splats.settings import FitSettings
from moworld.camera import Cameras, se3
from moworld.camera.cameras import cover_crop
from moworld.data.game_camera import engine_intrinsics
from moworld.data.game_maps import game_maps
from moworld.data.game_walks import Level, Place, SeenWalk
from moworld.data.settings import GameSettings
from moworld.settings import PositiveInt, Settings, Share

Frames = NDArray[np.uint8]
Array = NDArray[np.float64]
SETS = ("chunks", "revisits", "off_path")
SAME_UNITS, SAME_DEGREES = 1 / 540, 1.0  # model units (a map unit) and degrees within which a camera stood there before
PLACE_UNITS, PLACE_DEGREES = 96 / 540, 30.0  # within which a place is seen again
ASIDE, TURN = (64.0, 48.0, 32.0), 15.0  # map units beside the path, the farthest that is free; degrees back towards it


class ScoreSettings(Settings):
    """`walks` walks of `frames` frames over the held-out levels in turn; every `every`-th chunk of `chunk` frames is held out, and the last
    `tail` of the walk; views beside the path before it every `beside` frames, to the left and to the right."""

    walks: PositiveInt = 6
    frames: PositiveInt = 193
    chunk: PositiveInt = 12
    every: PositiveInt = 4
    tail: Share = 1 / 3
    beside: PositiveInt = 12
    fit: FitSettings = FitSettings()

    def fitted_frames(self, count: int) -> int:
        """Returns how many of a walk's `count` frames are before its tail."""
        return int(count * (1 - self.tail))


@dataclass(frozen=True, eq=False)
class Recording:
    """A walk, views beside it with the frame of the walk that each was moved from, and the lens (4,) of both."""

    walk: SeenWalk
    beside: SeenWalk
    moved_from: list[int]
    lens: Array


def record(settings: ScoreSettings, size_hw: tuple[int, int], seed: int, index: int) -> Recording:
    """Returns the recording of one walk of a seed, as the engine shows it at a size."""
    names = game_maps()["held_out"]
    rng, game = np.random.default_rng([seed, 3, index]), GameSettings.model_validate({})
    with Level(names[index % len(names)], game, size_hw) as level:
        start, actions = level.planned(settings.frames, rng)
        places = level.follow(start, actions)
        walk = level.views(places)
        shown = range(0, settings.fitted_frames(len(places)), settings.beside)
        moved = [(number, place) for number in shown for place in _beside(level, places[number])]
        beside = level.views([places[0], *(place for _, place in moved)])
    lens = Cameras(engine_intrinsics(game.width, game.height)[None], np.eye(4)[None]).cropped(*cover_crop((game.height, game.width), size_hw))
    others = SeenWalk(beside.name, beside.frames[1:], beside.c2w[1:], beside.depth[1:])
    return Recording(walk, others, [number for number, _ in moved], lens.intrinsics[0])


def _beside(level: Level, place: Place) -> list[Place]:
    """Returns the places to the left and to the right of a place that the body can reach, as far as ASIDE allows, looking inwards."""
    x, y, angle = place
    found = []
    for side in (1, -1):
        heading = np.radians(angle + 90 * side)
        for distance in ASIDE:
            there = np.array([x + distance * np.cos(heading), y + distance * np.sin(heading)])
            if level.passable(np.array(place), there):
                found.append((float(there[0]), float(there[1]), angle - side * TURN))
                break
    return found


@dataclass(frozen=True, eq=False)
class Split:
    """Frame numbers of a walk: those of the fit, and the held-out ones by set."""

    train: NDArray[np.int64]
    chunks: NDArray[np.int64]
    revisits: NDArray[np.int64]


def split_of(c2w: Array, settings: ScoreSettings) -> Split:
    """Returns the split of a walk by its poses (T, 4, 4), in model units."""
    count = len(c2w)
    first, numbers = settings.fitted_frames(count), np.arange(count)
    in_chunk = (numbers // settings.chunk) % settings.every == settings.every // 2
    train = np.flatnonzero(~in_chunk & (numbers < first))
    known = c2w[train]
    new = np.array([not _within(pose, known, SAME_UNITS, SAME_DEGREES) for pose in c2w])
    again = np.array([_within(pose, known, PLACE_UNITS, PLACE_DEGREES) for pose in c2w])
    return Split(train, np.flatnonzero(in_chunk & (numbers < first) & new), np.flatnonzero((numbers >= first) & again & new))


def _within(pose: Array, known: Array, units: float, degrees: float) -> bool:
    apart, turned = distances(pose, known)
    return bool(((apart < units) & (turned < degrees)).any())


def distances(pose: Array, known: Array) -> tuple[Array, Array]:
    """Returns the distance and the angle in degrees of each known pose (N, 4, 4) from a pose (4, 4)."""
    turned = se3.rotation_angle_degrees(np.swapaxes(known[:, :3, :3], 1, 2) @ pose[:3, :3])
    return np.linalg.norm(known[:, :3, 3] - pose[:3, 3], axis=1), turned


def nearest(pose: Array, known: Array) -> int:
    """Returns the number of the known pose nearest to a pose; PLACE_UNITS count as much as PLACE_DEGREES."""
    apart, turned = distances(pose, known)
    return int(np.argmin(apart / PLACE_UNITS + turned / PLACE_DEGREES))


def measure(
    frames: Frames, recording: Recording, settings: ScoreSettings, seed: int, *, with_depth: bool
) -> tuple[dict[str, Any], dict[str, list[Frames]]]:
    """Returns PSNR in dB and SSIM by set and method of a scene fitted to the frames of a walk, and pictures by set: truth, then each method.

    frames:     (T, H, W, 3) of the walk: recorded, through a codec, or generated. The truth of chunks and revisits are these frames; beside the
                path it is the engine.
    with_depth: start the fit from the engine's depth
    """
    walk, split = recording.walk, split_of(recording.walk.c2w, settings)
    cameras = Cameras.from_c2w(recording.lens, walk.c2w)
    footage = footage_of(walk.name, frames, cameras, "model units", walk.depth if with_depth else None).chosen(split.train)
    scene, facts = fit_footage(footage, settings.fit, seed)
    tests = {
        "chunks": (frames[split.chunks], walk.c2w[split.chunks], walk.depth[split.chunks], split.chunks),
        "revisits": (frames[split.revisits], walk.c2w[split.revisits], walk.depth[split.revisits], split.revisits),
        "off_path": (recording.beside.frames, recording.beside.c2w, recording.beside.depth, np.array(recording.moved_from, np.int64)),
    }
    mean = tuple((footage.frames.mean(axis=(0, 1, 2)) / 255).tolist())  # of what no frame showed
    values: dict[str, Any] = dict(facts)
    shown: dict[str, list[Frames]] = {}
    for name, (truth, c2w, depth, numbers) in tests.items():
        values[f"{name}_frames"] = len(truth)
        if not len(truth):
            continue
        poses = walk.c2w[split.train]
        sources = [int(split.train[nearest(pose, poses)]) for pose in c2w]
        before = [int(split.train[max(0, np.searchsorted(split.train, number, side="right") - 1)]) for number in numbers]
        made = {
            "splats": render_frames(scene, [view_of(pose, recording.lens, truth.shape[1:3]) for pose in _in_scene(c2w, walk.c2w, footage)], mean),
            "previous": frames[before],
            "warp": np.stack([forward_warp(frames[i], walk.depth[i], walk.c2w[i], pose, recording.lens) for i, pose in zip(sources, c2w, strict=True)]),
            "warp_exact": np.stack([
                backward_warp(frames[i], walk.c2w[i], pose, own, recording.lens) for i, pose, own in zip(sources, c2w, depth, strict=True)
            ]),
        }  # fmt: skip
        for method, pictures in made.items():
            values[f"{name}_psnr_{method}"] = mean_psnr(pictures, truth)
            values[f"{name}_ssim_{method}"] = mean_ssim(pictures, truth)
        shown[name] = [truth, *made.values()]
    return values, shown


def _in_scene(c2w: Array, walk: Array, footage: Footage) -> Array:
    """Returns poses of the walk's world as w2c in scene units. The world of the scene is that of the walk's first camera."""
    relative = se3.invert(walk[0]) @ c2w
    relative[:, :3, 3] /= footage.units
    return se3.invert(relative)
