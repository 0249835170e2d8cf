"""Records game scenes with exact camera, depth and actions (paper 2: game-scene data for explicit control and geometry).

The engine (ViZDoom with the Freedoom levels of its wheel, headless, no monsters) is a renderer here: a walk is planned on the
level's geometry (game_map.py), then every frame is rendered at its planned pose and stored with the pose the engine reports.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from moworld.camera import Cameras, se3
from moworld.camera.formats import write_realestate10k
from moworld.data.clips import Clip, carry
from moworld.data.game_map import GameMap, Plan, Walker
from moworld.errors import InputError
from moworld.files import atomic_folder, read_json, sha256_file, write_json
from moworld.settings import Settings
from moworld.video import Frames, write_video

ACTIONS_PER_UNIT = 54  # a walking step is 1/54 model unit, the published keyboard step
PIXEL_ASPECT = 1.2  # the engine draws pixels 1.2 times as tall as wide, so fy = 1.2 fx in pixels
DEPTH_UNITS, DEPTH_OFFSET = 7.3, 8.0  # map units a level of the engine's 8-bit depth, fitted by reprojection
DEPTH_STRIDE = 4
OBJECT_RADIUS = 36.0  # far enough from anything that could be picked up
SAMPLE_EVERY = 16
PLANS_PER_START = 4
SCHEDULE = (
    "train_maps",
    "validation_maps",
    "held_out_maps",
    "train_episodes_per_map",
    "other_episodes_per_map",
    "workers",
)  # no episode's business
SETTLE_TICS = 2  # after a warp the engine's view height needs two tics to come back to the eye's

Array = NDArray[np.float64]


class GameSettings(Settings):
    """What is recorded: levels of the three splits, episodes of each, sizes and speeds."""

    train_maps: tuple[str, ...] = ("MAP01",)
    validation_maps: tuple[str, ...] = ()
    held_out_maps: tuple[str, ...] = ()
    train_episodes_per_map: int = Field(2, ge=1)
    other_episodes_per_map: int = Field(1, ge=1)
    frames_per_episode: int = Field(289, ge=5)
    width: int = 320
    height: int = 240
    fps: float = Field(17.5, gt=0)
    units_per_frame: float = Field(10.0, ge=4, le=24)
    yaw_degrees_per_frame: float = Field(3.0, gt=0, le=15)
    min_stretch_frames: int = Field(8, ge=1)
    max_stretch_frames: int = Field(30, ge=1)
    min_brightness: float = Field(64.0, ge=0, le=255)
    min_texture: float = Field(5.0, ge=0)
    gamma: float = Field(1.7, gt=0)
    attempts: int = Field(80, ge=1)
    crf: int = Field(18, ge=0, le=51)
    workers: int = Field(2, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> "GameSettings":
        maps = [*self.train_maps, *self.validation_maps, *self.held_out_maps]
        twice = sorted({name for name in maps if maps.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands in two splits or twice in one")
        if self.frames_per_episode % 4 != 1:
            raise ValueError(f"frames_per_episode is {self.frames_per_episode}, wanted 4k + 1")
        if self.max_stretch_frames < self.min_stretch_frames:
            raise ValueError("max_stretch_frames is below min_stretch_frames")
        return self

    def episodes(self) -> list[tuple[str, str, int]]:
        """Split, map and number of episodes of every level."""
        splits = (("train", self.train_maps), ("validation", self.validation_maps), ("held_out", self.held_out_maps))
        count = {"train": self.train_episodes_per_map}
        return [(split, name, count.get(split, self.other_episodes_per_map)) for split, maps in splits for name in maps]


@dataclass(frozen=True)
class Episode:
    """What one walk gave: frames (T, H, W, 3), poses (T, 4, 4) c2w in map units, depth (T, h, w) uint16 in map units, actions, facts."""

    frames: Frames
    c2w: Array
    depth: NDArray[np.uint16]
    actions: list[str]
    facts: dict[str, Any]


def record_game(folder: Path, settings: GameSettings, seed: int, kept: Path | None = None) -> tuple[list[Clip], dict[str, Any]]:
    """Record every episode of the settings into a clips folder; returns its rows and a summary. Deterministic in the seed.

    kept: folder of episodes that were recorded before, read and added to, so that a recording that was killed goes on with the episode
    it was at; None keeps none
    A level that holds fewer good walks than were asked for gives those it has; the summary's `missing` counts the others.
    Raises InputError for a level that does not exist, a size that the engine does not draw, and a level where no attempt succeeds.
    """
    from tqdm import tqdm

    for _, name, _ in settings.episodes():
        wad_of(name)
    clips: list[Clip] = []
    walks: dict[str, Any] = {}
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".recorded-") as own:
        store = Path(kept or own) / _key(settings, seed)
        tasks = [(store, settings, seed, split, name, count) for split, name, count in settings.episodes()]
        with tqdm(total=sum(task[-1] for task in tasks), desc="recording", unit="episode", disable=None) as bar:
            for rows, measured in _in_processes(tasks, settings.workers):
                for clip in rows:
                    carry(clip, store / clip.clip_id, folder)
                clips += rows
                walks |= measured
                bar.update(len(rows))
    missing = {
        name: count - found for _, name, count in settings.episodes() if (found := sum(clip.scene == name for clip in clips)) < count
    }
    return clips, {"episodes": len(clips), "frames": sum(clip.num_frames for clip in clips), "missing": missing, "walks": walks}


def _key(settings: GameSettings, seed: int) -> str:
    """Names all that an episode depends on beside its level and its number."""
    told = settings.model_dump(mode="json", exclude={*SCHEDULE})
    return hashlib.sha256(json.dumps([told, seed], sort_keys=True).encode()).hexdigest()[:16]


def _in_processes(tasks: list[Any], workers: int) -> Iterator[tuple[list[Clip], dict[str, Any]]]:
    if workers == 1 or len(tasks) == 1:
        yield from map(_record_map, tasks)
        return
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(_record_map, tasks)
        except InputError:
            pool.shutdown(cancel_futures=True)
            raise


def wad_of(name: str) -> str:
    """The level file that holds a map. Raises InputError for a name that is in none."""
    if re.fullmatch(r"MAP(0[1-9]|[12]\d|3[0-2])", name):
        return "freedoom2.wad"
    if re.fullmatch(r"E[1-4]M[1-9]", name):
        return "freedoom1.wad"
    raise InputError("data.game", "maps", name, "MAP01 to MAP32 or E1M1 to E4M9", "name a level of Freedoom")


def engine_intrinsics(width: int, height: int, fov_degrees: float = 90.0) -> Array:
    """(4,) normalised intrinsics of the engine's picture for a horizontal field of view."""
    fx = 0.5 / np.tan(np.radians(fov_degrees) / 2)
    return np.array([fx, fx * width / height * PIXEL_ASPECT, 0.5, 0.5])


def engine_c2w(x: float, y: float, z: float, angle_degrees: float, pitch_degrees: float = 0.0) -> Array:
    """(4, 4) camera to world of an engine pose; the world has x east, y north, z up, angles count from east to north, pitch downwards."""
    angle, pitch = np.radians(angle_degrees), np.radians(pitch_degrees)
    right = np.array([np.sin(angle), -np.cos(angle), 0.0])
    forward = np.array([np.cos(angle) * np.cos(pitch), np.sin(angle) * np.cos(pitch), -np.sin(pitch)])
    return se3.rigid(np.stack([right, np.cross(forward, right), forward], axis=1), np.array([x, y, z]))


class Engine:
    """A level that is open for recording. Use as a context; `render` draws the view from a place."""

    def __init__(self, name: str, settings: GameSettings, seed: int, *, with_geometry: bool = False) -> None:
        """with_geometry: list sectors and objects with every state, which makes it 3.5 times slower."""
        import vizdoom

        self.settings, wads = settings, Path(vizdoom.__file__).parent
        resolution = getattr(vizdoom.ScreenResolution, f"RES_{settings.width}X{settings.height}", None)
        if resolution is None:
            raise InputError("data.game", "width, height", f"{settings.width}x{settings.height}", "a size the engine draws", "take 320x240")
        self.game = game = vizdoom.DoomGame()
        self.exposure = np.round(255 * (np.arange(256) / 255) ** (1 / settings.gamma)).astype(np.uint8)
        self.scratch = tempfile.TemporaryDirectory(prefix="engine-")
        game.set_doom_config_path(str(Path(self.scratch.name) / "engine.ini"))
        game.set_doom_game_path(str(wads / wad_of(name)))
        game.set_doom_map(name)
        game.set_screen_resolution(resolution)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_depth_buffer_enabled(True)
        game.set_labels_buffer_enabled(True)
        game.set_sectors_info_enabled(with_geometry)
        game.set_objects_info_enabled(with_geometry)
        for part in ("hud", "weapon", "crosshair", "decals", "particles", "messages", "screen_flashes", "effects_sprites"):
            getattr(game, f"set_render_{part}")(False)
        game.set_window_visible(False)
        game.set_sound_enabled(False)
        game.set_seed(seed % 2**31)
        game.set_episode_timeout(0)
        game.add_game_args("+movebob 0 -nomonsters +sv_cheats 1 +pickup_fade_scalar 0 +blood_fade_scalar 0")
        game.add_game_args("+con_midtime 0 +cl_showsecretmessage 0 +wipetype 0")
        game.set_available_buttons([vizdoom.Button.TURN_LEFT_RIGHT_DELTA])
        game.set_button_max_value(vizdoom.Button.TURN_LEFT_RIGHT_DELTA, 0)
        variables = ("POSITION_X", "POSITION_Y", "POSITION_Z", "ANGLE", "PITCH", "FOV")
        game.set_available_game_variables([getattr(vizdoom.GameVariable, f"CAMERA_{variable}") for variable in variables])

    def __enter__(self) -> "Engine":
        self.game.init()
        for _ in range(4):
            self.game.make_action([0.0], 1)  # the first tics swallow actions
        self.game.send_game_command("god")
        self.game.make_action([0.0], 1)
        return self

    def __exit__(self, *_: object) -> None:
        self.game.close()
        self.scratch.cleanup()

    def geometry(self) -> GameMap:
        """The level as the planner sees it (opened with_geometry); every object keeps the player off."""
        state = self.game.get_state()
        own = self.pose()[:2]
        objects = [(thing.position_x, thing.position_y) for thing in state.objects]
        return GameMap(state.sectors, [(x, y, OBJECT_RADIUS) for x, y in objects if np.hypot(x - own[0], y - own[1]) > 1])

    def picture(self, state: Any) -> Frames:
        """(H, W, 3) uint8 of a state, brightened by the settings' gamma: the engine's own gamma is not in its screen buffer."""
        import cv2

        return cv2.LUT(np.ascontiguousarray(state.screen_buffer), self.exposure).astype(np.uint8, copy=False)

    def pose(self) -> Array:
        """x, y, z, angle, pitch, field of view of the camera."""
        return np.array(self.game.get_state().game_variables, dtype=np.float64)

    def render(self, x: float, y: float, angle: float) -> Any:
        """The engine's state seen from a place: the nearest whole map unit (the engine's warp knows no others), this angle."""
        turn = (self.pose()[3] - angle + 180.0) % 360.0 - 180.0
        self.game.send_game_command(f"warp {round(x)} {round(y)}")
        self.game.set_action([turn])
        self.game.advance_action(1, False)
        self.game.set_action([0.0])
        self.game.advance_action(SETTLE_TICS, True)
        return self.game.get_state()


def _record_map(task: tuple[Path, GameSettings, int, str, str, int]) -> tuple[list[Clip], dict[str, Any]]:
    """Episodes of one level, each in a folder of its own in the store: complete or not there."""
    store, settings, seed, split, name, count = task
    clips: list[Clip] = []
    measured: dict[str, Any] = {}
    geometry: GameMap | None = None
    for number in range(count):
        clip_id = f"{name.lower()}-{number:02d}"
        told = store / clip_id / "episode.json"
        if not told.is_file():
            if geometry is None:
                with Engine(name, settings, seed, with_geometry=True) as engine:
                    geometry = engine.geometry()
            try:
                _record(store / clip_id, geometry, settings, np.random.default_rng([seed, *name.encode(), number]), seed, name)
            except InputError:
                if not clips:
                    raise
                break  # a level may hold fewer good walks than were asked for
        episode = read_json(told)
        clips.append(Clip(**episode["clip"] | {"split": split}))
        measured[clip_id] = episode["measured"]
    return clips, measured


def _record(target: Path, geometry: GameMap, settings: GameSettings, rng: np.random.Generator, seed: int, name: str) -> None:
    """One episode in an engine of its own: what moves on a level goes by the engine's clock, and so depends on nothing that came before."""
    with Engine(name, settings, seed) as engine:
        episode, refused = _attempts(engine, geometry, settings, rng, name)
    with atomic_folder(target) as folder:
        clip = _store(folder, target.name, name, "", settings, episode)
        write_json(folder / "episode.json", {"clip": asdict(clip), "measured": measure(episode) | {"refused_attempts": refused}})


def _attempts(
    engine: Engine, geometry: GameMap, settings: GameSettings, rng: np.random.Generator, name: str
) -> tuple[Episode, dict[str, int]]:
    """The first walk that is bright, textured and went as planned, and what was refused before it."""
    stretch = (settings.min_stretch_frames, settings.max_stretch_frames)
    walker = Walker(geometry, settings.units_per_frame, settings.yaw_degrees_per_frame, stretch_frames=stretch)
    refused = {"dark": 0, "bare": 0, "narrow": 0, "stuck": 0}
    for start in geometry.starts(rng, settings.attempts, walker.body_units):
        reason = _refusal(engine.picture(engine.render(*start))[None], settings)
        tries = 0 if reason else PLANS_PER_START
        plan = next(filter(None, (walker.plan(start, settings.frames_per_episode, rng) for _ in range(tries))), None)
        if plan is None:
            refused[reason or "narrow"] += 1
            continue
        samples = np.stack([engine.picture(engine.render(*place)) for place in plan.track[::SAMPLE_EVERY]])
        reason = _refusal(samples, settings)  # a look at some places of the walk costs little beside the walk
        episode = None if reason else _walk(engine, plan, settings)
        if episode is not None and not (reason := _refusal(episode.frames[::8], settings)):
            return episode, refused
        refused[reason or "stuck"] += 1
    counts = ", ".join(f"{count} {reason}" for reason, count in refused.items() if count) or "no open place"
    raise InputError("data.game", name, f"no good walk ({counts})", "a bright, open level", "take another level, or more attempts")


def _refusal(frames: Frames, settings: GameSettings) -> str:
    """Why frames (T, H, W, 3) are not wanted: "dark", "bare" (a wall fills the view), or "" when they are."""
    grey = frames[:, ::4, ::4].mean(axis=-1)
    if np.mean(grey.mean(axis=(1, 2)) < settings.min_brightness) > 0.2:
        return "dark"
    return "bare" if np.mean(grey.std(axis=(1, 2)) < settings.min_texture) > 0.05 else ""


def _walk(engine: Engine, plan: Plan, settings: GameSettings) -> Episode | None:
    """Render a plan; None when the engine refused a place or the camera jumped."""
    frames, poses, depth, objects = list[Frames](), list[Array](), list[Any](), dict[str, float]()
    for x, y, angle in plan.track:
        state = engine.render(x, y, angle)
        pose = np.array(state.game_variables, dtype=np.float64)
        if np.hypot(pose[0] - x, pose[1] - y) > 1.0 or (poses and abs(pose[2] - poses[-1][2]) > settings.units_per_frame):
            return None
        frames.append(engine.picture(state))
        levels = np.asarray(state.depth_buffer)[DEPTH_STRIDE // 2 :: DEPTH_STRIDE, DEPTH_STRIDE // 2 :: DEPTH_STRIDE]
        depth.append(np.round(levels * DEPTH_UNITS + DEPTH_OFFSET).astype(np.uint16))
        poses.append(pose)
        for label in state.labels:
            if label.object_name != "DoomPlayer":
                area = label.width * label.height / (settings.width * settings.height)
                objects[label.object_name] = objects.get(label.object_name, 0.0) + area / len(plan.track)
    stack, depths = np.stack(frames), np.stack(depth)
    facts = {
        "engine": "ViZDoom",
        "objects": {name: round(share, 5) for name, share in sorted(objects.items()) if share >= 0.0005},
        "brightness": round(float(stack[::8].mean()), 2),
        "mean_rgb": [round(float(value), 1) for value in stack[::8].mean(axis=(0, 1, 2))],
        "median_depth_units": float(np.median(depths[::8])),
    }
    return Episode(stack, np.stack([engine_c2w(*pose[:5]) for pose in poses]), depths, plan.actions, facts)


def _store(folder: Path, clip_id: str, name: str, split: str, settings: GameSettings, episode: Episode) -> Clip:
    """Write an episode's files into the clips folder; the row that points to them."""
    height, width = episode.frames.shape[1:3]
    clip = Clip(clip_id, "game", name, split, len(episode.frames), settings.fps, height, width, f"videos/{clip_id}.mp4", "")
    write_video(folder / clip.video, episode.frames, settings.fps, settings.crf)
    paths: dict[str, Any] = {"camera": f"cameras/{clip_id}.txt", "depth": f"depth/{clip_id}.npz"}
    paths |= {"actions": f"actions/{clip_id}.json", "scene_facts": f"scenes/{clip_id}.json"}
    cameras = Cameras.from_c2w(engine_intrinsics(width, height), episode.c2w)
    write_realestate10k(folder / paths["camera"], cameras, url=f"vizdoom://{wad_of(name)}/{name}", fps=settings.fps)
    (folder / "depth").mkdir(exist_ok=True)
    np.savez_compressed(folder / paths["depth"], depth=episode.depth)
    write_json(folder / paths["actions"], episode.actions)
    write_json(folder / paths["scene_facts"], episode.facts | {"map": name, "wad": wad_of(name)})
    hashes: dict[str, Any] = {"video_sha256": sha256_file(folder / clip.video), "camera_sha256": sha256_file(folder / paths["camera"])}
    scale = settings.units_per_frame * ACTIONS_PER_UNIT
    return replace(clip, camera_origin="engine", translation_scale=scale, **paths, **hashes)


def measure(episode: Episode) -> dict[str, float]:
    """What a walk covers: path in map units, places and turns, share of frames that see an earlier place again, brightness."""
    centres = episode.c2w[:, :3, 3]
    heading = np.degrees(np.arctan2(episode.c2w[:, 1, 2], episode.c2w[:, 0, 2])) % 360
    places = list(zip((centres[:, 0] // 96).tolist(), (centres[:, 1] // 96).tolist(), (heading // 30).tolist(), strict=True))
    again = [place in places[: max(0, index - 24)] for index, place in enumerate(places)]
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    return {
        "path_units": round(float(steps.sum()), 1),
        "moving_share": round(float((steps > 1).mean()), 3),
        "places": float(len({place[:2] for place in places})),
        "turned_degrees": round(float(se3.rotation_steps_degrees(episode.c2w).sum()), 1),
        "revisited_share": round(float(np.mean(again)), 3),
        "brightness": round(float(episode.frames[::8].mean()), 2),
    }
