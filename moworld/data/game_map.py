"""Walkable and visible space of a game level, and a planner of smooth walks on it (paper 2, game-scene data).

The engine's sector geometry becomes a grid with heights and clearances. The planner concatenates stretches of one control that keep
clear of walls and an open view, revisit places, and move at constant speed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from moworld.data.game_camera import MAX_LOOK

Array = NDArray[np.float64]

CELL = 8.0  # map units
MAX_STAIR = 24.0  # height that the engine's player can step up
BODY_HEIGHT = 56.0
FAR = 768.0  # map units: range of the planner's view
STRETCHES = {"w": 0.36, "wj": 0.14, "wl": 0.14, "j": 0.1, "l": 0.1, "a": 0.05, "d": 0.05, "s": 0.06}  # control: probability
TURNABOUTS = (("w", "s"), ("j", "l"), ("l", "j"), ("a", "d"))


@dataclass(frozen=True)
class Line:
    """A wall or edge of the level: its ends, whether the engine stops a player there, and the one or two sectors it bounds."""

    ends: tuple[float, float, float, float]
    blocking: bool
    sectors: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """A planned walk of T frames.

    track:   (T, 3) x east and y north in map units, and the angle in degrees, counter-clockwise from east
    actions: T - 1 key strings, each leading from a frame to the next
    """

    track: Array
    actions: list[str]


class GameMap:
    """A level as a grid of cells: floor height, clearance to body obstacles, and opacity. Arrays are [row y, column x]."""

    def __init__(self, sectors: Iterable[Any], obstacles: Iterable[tuple[float, float, float]]) -> None:
        """sectors: the engine's (lines, floor_height, ceiling_height); obstacles: x, y, radius in map units."""

        sectors = list(sectors)
        lines = _lines(sectors)
        ends = np.array([line.ends for line in lines])
        self.origin = np.array([ends[:, 0::2].min(), ends[:, 1::2].min()]) - 4 * CELL
        top = np.array([ends[:, 0::2].max(), ends[:, 1::2].max()]) + 4 * CELL
        width, height = np.ceil((top - self.origin) / CELL).astype(int)
        self.sector = np.full((height, width), -1, dtype=np.int32)
        for index in range(len(sectors)):
            self.sector[self._inside(np.array([line.ends for line in lines if index in line.sectors]).reshape(-1, 4))] = index
        floors = np.array([sector.floor_height for sector in sectors])
        ceilings = np.array([sector.ceiling_height for sector in sectors])
        self.floor = np.where(self.sector >= 0, floors[self.sector], 0.0)
        self.ceiling = np.where(self.sector >= 0, ceilings[self.sector], 0.0)
        body = ((self.sector < 0) | (self.ceiling - self.floor < BODY_HEIGHT)).astype(np.uint8)
        eye = ((self.sector < 0) | (self.ceiling - self.floor < 8)).astype(np.uint8)
        for line in lines:
            body_stops, eye_stops = _stops(line, floors, ceilings)
            start, end = (tuple(int(i) for i in self.cell(*point)) for point in (line.ends[:2], line.ends[2:]))
            if body_stops:
                cv2.line(body, start, end, 1)
            if eye_stops:
                cv2.line(eye, start, end, 1)
        for x, y, radius in obstacles:
            column, row = self.cell(x, y)
            cv2.circle(body, (int(column), int(row)), max(0, round(radius / CELL)), 1, -1)
        self.opaque = eye.astype(bool)
        self.clearance = cv2.distanceTransform(1 - body, cv2.DIST_L2, 5).astype(np.float64) * CELL

    def cell(self, x: Any, y: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns column and row of map positions."""
        column, row = (np.floor((np.asarray(at) - start) / CELL).astype(np.int64) for at, start in zip((x, y), self.origin, strict=True))
        return column, row

    def at(self, grid: NDArray[Any], x: Any, y: Any) -> NDArray[Any]:
        """Returns values of a grid at map positions; positions outside take the border's value."""
        column, row = self.cell(x, y)
        return grid[row.clip(0, grid.shape[0] - 1), column.clip(0, grid.shape[1] - 1)]

    def view(self, x: Any, y: Any, angle: Any) -> Array:
        """Returns the mean visible distance in directions -30, 0 and 30 degrees off the angle, in map units up to FAR: (N,)."""
        x, y, angle = (np.atleast_1d(np.asarray(value, dtype=np.float64)) for value in (x, y, angle))
        directions = np.radians(angle[:, None] + np.array([-30.0, 0.0, 30.0]))[..., None]  # (N, 3, 1)
        reach = np.arange(1, int(FAR / CELL) + 1) * CELL
        hit = self.at(self.opaque, x[:, None, None] + reach * np.cos(directions), y[:, None, None] + reach * np.sin(directions))
        distance = np.where(hit.any(axis=-1), reach[hit.argmax(axis=-1)], FAR)
        return distance.mean(axis=-1)

    def starts(self, rng: np.random.Generator, count: int, body_units: float) -> list[tuple[float, float, float]]:
        """Returns open places with an open view as (x, y, angle): a random choice among the widest views of a sample."""
        rows, columns = np.nonzero(self.clearance >= 1.5 * body_units)
        if not len(rows):
            return []
        chosen = rng.integers(len(rows), size=16 * count)
        x = self.origin[0] + (columns[chosen] + 0.5) * CELL
        y = self.origin[1] + (rows[chosen] + 0.5) * CELL
        angle = rng.integers(0, 24, size=len(x)) * 15.0
        order = np.argsort(-self.view(x, y, angle), kind="stable")[: 4 * count]
        order = rng.permutation(order)[:count]
        return [(float(x[i]), float(y[i]), float(angle[i])) for i in order]

    def _inside(self, edges: Array) -> NDArray[np.bool_]:
        """Returns the cells whose centre is inside closed loops of edges (N, 4), by the parity of crossings to the left."""
        mask = np.zeros_like(self.sector, dtype=bool)
        xs = self.origin[0] + (np.arange(mask.shape[1]) + 0.5) * CELL
        for x1, y1, x2, y2 in edges[edges[:, 1] != edges[:, 3]]:
            first, last = np.ceil((np.sort([y1, y2]) - self.origin[1]) / CELL - 0.5).astype(int)
            ys = self.origin[1] + (np.arange(first, last) + 0.5) * CELL
            crossing = x1 + (ys - y1) * (x2 - x1) / (y2 - y1)
            mask[first:last] ^= xs > crossing[:, None]
        return mask


def _lines(sectors: list[Any]) -> list[Line]:
    found: dict[tuple[float, float, float, float], tuple[bool, list[int]]] = {}
    for index, sector in enumerate(sectors):
        for line in sector.lines:
            ends = (line.x1, line.y1, line.x2, line.y2)
            found.setdefault(ends, (bool(line.is_blocking), []))[1].append(index)
    lines = [Line(ends, blocking, tuple(sorted(set(indices)))) for ends, (blocking, indices) in found.items()]
    return [line for line in lines if line.blocking or len(line.sectors) == 2]  # an edge inside one sector is no boundary


def _stops(line: Line, floors: Array, ceilings: Array) -> tuple[bool, bool]:
    """Returns whether a line stops the body, and whether it stops the view."""
    if len(line.sectors) < 2:
        return True, True
    floor, ceiling = floors[list(line.sectors)], ceilings[list(line.sectors)]
    opening = ceiling.min() - floor.max()
    body = line.blocking or abs(floor[0] - floor[1]) > MAX_STAIR or opening < BODY_HEIGHT
    return bool(body), bool(opening < 8 or abs(floor[0] - floor[1]) > 64)


@dataclass(frozen=True)
class Walker:
    """Plans walks: constant speeds, stretches of one control, a clear body and an open view. Deterministic in the generator."""

    game_map: GameMap
    units_per_frame: float
    yaw_degrees_per_frame: float
    body_units: float = 32.0
    stair_units: float = 8.0  # the engine changes the floor at once: higher stairs would be camera jumps
    open_view_units: float = 150.0
    min_moving_share: float = 0.45  # of the frames: walks without movement are rejected
    stretch_frames: tuple[int, int] = (8, 30)
    look_share: float = 0.0  # of the stretches that are not a return: look up or down, turn meanwhile, and look level again

    def plan(self, start: tuple[float, float, float], num_frames: int, rng: np.random.Generator) -> Plan | None:
        """Returns a walk from (x, y, angle), or None if the place is too narrow for one that moves enough."""
        poses, actions = [np.array(start, dtype=np.float64)], list[str]()
        visits: dict[tuple[int, int, int], int] = {}
        while len(actions) < num_frames - 1:
            stretch = self._next(poses, actions, visits, rng)
            if stretch is None:
                return None
            keys, path = stretch
            poses += list(path)
            actions += keys
            for x, y, angle in path[::4]:
                place = (int(x // 96), int(y // 96), int(angle // 60) % 6)
                visits[place] = visits.get(place, 0) + 1
        actions = actions[: num_frames - 1]
        moving = sum(bool(set(key) & set("wasd")) for key in actions) / max(1, len(actions))
        return Plan(np.stack(poses)[:num_frames], actions) if moving >= self.min_moving_share else None

    def move(self, start: Array, keys: list[str]) -> Array:
        """Returns poses (N, 3) x, y, angle after every action: turn first, then move along the turned axes."""
        yaw = np.array([("j" in key) - ("l" in key) for key in keys]) * self.yaw_degrees_per_frame
        ahead = np.array([("w" in key) - ("s" in key) for key in keys]) * self.units_per_frame
        right = np.array([("d" in key) - ("a" in key) for key in keys]) * self.units_per_frame
        angle = start[2] + np.cumsum(yaw)
        cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        x = start[0] + np.cumsum(ahead * cosine + right * sine)
        y = start[1] + np.cumsum(ahead * sine - right * cosine)
        return np.column_stack([x, y, angle])

    def _next(
        self, poses: list[Array], actions: list[str], visits: dict[tuple[int, int, int], int], rng: np.random.Generator
    ) -> tuple[list[str], Array] | None:
        """Returns keys and poses of the best of some random stretches, or None if none is possible."""
        best, best_score = None, -np.inf
        for trial in range(60):
            keys = self._candidate(actions, rng)
            path = self.move(poses[-1], keys)
            clear = self.game_map.at(self.game_map.clearance, path[:, 0], path[:, 1]).min()
            floor = self.game_map.at(self.game_map.floor, *np.vstack([poses[-1], path])[:, :2].T)
            if clear < self.body_units or np.abs(np.diff(floor)).max() > self.stair_units:
                continue
            views = self.game_map.view(*path[::4].T)
            end = self.game_map.view(*path[-1])[0]
            if end < self.open_view_units or (views < self.open_view_units / 2).mean() > 0.2:
                continue
            new = np.mean([visits.get((int(x // 96), int(y // 96), int(angle // 60) % 6), 0) == 0 for x, y, angle in path[::4]])
            walks = any(set(key) & set("wasdik") for key in keys)  # or looks up or down
            score = float(new) + 0.6 * min(end, 500.0) / 500.0 + rng.random() + (0.6 if walks else 0.0)
            if score > best_score:
                best, best_score = (keys, path), score
            if trial >= 12 and best is not None:
                break
        return best

    def _candidate(self, actions: list[str], rng: np.random.Generator) -> list[str]:
        """Returns the keys of one random stretch; sometimes one that returns to its start, so that the episode revisits a place."""
        low, high = self.stretch_frames
        length = int(rng.integers(low, high + 1))
        if rng.random() < 0.15 and actions:
            there, back = TURNABOUTS[int(rng.integers(len(TURNABOUTS)))]
            return [there] * length + [back] * length
        if self.look_share and rng.random() < self.look_share:
            look, turn, frames = rng.integers(2), ("", "j", "l")[rng.integers(3)], int(MAX_LOOK / self.yaw_degrees_per_frame)
            there, back = ("i", "k") if look else ("k", "i")
            tilt = int(rng.integers(max(1, frames // 2), frames + 1))
            return [there] * tilt + [turn] * int(rng.integers(low // 2, low + 1)) + [back] * tilt
        previous = actions[-1] if actions else ""
        names = [name for name in STRETCHES if name != previous and {name, previous} not in ({"j", "l"}, {"w", "s"}, {"a", "d"})]
        weights = np.array([STRETCHES[name] for name in names])
        return [str(rng.choice(names, p=weights / weights.sum()))] * length
