"""Walks through levels that were never trained on, beside what the engine shows there: protocol `walk`.

Four kinds of walk from random places of the held-out levels, the same for every model: planned walks that turn and come back, whose cameras
the model follows and whose pictures are known exactly; straight walks of a thousand frames under the same keys everywhere; looking away
from the first picture and back; and looking up and down. A model that forgets its world shows the same picture from every start: the PSNR between the walks
(`separation`) then rises far above the engine's own.
"""

import itertools
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from moworld.camera import se3
from moworld.camera.controls import controls_to_c2w
from moworld.data.game_maps import game_maps
from moworld.data.game_walks import Level, SeenWalk
from moworld.data.settings import GameSettings
from moworld.evaluation.camera_accuracy import correlation
from moworld.evaluation.egomotion import GRID, NEAR, STRIDE, camera_motion, commanded_motion, commanded_pitch, motion_poses, pitch_motion
from moworld.evaluation.protocol import CLEAR_TURN, follows, student_rollout
from moworld.evaluation.straight_walks import AROUND, LOOKS, UP_AND_DOWN, drift, looks, separation, straight_actions
from moworld.model.codec import StreamingCodec, group_frames, initialize_from_patches
from moworld.model.latent_grid import CODEC_GRID
from moworld.model.rollout import NoisePerWorld, world_generator
from moworld.model.world import WorldConfig, WorldModel
from moworld.settings import PositiveInt, Settings
from moworld.training.codec import psnr, to_frames, to_video

Frames = NDArray[np.uint8]
Array = NDArray[np.float64]
LOOKS_AT = (100, 500, 1000)  # frames of a straight walk
SEPARATION_AT = (300, 1000)
HORIZONS = (61, 96, 250)  # frames of a planned walk


class WalkSettings(Settings):
    """`starts` places over the held-out levels in turn; straight walks of `straight` frames, planned ones of `planned`; `away` frames to
    turn away, to stay there, and to turn back. Frames are rounded up to whole chunks."""

    starts: PositiveInt = 9
    straight: PositiveInt = 1008
    planned: PositiveInt = 252
    away: PositiveInt = 24


@dataclass(frozen=True)
class Walks:
    """The walks of one seed. `actions`: keys of the straight walks; `straight`: what the engine shows under them, where walls stop the player;
    `tilted`: looking up and down, without depth."""

    planned: list[SeenWalk]
    straight: list[SeenWalk]
    away: list[SeenWalk]
    actions: list[str]
    tilted: list[SeenWalk] = field(default_factory=list)


def see_walks(settings: WalkSettings, config: WorldConfig, game: GameSettings, seed: int, split: str = "held_out") -> Walks:
    """Returns the walks of a seed as the engine shows them at the model's size."""
    names = game_maps()[split]
    chunk = config.model.chunk_frames
    straight_frames, planned_frames, turn = (-(-count // chunk) * chunk for count in (settings.straight, settings.planned, settings.away))
    actions = straight_actions(np.random.default_rng([seed, 1]), straight_frames)
    looking = ["j"] * turn + [""] * turn + ["l"] * turn + [""] * turn
    up_and_down = UP_AND_DOWN + [""] * (-len(UP_AND_DOWN) % chunk)
    planned, straight, away, tilted = [], [], [], []
    for index, name in enumerate(itertools.islice(itertools.cycle(names), settings.starts)):
        rng = np.random.default_rng([seed, 2, index])
        with Level(name, game, (config.height, config.width)) as level:
            planned.append(level.walk(*level.planned(planned_frames + 1, rng)))
            start = level.start(rng)
            straight.append(level.walk(start, actions))
            away.append(level.walk(start, looking))
        with Level(name, game.model_copy(update={"look_share": 1.0}), (config.height, config.width)) as level:
            tilted.append(level.walk(start, up_and_down))
    return Walks(planned, straight, away, actions, tilted)


def generate(
    world: WorldModel, walks: list[SeenWalk], c2w: Array, seed: int, camera: bool = True, same_noise: bool = False
) -> list[Frames]:
    """Returns the model's videos (T, height, width, 3) from the walks' first frames along poses (B, T, 4, 4), without text.

    same_noise: all walks get the same noise, so that what differs between them comes from their first frames; else each its own, as in
                a session
    """
    config, count = world.config, len(walks)
    with torch.inference_mode():
        first = torch.cat([world.codec.encode(to_video(walk.frames[:1]).to(world.device)) for walk in walks])
        batch = {
            "latents": first.float(),
            "text": torch.zeros(count, config.text.length, config.model.text_dim),
            "c2w": torch.tensor(c2w, dtype=torch.float32),
            "intrinsics": torch.tensor(config.intrinsics).expand(count, c2w.shape[1], 4),
        }
        noise = NoisePerWorld(tuple(world_generator(seed, walks[0 if same_noise else index].frames[0]) for index in range(count)))
        latents = student_rollout(world, batch, noise, camera)
        return [to_frames(world.codec.decode(each[None])) for each in latents]


def measure_walks(world: WorldModel, walks: Walks, seed: int) -> tuple[dict[str, Any], dict[str, list[Frames]]]:
    """Returns the model's measures on the walks of a seed (see `walk_measures`), and its videos by kind of walk.

    separation_same_noise: as the first separation, with the same noise for all walks: high if what comes into view follows the noise alone
    """
    config = world.config
    keys = [frozenset(action) for action in walks.actions]
    ahead = controls_to_c2w(keys, step=config.move_units, degrees=config.yaw_degrees)
    made = {
        "planned": generate(world, walks.planned, poses_of(walks.planned), seed),
        "straight": generate(world, walks.straight, np.broadcast_to(ahead, (len(walks.straight), *ahead.shape)), seed),
        "away": generate(world, walks.away, poses_of(walks.away), seed),
        "tilted": generate(world, walks.tilted, poses_of(walks.tilted), seed),
    }
    recorded = [through_codec(world.codec, walk.frames, world.device) for walk in walks.planned]
    values = walk_measures(made, walks, recorded, config.intrinsics)
    at = min(SEPARATION_AT[0], ahead.shape[0] - 1)
    cut = ahead[: CODEC_GRID.whole_frames(at + 1)]
    alike = generate(world, walks.straight, np.broadcast_to(cut, (len(walks.straight), *cut.shape)), seed, same_noise=True)
    return values | {"separation_same_noise": separation(alike, len(alike[0]))}, made


def measure_without_cameras(world: WorldModel, walks: Walks, seed: int) -> dict[str, Any]:
    """Returns the measures of the baseline whose camera rays are zeros, on the planned walks."""
    planned = generate(world, walks.planned, poses_of(walks.planned), seed, camera=False)
    return measure_pictures({"planned": planned}, walks, world.config.intrinsics)


def poses_of(walks: list[SeenWalk]) -> Array:
    """Returns the poses of walks of equal length, (B, T, 4, 4)."""
    return np.stack([walk.c2w for walk in walks])


def through_codec(codec: Any, frames: Frames, device: torch.device) -> Frames:
    """Returns frames (T, height, width, 3), T = 4 k + 1, encoded and decoded by a codec on its device."""
    with torch.inference_mode():
        return to_frames(codec.decode(codec.encode(to_video(frames).to(device))))


def pca_codec(config: WorldConfig, game: GameSettings, levels: int = 6, frames: int = 97) -> StreamingCodec:
    """Returns the baseline of every codec: the principal components of patches of training levels, as many as latent channels."""
    rng, patches = np.random.default_rng(0), []
    for name in game_maps()["train"][:levels]:
        with Level(name, game, (config.height, config.width)) as level:
            walk = level.walk(*level.planned(frames, rng))
        patches.append(group_frames(to_video(walk.frames))[0].permute(0, 2, 3, 1).flatten(0, 2))
    codec = StreamingCodec(config.model.latent_channels, hidden=4, blocks=0)
    initialize_from_patches(codec, torch.cat(patches))
    return codec.eval()


def walk_measures(made: dict[str, list[Frames]], walks: Walks, recorded: list[Frames], intrinsics: Any) -> dict[str, Any]:
    """Returns the measures of videos of all three kinds of walk: those of `measure_pictures`, and

    separation_engine_N: as separation_N, of the engine's pictures
    LOOK_N:              of the straight walks before frame N, as a share of `recorded`, the planned walks' pictures through the codec
    drift_LOOK, late_drop: see `drift`
    """
    values = measure_pictures(made, walks, intrinsics)
    engine = [walk.frames for walk in walks.straight]
    values |= {f"separation_engine_{at}": separation(engine, at) for at in SEPARATION_AT if at <= len(walks.actions)}
    reference = looks(np.concatenate(recorded))
    for at in (at for at in LOOKS_AT if at <= len(walks.actions)):
        found = looks(np.concatenate([video[at - AROUND : at] for video in made["straight"]]))
        values |= {f"{name}_{at}": found[name] / reference[name] for name in LOOKS}
    return values | drift(made["straight"])


def measure_pictures(made: dict[str, list[Frames]], walks: Walks, intrinsics: Any = None) -> dict[str, Any]:
    """Returns the measures of videos by kind of walk, of the kinds that there are.

    psnr_N, ssim_N: against the engine over the frames 1 to N - 1 of the planned walks, means over frames
    block_change:   change between pixels at the borders of the codec's blocks of 8, divided by the change inside; of the planned walks
    group_change:   change between frames at the borders of the codec's groups of 4, divided by the change inside
    separation_N:   PSNR in dB between the straight walks over the frames before N, mean over pairs
    return_psnr:    against the engine after looking away and back
    looking:        correlation of degrees upwards in the walks that look up and down; only with intrinsics
    turning, walking, strafing, wrong_turns, rotation_N, translation_N: see `_obedience`; only with intrinsics (4,)
    """
    values: dict[str, Any] = {}
    if "planned" in made:
        pairs = list(zip(made["planned"], walks.planned, strict=True))
        for horizon in (at for at in HORIZONS if at <= len(walks.planned[0].frames)):
            values[f"psnr_{horizon}"] = float(np.mean([_psnr_of_frames(video[1:horizon], walk.frames[1:horizon]) for video, walk in pairs]))
            values[f"ssim_{horizon}"] = float(np.mean([_ssim(video[1:horizon:4], walk.frames[1:horizon:4]) for video, walk in pairs]))
        values |= {name: of(made["planned"]) for name, of in CODEC_MARKS.items()}
        if intrinsics is not None:
            values |= _obedience(pairs, np.asarray(intrinsics, dtype=np.float64))
    if "straight" in made:
        values |= {f"separation_{at}": separation(made["straight"], at) for at in SEPARATION_AT if at <= len(walks.actions)}
    if "tilted" in made and intrinsics is not None:
        found = np.concatenate([pitch_motion(video, intrinsics) for video in made["tilted"]])
        values["looking"] = correlation(found, np.concatenate([commanded_pitch(walk.c2w) for walk in walks.tilted]))
    if "away" in made:
        back = len(walks.away[0].frames) // 4 * 3 + 1  # the last quarter looks at the first picture again
        returns = [_psnr_of_frames(video[back:], walk.frames[back:]) for video, walk in zip(made["away"], walks.away, strict=True)]
        values["return_psnr"] = float(np.mean(returns))
    return values


def block_change(videos: list[Frames], block: int = CODEC_GRID.spatial) -> float | None:
    """Returns the change at block borders divided by that inside blocks, over both directions; near 1 without blocks, None without detail."""
    border, inside = [], []
    for video in videos:
        for axis in (1, 2):
            change = np.abs(np.diff(video.astype(np.int16), axis=axis)).mean(axis=tuple({0, 1, 2, 3} - {axis}))
            at = np.arange(1, len(change) + 1) % block == 0
            border.append(change[at].mean())
            inside.append(change[~at].mean())
    return float(np.mean(border) / np.mean(inside)) if np.any(inside) else None


def group_change(videos: list[Frames], group: int = CODEC_GRID.temporal) -> float | None:
    """Returns the change between groups of frames divided by that inside groups; None for stills. The first frame is a group alone."""
    change = np.stack([np.abs(np.diff(video[1:].astype(np.int16), axis=0)).mean(axis=(1, 2, 3)) for video in videos])
    at = np.arange(1, change.shape[1] + 1) % group == 0
    return float(change[:, at].mean() / change[:, ~at].mean()) if change[:, ~at].any() else None


CODEC_MARKS = {"block_change": block_change, "group_change": group_change}


def warped(walk: SeenWalk, intrinsics: Any) -> Frames:
    """Returns the baseline with the true depth: each frame looks up its points in the first frame; what it did not show is smeared."""
    height, width = walk.frames.shape[1:3]
    focal, centre = np.asarray(intrinsics)[:2] * (width, height), np.asarray(intrinsics)[2:] * (width, height) - 0.5
    rays = (np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1) - centre) / focal
    rays = np.concatenate([rays, np.ones_like(rays[..., :1])], axis=-1)
    frames = []
    for pose, depth in zip(walk.c2w, walk.depth, strict=True):
        points = (rays * depth[..., None]) @ pose[:3, :3].T + pose[:3, 3]
        at = (points[..., :2] / np.maximum(points[..., 2:], NEAR) * focal + centre).astype(np.float32)
        frames.append(cv2.remap(walk.frames[0], at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
    return np.stack(frames)


def _obedience(pairs: list[tuple[Frames, SeenWalk]], intrinsics: Array) -> dict[str, Any]:
    """Returns how the motion in videos, by optical flow and the engine's depth, follows the commanded one, per latent frame.

    turning, walking, strafing:  correlations of degrees right, of steps ahead and aside, of steps aside
    wrong_turns, wrong_turns_of: share of clear turns that appear in the opposite direction, and the number of clear turns
    rotation_N, translation_N:   mean distance of the accumulated poses over the frames before N, degrees and model units (R_dist, T_dist)
    """
    found, commanded = [], []
    for video, walk in pairs:
        depth = np.stack([cv2.resize(frame, GRID[::-1], interpolation=cv2.INTER_NEAREST) for frame in walk.depth])
        found.append(camera_motion(video, intrinsics, depth))
        commanded.append(commanded_motion(walk.c2w))
    made, asked = np.concatenate(found), np.concatenate(commanded)
    scores = follows(made, asked)
    values: dict[str, Any] = {
        "turning": scores["turning_correlation"],
        "walking": scores["walking_correlation"],
        "strafing": correlation(made[:, 2], asked[:, 2]),
        "wrong_turns": scores["swapped_turns"],
        "wrong_turns_of": int((np.abs(asked[:, 0]) >= CLEAR_TURN).sum()),
    }
    for horizon in (at for at in HORIZONS if at <= len(pairs[0][0])):
        steps = (horizon - 1) // STRIDE
        apart = [_pose_distance(one[:steps], other[:steps]) for one, other in zip(found, commanded, strict=True)]
        values[f"rotation_{horizon}"], values[f"translation_{horizon}"] = (float(value) for value in np.mean(apart, axis=0))
    return values


def _pose_distance(made: Array, asked: Array) -> tuple[float, float]:
    """Returns the mean distance, degrees and model units, of the poses that motions (F, 3) of `camera_motion` add up to."""
    paths = []
    for motion in (made, asked):
        pose, path = np.eye(4), []
        for step in motion_poses(motion):
            pose = pose @ step
            path.append(pose)
        paths.append(np.stack(path))
    turned = se3.rotation_angle_degrees(np.swapaxes(paths[0][:, :3, :3], 1, 2) @ paths[1][:, :3, :3])
    return float(turned.mean()), float(np.linalg.norm(paths[0][:, :3, 3] - paths[1][:, :3, 3], axis=1).mean())


def _psnr_of_frames(made: Frames, truth: Frames) -> float:
    """Returns the mean over frames of the PSNR in dB."""
    errors = np.square((made.astype(np.float64) - truth) / 255).mean(axis=(1, 2, 3))
    return float(np.mean([psnr(float(error)) for error in errors]))


def _ssim(made: Frames, truth: Frames) -> float:
    from skimage.metrics import structural_similarity

    return float(np.mean([structural_similarity(a, b, channel_axis=-1) for a, b in zip(made, truth, strict=True)]))
