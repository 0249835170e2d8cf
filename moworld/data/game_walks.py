"""Pictures of a level along given keys: the truth for a model that walks there. Walls and high stairs stop the player, who slides along them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moworld.camera import se3
from moworld.camera.cameras import cover_crop, resize_to_cover
from moworld.data.game import ACTIONS_PER_UNIT, Engine, refusal
from moworld.data.game_camera import engine_c2w, looks_of
from moworld.data.game_map import GameMap, Walker
from moworld.data.settings import GameSettings
from moworld.errors import InputError

Array = NDArray[np.float64]
Place = tuple[float, float, float]  # x east and y north in map units, degrees from east to north


@dataclass(frozen=True)
class SeenWalk:
    """What the engine shows along a walk.

    frames: (T, height, width, 3) uint8 at the model's size
    c2w:    (T, 4, 4) OpenCV poses relative to the first frame, in model units
    depth:  (T, height, width) float32 distances along the view axis in model units; no frame of walks with `look_share` in the settings
    """

    name: str
    frames: NDArray[np.uint8]
    c2w: Array
    depth: NDArray[np.float32]


class Level:
    """A level opened for walks at the model's size, used as a context manager; what it draws depends on the seed of its start only."""

    def __init__(self, name: str, settings: GameSettings, size_hw: tuple[int, int]) -> None:
        self.name, self.settings, self.size_hw = name, settings, size_hw
        with Engine(name, settings, 0, with_geometry=True) as engine:
            self.geometry: GameMap = engine.geometry()
        self.walker = Walker(self.geometry, settings.units_per_frame, settings.yaw_degrees_per_frame)
        self.engine = Engine(name, settings, 0)

    def __enter__(self) -> "Level":
        self.engine.__enter__()
        return self

    def __exit__(self, *reason: object) -> None:
        self.engine.__exit__(*reason)

    def start(self, rng: np.random.Generator) -> Place:
        """Returns a random open place whose picture is bright and textured. Raises InputError if there is none."""
        for place in self.geometry.starts(rng, self.settings.attempts, self.walker.body_units):
            if not refusal(self.engine.image(self.engine.render(*place))[None], self.settings):
                return place
        raise InputError("data.game", self.name, "no bright, textured place", "an open level", "choose another level")

    def planned(self, num_frames: int, rng: np.random.Generator) -> tuple[Place, list[str]]:
        """Returns start and keys of a walk that no wall stops. Raises InputError if none was found."""
        for _ in range(self.settings.attempts):
            start = self.start(rng)
            if plan := self.walker.plan(start, num_frames, rng):
                return start, plan.actions
        raise InputError("data.game", self.name, "no walk of this length", "an open level", "choose another level")

    def walk(self, start: Place, actions: list[str]) -> SeenWalk:
        """Returns the T + 1 frames of T actions from a start."""
        return self.views(self.follow(start, actions), looks_of(actions, self.settings.yaw_degrees_per_frame))

    def views(self, places: list[Place], looks: Sequence[float] | Array = ()) -> SeenWalk:
        """Returns what the engine shows at places, poses relative to the first; looks: degrees upwards at each, () for level views."""
        frames, depth, poses = [], [], []
        for place, up in zip(places, looks if len(looks) else np.zeros(len(places)), strict=True):
            state = self.engine.render(*place, up)
            frames.append(resize_to_cover(self.engine.image(state), self.size_hw))
            if not self.settings.look_share:
                depth.append(self._depth(self.engine.depth(state)))
            poses.append(engine_c2w(*np.array(state.game_variables, dtype=np.float64)[:5]))
        c2w = np.stack(poses)
        relative = se3.invert(c2w[0]) @ c2w
        relative[:, :3, 3] /= self.settings.units_per_frame * ACTIONS_PER_UNIT
        return SeenWalk(self.name, np.stack(frames), relative, np.stack(depth) if depth else np.zeros((0, *self.size_hw), np.float32))

    def follow(self, start: Place, actions: list[str]) -> list[Place]:
        """Returns the places along the keys, T + 1 of them; a step that the body cannot make is made along one axis, or not at all."""
        places = [np.array(start, dtype=np.float64)]
        for action in actions:
            (there,) = self.walker.move(places[-1], [action])
            here = places[-1]
            tries = (there, np.array([there[0], here[1], there[2]]), np.array([here[0], there[1], there[2]]))
            stays = np.array([here[0], here[1], there[2]])
            places.append(next((place for place in tries if self.passable(here, place)), stays))
        return [(float(x), float(y), float(angle)) for x, y, angle in places]

    def passable(self, here: Array, there: Array) -> bool:
        """Returns whether the body can go straight from one place (x, y, ...) to another."""
        points = np.linspace(here[:2], there[:2], 5)
        clear = self.geometry.at(self.geometry.clearance, *points.T).min() >= self.walker.body_units / 2
        floor = self.geometry.at(self.geometry.floor, *points.T)
        return bool(clear and np.abs(np.diff(floor)).max() <= self.walker.stair_units)

    def _depth(self, units: Array) -> NDArray[np.float32]:
        """Returns the engine's depth (H, W) in map units at the centres of the model's pixels, in model units."""
        x0, y0, x1, y1 = cover_crop(units.shape, self.size_hw)
        rows, columns = (
            (low + (high - low) * (np.arange(size) + 0.5) / size) * extent
            for low, high, size, extent in zip((y0, x0), (y1, x1), self.size_hw, units.shape, strict=True)
        )
        return (units[rows.astype(int)][:, columns.astype(int)] / (self.settings.units_per_frame * ACTIONS_PER_UNIT)).astype(np.float32)
