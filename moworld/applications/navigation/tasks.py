"""Tasks on a level: a start, a goal with its picture, the walk between them, and the length of the shortest way on the level's floor."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moworld.applications.navigation.metrics import path_length
from moworld.applications.navigation.settings import TaskSettings
from moworld.camera.cameras import resize_to_cover
from moworld.data.game_map import CELL, MAX_STAIR, GameMap
from moworld.data.game_walks import Level, Place
from moworld.errors import InputError

Frames = NDArray[np.uint8]
Array = NDArray[np.float64]
BODY = 12.0  # map units of clearance on the floor of shortest ways; the body needs 16, and a cell is 8 wide
RANGE = 4096.0  # map units from the goal within which ways are searched
AROUND = 2  # cells around a position in which the floor is looked for
STEPS = ((0, 1), (1, 0), (1, 1), (1, -1), (1, 2), (2, 1), (1, -2), (2, -1))  # to neighbours; with their opposites 16 directions


class WaysTo:
    """The length of the shortest way along a level's floor from any position to a goal (x, y), in map units."""

    def __init__(self, level: GameMap, goal: tuple[float, float]) -> None:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import dijkstra

        self.level = level
        free = level.clearance >= BODY
        numbers = np.arange(free.size).reshape(free.shape)
        rows, columns, lengths = [], [], []
        for down, right in STEPS:
            here, there = _shifted(numbers, down, right)
            passable = free.flat[here] & free.flat[there] & (np.abs(level.floor.flat[here] - level.floor.flat[there]) <= MAX_STAIR)
            rows.append(here[passable])
            columns.append(there[passable])
            lengths.append(np.full(int(passable.sum()), CELL * np.hypot(down, right)))
        graph = coo_array((np.concatenate(lengths), (np.concatenate(rows), np.concatenate(columns))), shape=(free.size, free.size))
        column, row = level.cell(*goal)
        near = [int(numbers[y, x]) for y, x in self._around(int(row), int(column)) if free[y, x]] or [int(numbers[int(row), int(column)])]
        start = min(near, key=lambda number: abs(number // free.shape[1] - row) + abs(number % free.shape[1] - column))
        self.lengths = dijkstra(graph.tocsr(), directed=False, indices=start, limit=RANGE).reshape(free.shape)

    def length(self, x: float, y: float) -> float:
        """Returns the length from a position, infinite if the goal cannot be reached from there."""
        column, row = self.level.cell(x, y)
        found = [
            (abs(near_y - row) + abs(near_x - column), self.lengths[near_y, near_x])
            for near_y, near_x in self._around(int(row), int(column))
        ]
        finite = [pair for pair in found if np.isfinite(pair[1])]
        return float(min(finite)[1]) if finite else float("inf")

    def _around(self, row: int, column: int) -> list[tuple[int, int]]:
        height, width = self.level.clearance.shape
        ys, xs = (range(max(0, at - AROUND), min(size, at + AROUND + 1)) for at, size in ((row, height), (column, width)))
        return [(y, x) for y in ys for x in xs]


def _shifted(numbers: NDArray[np.int64], down: int, right: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the numbers of cells and of their neighbours `down` rows and `right` columns away."""
    height, width = numbers.shape
    here = numbers[: height - down, max(0, -right) : width - max(0, right)]
    there = numbers[down:, max(0, right) : width + min(0, right)]
    return here.ravel(), there.ravel()


@dataclass(frozen=True, eq=False)
class Task:
    """A task on a level. Agents are given the picture; what is None is not known, and then there is no verdict.

    start, goal: x east and y north in map units, degrees from east to north
    picture:     (H, W, 3) uint8, what the engine shows at the goal
    reference:   (T, 2) positions of a walk from start to goal, map units
    shortest:    map units of the shortest way along the floor
    ways:        lengths of ways to the goal
    """

    level: str
    start: Place
    goal: Place | None
    picture: Frames
    reference: Array
    shortest: float
    ways: WaysTo | None

    def truth(self) -> tuple[Place, WaysTo]:
        """Returns the goal's place and the ways to it. Raises ValueError for a task of which only the picture is known."""
        if self.goal is None or self.ways is None:
            raise ValueError("the place of the goal is not known")
        return self.goal, self.ways

    def solved(self, place: Place, settings: TaskSettings) -> bool:
        """Returns whether the goal is reached at a place: near enough along the floor, and looking the same way."""
        goal, ways = self.truth()
        near = max(ways.length(*place[:2]), float(np.hypot(place[0] - goal[0], place[1] - goal[1])))
        return near <= settings.success_units and angle_between(place[2], goal[2]) <= settings.success_degrees


def angle_between(first: float, second: float) -> float:
    """Returns the angle between two directions in degrees, 0 to 180."""
    return abs((first - second + 180.0) % 360.0 - 180.0)


def planned_task(level: Level, settings: TaskSettings, rng: np.random.Generator) -> Task:
    """Returns a task whose goal is `ahead` frames along a planned walk. Raises InputError if the level has no such walk."""
    level.engine.restart()
    for _ in range(level.settings.attempts):
        start, actions = level.planned(settings.ahead + 1, rng)
        places = level.follow(start, actions)
        if np.hypot(places[-1][0] - start[0], places[-1][1] - start[1]) >= settings.least_units:
            return task_between(level, places, settings)
    raise InputError(
        "navigation", level.name, "no walk that goes far enough", f"{settings.least_units:g} map units", "choose another level"
    )


def task_between(level: Level, places: list[Place], settings: TaskSettings) -> Task:
    """Returns the task from the first to the last place of a walk. Raises InputError if the floor does not connect them, or if it begins solved."""
    reference = np.array(places)[:, :2]
    ways = WaysTo(level.geometry, (places[-1][0], places[-1][1]))
    shortest = min(ways.length(*places[0][:2]), path_length(reference) if len(places) > 2 else np.inf)
    level.engine.restart()
    picture = level.views([places[-1]]).frames[0]
    task = Task(level.name, places[0], places[-1], picture, reference, float(shortest), ways)
    if not np.isfinite(shortest):
        raise InputError("goal", level.name, places[-1][:2], "a place that can be reached from the start", "choose another goal or start")
    if task.solved(places[0], settings):
        raise InputError("goal", level.name, places[-1], "a goal that is not reached at the start", "choose a goal farther away")
    return task


def task_of_picture(level: Level, start: Place, picture: Frames) -> Task:
    """Returns a task of which only the goal's picture (H, W, 3) is known."""
    fitted = resize_to_cover(picture, level.size_hw)
    return Task(level.name, start, None, fitted, np.array([start])[:, :2], float("nan"), None)
