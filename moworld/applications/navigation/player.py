"""The engine's player, moved by its own buttons: what a plan really leads to. Walls, stairs, lifts and inertia are the engine's.

A frame lasts two of the engine's tics of 1/35 s. In each the thrust is chosen that leads to the step of the keys, as far as the buttons
can: the player speeds up and slows down over about four tics.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moworld.camera import se3
from moworld.camera.cameras import resize_to_cover
from moworld.data.game import ACTIONS_PER_UNIT, FULL_SPEED, Engine
from moworld.data.game_camera import engine_c2w
from moworld.data.game_walks import Place

Frames = NDArray[np.uint8]
Array = NDArray[np.float64]
TICS = 2  # of a frame
FRICTION = 0.90625  # share of the speed that is left in the next tic
THRUST = 1 / 32  # map units a tic, for each unit of a movement button


@dataclass(frozen=True, eq=False)
class Seen:
    """What an agent has seen: frames (T, H, W, 3) uint8, their poses (T, 4, 4) relative to the first in model units, places (T, 3)."""

    frames: Frames
    c2w: Array
    places: Array

    @property
    def place(self) -> Place:
        """Where the player is now: x east, y north, degrees from east to north."""
        x, y, angle = self.places[-1].tolist()
        return x, y, angle


class Player:
    """The player of an engine that is open. `begin` places it; `hold` holds keys, one set for each frame."""

    def __init__(self, engine: Engine, size_hw: tuple[int, int]) -> None:
        self.engine, self.size_hw, self.settings = engine, size_hw, engine.settings
        self._frames: list[Frames] = []
        self._poses: list[Array] = []
        self._moved = np.zeros(2)  # map units of the last tic

    @property
    def ended(self) -> bool:
        """Whether the level has ended, as behind its exit."""
        return bool(self.engine.game.is_episode_finished())

    @property
    def seen(self) -> Seen:
        poses = np.stack(self._poses)
        c2w = np.stack([engine_c2w(*pose[:5]) for pose in poses])
        relative = se3.invert(c2w[0]) @ c2w
        relative[:, :3, 3] /= self.settings.units_per_frame * ACTIONS_PER_UNIT
        return Seen(np.stack(self._frames), relative, poses[:, [0, 1, 3]])

    def begin(self, start: Place) -> Seen:
        """Opens the level again and places the player at rest."""
        self.engine.restart()
        self._frames, self._poses, self._moved = [], [], np.zeros(2)
        self._see(self.engine.render(*start))
        return self.seen

    def hold(self, keys: Sequence[str]) -> Seen:
        """Holds each set of keys for a frame; returns all that was seen since `begin`. A level that has ended shows nothing more."""
        for held in keys:
            for _ in range(TICS):
                if self.ended:
                    return self.seen
                self._tic(held)
            if not self.ended:
                self._see(self.engine.game.get_state())
        return self.seen

    def _tic(self, keys: str) -> None:
        before = self.engine.pose()
        turn = self.settings.yaw_degrees_per_frame / TICS * (("l" in keys) - ("j" in keys))
        ahead = np.radians(before[3] - turn)
        axes = np.array([[np.cos(ahead), np.sin(ahead)], [np.sin(ahead), -np.cos(ahead)]])  # ahead, right
        step = self.settings.units_per_frame / TICS * np.array([("w" in keys) - ("s" in keys), ("d" in keys) - ("a" in keys)])
        thrust = (step - FRICTION * axes @ self._moved) / THRUST
        self.engine.push(turn, *np.clip(thrust, -FULL_SPEED, FULL_SPEED).tolist())
        self._moved = np.zeros(2) if self.ended else self.engine.pose()[:2] - before[:2]

    def _see(self, state: Any) -> None:
        self._frames.append(resize_to_cover(self.engine.image(state), self.size_hw))
        self._poses.append(np.array(state.game_variables, dtype=np.float64))
