"""Records game scenes with exact camera, depth and actions (paper 2: game-scene data for explicit control and geometry).

The engine (ViZDoom with the Freedoom levels of its wheel, headless, no monsters) is used as a renderer: a walk is planned on the level's
geometry (game_map.py), then every frame is rendered at its planned pose and stored with the pose that the engine reports.
"""

import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from moworld.camera import Cameras, se3
from moworld.cpus import available_cpus
from moworld.data.clips import Clip, clip_of, link_files, with_cameras
from moworld.data.game_camera import WIDE_FOV, engine_c2w, engine_intrinsics, looks_of, pitched_picture
from moworld.data.game_map import GameMap, Plan, Walker
from moworld.data.settings import GameSettings
from moworld.errors import InputError
from moworld.files import atomic_folder, read_json, sha256_file, write_json
from moworld.video import Frames, write_video

ACTIONS_PER_UNIT = 54  # a walking step is 1/54 model unit, the published keyboard step
DEPTH_UNITS, DEPTH_OFFSET = 7.3, 8.0  # map units per level of the engine's 8-bit depth, fitted by reprojection
DEPTH_STRIDE = 4
OBJECT_RADIUS = 36.0  # map units: keeps walks away from items that would be picked up
SAMPLE_EVERY = 16
PLANS_PER_START = 4
MAPS = ("train_maps", "validation_maps", "held_out_maps")
SCHEDULE = (*MAPS, "train_episodes_per_map", "other_episodes_per_map", "workers")  # settings that do not change an episode
FOV_TICS = 10  # the field of view changes gradually
FULL_SPEED = 50.0  # the largest value of a movement button
SETTLE_TICS = 2  # after a warp the engine's view height needs two tics to recover

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Episode:
    """A recorded walk: frames (T, H, W, 3), c2w (T, 4, 4), depth (T, h, w) uint16 in map units if known, actions, scene facts."""

    frames: Frames
    c2w: Array
    depth: NDArray[np.uint16] | None
    actions: list[str]
    facts: dict[str, Any]


def record_game(folder: Path, settings: GameSettings, seed: int, kept: Path | None = None) -> tuple[list[Clip], dict[str, Any]]:
    """Records every episode of the settings into a clips folder; returns its rows and a summary. Deterministic in the seed.

    kept: folder of episodes recorded before, which is read and added to, so that a killed recording resumes; None keeps none
    A level with fewer good walks than requested gives those it has; the summary's `missing` counts the others.
    Raises InputError for an unknown level, a size that the engine does not support, and a level where no attempt succeeds.
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
            for rows, measured in _in_processes(tasks, settings.workers or available_cpus()):
                for clip in rows:
                    link_files(clip, store / clip.clip_id, folder)
                clips += rows
                walks |= measured
                bar.update(len(rows))
    found = Counter(clip.scene for clip in clips)
    missing = {name: count - found[name] for _, name, count in settings.episodes() if found[name] < count}
    return clips, {"episodes": len(clips), "frames": sum(clip.num_frames for clip in clips), "missing": missing, "walks": walks}


def _key(settings: GameSettings, seed: int) -> str:
    """Returns a hash of everything that an episode depends on, except its level and its number."""
    values = settings.model_dump(mode="json", exclude={*SCHEDULE})
    return hashlib.sha256(json.dumps([values, seed], sort_keys=True).encode()).hexdigest()[:16]


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
    """Returns the level file that contains a map; raises InputError for an unknown name."""
    if re.fullmatch(r"MAP(0[1-9]|[12]\d|3[0-2])", name):
        return "freedoom2.wad"
    if re.fullmatch(r"E[1-4]M[1-9]", name):
        return "freedoom1.wad"
    raise InputError("data.game", "maps", name, "MAP01 to MAP32 or E1M1 to E4M9", "name a level of Freedoom")


class Engine:
    """A level opened for recording, used as a context manager; `render` draws the view from a pose."""

    def __init__(self, name: str, settings: GameSettings, seed: int, *, with_geometry: bool = False) -> None:
        """with_geometry: list sectors and objects with every state, which is 3.5 times slower."""
        import vizdoom

        self.settings, self.seed, wads = settings, seed % 2**31, Path(vizdoom.__file__).parent
        resolution = getattr(vizdoom.ScreenResolution, f"RES_{settings.width}X{settings.height}", None)
        if resolution is None:
            found = f"{settings.width}x{settings.height}"
            raise InputError("data.game", "width, height", found, "a size the engine supports", "use 320x240")
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
        game.set_seed(self.seed)
        game.set_episode_timeout(0)
        game.add_game_args("+movebob 0 -nomonsters +sv_cheats 1 +pickup_fade_scalar 0 +blood_fade_scalar 0")
        game.add_game_args("+con_midtime 0 +cl_showsecretmessage 0 +wipetype 0")
        names = ("TURN_LEFT_RIGHT", "LOOK_UP_DOWN", "MOVE_FORWARD_BACKWARD", "MOVE_LEFT_RIGHT")
        buttons = [getattr(vizdoom.Button, f"{name}_DELTA") for name in names]
        game.set_available_buttons(buttons)
        for button in buttons:
            game.set_button_max_value(button, 0)
        variables = ("POSITION_X", "POSITION_Y", "POSITION_Z", "ANGLE", "PITCH", "FOV")
        game.set_available_game_variables([getattr(vizdoom.GameVariable, f"CAMERA_{variable}") for variable in variables])

    def __enter__(self) -> "Engine":
        # The engine makes this directory if it is missing; of several that start at once in a fresh directory, all but one would end.
        Path("_vizdoom").mkdir(exist_ok=True)
        self.game.init()
        self._begin()
        return self

    def restart(self) -> None:
        """Opens the level again: what is drawn afterwards does not depend on what was done before."""
        self.game.set_seed(self.seed)
        self.game.new_episode()
        self._begin()
        x, y, _, angle, *_ = self.pose()
        self.render(x, y, angle)  # the first turn after a start is ignored

    def _begin(self) -> None:
        for _ in range(4):
            self.game.make_action([0.0, 0.0], 1)  # the first tics ignore actions
        self.game.send_game_command("god")
        if self.settings.look_share:
            self.game.send_game_command(f"fov {WIDE_FOV:.0f}")
        self.game.make_action([0.0, 0.0], FOV_TICS if self.settings.look_share else 1)

    def __exit__(self, *_: object) -> None:
        self.game.close()
        self.scratch.cleanup()

    def geometry(self) -> GameMap:
        """Returns the level as the planner sees it (requires with_geometry); every object is an obstacle."""
        state = self.game.get_state()
        own = self.pose()[:2]
        objects = [(thing.position_x, thing.position_y) for thing in state.objects]
        return GameMap(state.sectors, [(x, y, OBJECT_RADIUS) for x, y in objects if np.hypot(x - own[0], y - own[1]) > 1])

    def image(self, state: Any) -> Frames:
        """Returns (H, W, 3) uint8 of a state, brightened by the settings' gamma, because the engine's own gamma is not in its screen buffer."""
        seen = np.asarray(cv2.LUT(np.ascontiguousarray(state.screen_buffer), self.exposure), np.uint8)
        return pitched_picture(seen, _pitch(state)) if self.settings.look_share else seen

    def depth(self, state: Any) -> Array:
        """Returns (H, W) distances along the view axis, in map units, without `look_share` in the settings."""
        return np.asarray(state.depth_buffer, np.float64) * DEPTH_UNITS + DEPTH_OFFSET

    def pose(self) -> Array:
        """Returns x, y, z, angle, pitch, field of view of the camera."""
        return np.array(self.game.get_state().game_variables, dtype=np.float64)

    def render(self, x: float, y: float, angle: float, up: float = 0.0) -> Any:
        """Returns the engine's state at the nearest integer position (the engine's warp supports no others) and these angles.

        angle: degrees, counter-clockwise from east; up: degrees upwards, only with `look_share` in the settings
        """
        pose = self.pose()
        turn = (pose[3] - angle + 180.0) % 360.0 - 180.0
        self.game.send_game_command(f"warp {round(x)} {round(y)}")
        self.game.set_action([turn, pose[4] + up])
        self.game.advance_action(1, False)
        self.game.set_action([0.0, 0.0])
        self.game.advance_action(SETTLE_TICS, True)
        return self.game.get_state()

    def push(self, turn: float, ahead: float, right: float) -> None:
        """Holds the buttons for one tic of 1/35 s: degrees to the right, then thrusts of at most FULL_SPEED along the turned axes."""
        self.game.make_action([turn, 0.0, ahead, right], 1)


def _pitch(state: Any) -> float:
    """Returns the degrees downwards of a state's camera."""
    return float(state.game_variables[4])


def _record_map(task: tuple[Path, GameSettings, int, str, str, int]) -> tuple[list[Clip], dict[str, Any]]:
    """Records the missing episodes of one level, each atomically in its own folder of the store; returns rows and measures of all."""
    store, settings, seed, split, name, count = task
    clips: list[Clip] = []
    measured: dict[str, Any] = {}
    geometry: GameMap | None = None
    for number in range(count):
        clip_id = f"{name.lower()}-{number:02d}"
        record = store / clip_id / "episode.json"
        if not record.is_file():
            if geometry is None:
                with Engine(name, settings, seed, with_geometry=True) as engine:
                    geometry = engine.geometry()
            try:
                _record(store / clip_id, geometry, settings, np.random.default_rng([seed, *name.encode(), number]), seed, name)
            except InputError:
                if not clips:
                    raise
                break  # fewer good walks than requested
        episode = read_json(record)
        clips.append(clip_of(episode["clip"] | {"split": split}))
        measured[clip_id] = episode["measured"]
    return clips, measured


def _record(target: Path, geometry: GameMap, settings: GameSettings, rng: np.random.Generator, seed: int, name: str) -> None:
    """Records one episode in its own engine, because moving parts of a level depend on the engine's clock."""
    with Engine(name, settings, seed) as engine:
        episode, refused = _attempts(engine, geometry, settings, rng, name)
    with atomic_folder(target) as folder:
        clip = _store(folder, target.name, name, settings, episode)
        write_json(folder / "episode.json", {"clip": asdict(clip), "measured": measure(episode) | {"refused_attempts": refused}})


def _attempts(
    engine: Engine, geometry: GameMap, settings: GameSettings, rng: np.random.Generator, name: str
) -> tuple[Episode, dict[str, int]]:
    """Returns the first walk that is bright, textured and went as planned, and counts of the rejected attempts before it."""
    stretch = (settings.min_stretch_frames, settings.max_stretch_frames)
    speeds = (settings.units_per_frame, settings.yaw_degrees_per_frame)
    walker = Walker(geometry, *speeds, stretch_frames=stretch, look_share=settings.look_share)
    refused = {"dark": 0, "bare": 0, "narrow": 0, "stuck": 0}
    for start in geometry.starts(rng, settings.attempts, walker.body_units):
        reason = refusal(engine.image(engine.render(*start))[None], settings)
        tries = 0 if reason else PLANS_PER_START
        plan = next(filter(None, (walker.plan(start, settings.frames_per_episode, rng) for _ in range(tries))), None)
        if plan is None:
            refused[reason or "narrow"] += 1
            continue
        samples = np.stack([engine.image(engine.render(*place)) for place in plan.track[::SAMPLE_EVERY]])
        reason = refusal(samples, settings)  # sampling some places costs little compared with the walk
        episode = None if reason else _walk(engine, plan, settings)
        if episode is not None and not (reason := refusal(episode.frames[::8], settings)):
            return episode, refused
        refused[reason or "stuck"] += 1
    counts = ", ".join(f"{count} {reason}" for reason, count in refused.items() if count) or "no open place"
    raise InputError("data.game", name, f"no good walk ({counts})", "a bright, open level", "choose another level, or more attempts")


def refusal(frames: Frames, settings: GameSettings) -> str:
    """Returns why frames (T, H, W, 3) are rejected: "dark", "bare" (a wall fills the view), or "" if they are not."""
    grey = frames[:, ::4, ::4].mean(axis=-1)
    if np.mean(grey.mean(axis=(1, 2)) < settings.min_brightness) > 0.2:
        return "dark"
    return "bare" if np.mean(grey.std(axis=(1, 2)) < settings.min_texture) > 0.05 else ""


def _walk(engine: Engine, plan: Plan, settings: GameSettings) -> Episode | None:
    """Renders a plan; returns None if the engine refused a position or the camera jumped."""
    frames, poses, depth, objects = list[Frames](), list[Array](), list[Any](), dict[str, float]()
    for (x, y, angle), up in zip(plan.track, looks_of(plan.actions, settings.yaw_degrees_per_frame), strict=True):
        state = engine.render(x, y, angle, up)
        pose = np.array(state.game_variables, dtype=np.float64)
        if np.hypot(pose[0] - x, pose[1] - y) > 1.0 or (poses and abs(pose[2] - poses[-1][2]) > settings.units_per_frame):
            return None
        frames.append(engine.image(state))
        if not settings.look_share:
            units = engine.depth(state)[DEPTH_STRIDE // 2 :: DEPTH_STRIDE, DEPTH_STRIDE // 2 :: DEPTH_STRIDE]
            depth.append(np.round(units).astype(np.uint16))
        poses.append(pose)
        for label in state.labels:
            if label.object_name != "DoomPlayer":
                area = label.width * label.height / (settings.width * settings.height)
                objects[label.object_name] = objects.get(label.object_name, 0.0) + area / len(plan.track)
    stack, depths = np.stack(frames), np.stack(depth) if depth else None
    facts = {
        "engine": "ViZDoom",
        "objects": {name: round(share, 5) for name, share in sorted(objects.items()) if share >= 0.0005},
        "brightness": round(float(stack[::8].mean()), 2),
        "mean_rgb": [round(float(value), 1) for value in stack[::8].mean(axis=(0, 1, 2))],
    }
    if depths is not None:
        facts["median_depth_units"] = float(np.median(depths[::8]))
    return Episode(stack, np.stack([engine_c2w(*pose[:5]) for pose in poses]), depths, plan.actions, facts)


def _store(folder: Path, clip_id: str, name: str, settings: GameSettings, episode: Episode) -> Clip:
    """Writes an episode's files into the clips folder; returns its row, still without a split."""
    height, width = episode.frames.shape[1:3]
    clip = Clip(clip_id, "game", name, "", len(episode.frames), settings.fps, height, width, f"videos/{clip_id}.mp4", "")
    write_video(folder / clip.video, episode.frames, settings.fps, settings.crf)
    paths: dict[str, Any] = {"actions": f"actions/{clip_id}.json", "scene_facts": f"scenes/{clip_id}.json"}
    cameras = Cameras.from_c2w(engine_intrinsics(width, height), episode.c2w)
    clip = with_cameras(clip, folder, cameras, f"vizdoom://{wad_of(name)}/{name}", camera_origin="engine")
    if episode.depth is not None:
        paths["depth"] = f"depth/{clip_id}.npz"
        (folder / "depth").mkdir(exist_ok=True)
        np.savez_compressed(folder / paths["depth"], depth=episode.depth)
    write_json(folder / paths["actions"], episode.actions)
    write_json(folder / paths["scene_facts"], episode.facts | {"map": name, "wad": wad_of(name)})
    scale = settings.units_per_frame * ACTIONS_PER_UNIT
    return replace(clip, video_sha256=sha256_file(folder / clip.video), translation_scale=scale, **paths)


def measure(episode: Episode) -> dict[str, float]:
    """Returns measures of a walk: path in map units, number of places, turns, share of frames that revisit a place, brightness."""
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
