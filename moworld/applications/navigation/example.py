"""One walk to a goal, for the command: the task, what the agent does, a map with its plans, and a video."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moworld.applications.navigation.head import NavigationHead
from moworld.applications.navigation.pictures import map_picture, write_png
from moworld.applications.navigation.player import Player
from moworld.applications.navigation.score import NavigateSettings, World, agent_of, facts_of, outcome_of, task_of
from moworld.applications.navigation.settings import PlannerSettings, TaskSettings
from moworld.applications.navigation.tasks import Task, task_between, task_of_picture
from moworld.data.game import Engine
from moworld.data.game_maps import game_maps
from moworld.data.game_walks import Level, Place
from moworld.errors import InputError
from moworld.files import output_directory, write_json
from moworld.model.world import WorldModel, read_config
from moworld.video import write_video

MAP, WALK, RECORD, GOAL = "map.png", "walk.mp4", "navigation.json", "goal.png"


@dataclass(frozen=True, eq=False)
class Request:
    """A task: level, "" for the first held-out one; ends: (), (start, goal), or (start,) with the goal's picture (H, W, 3)."""

    level: str
    seed: int
    ends: tuple[Place, ...] = ()
    picture: NDArray[np.uint8] | None = None


def walk_to_goal(
    model: Path, head: Path | None, request: Request, task_settings: TaskSettings, planner: PlannerSettings, out: Path
) -> dict[str, Any]:
    """Walks to a goal by a model's imagination; writes MAP, WALK, GOAL and RECORD, which is also returned.

    Raises InputError for an unknown level, a start where the player cannot stand, and a goal that cannot be reached or is reached at the start.
    """
    folder = output_directory(out, RECORD, (MAP, WALK, GOAL))
    size_hw, *_ = facts_of(read_config(model))
    scored_by = None if head is None else NavigationHead.load(head, size_hw)
    world = World.of(WorldModel.load(model), scored_by)
    settings = NavigateSettings(tasks=1, task=task_settings, planner=planner)
    name = request.level or game_maps()["held_out"][0]
    with Level(name, world.game, size_hw) as level, Engine(name, world.game, 0) as engine:
        task = _task(level, request, settings)
        plans: list[NDArray[np.float64]] = []
        agent = agent_of(
            "model", world, level, settings, request.seed, lambda seen, choice: plans.append(_along(level, seen.place, choice.plan))
        )
        outcome = outcome_of("model", agent, Player(engine, size_hw), task, settings, request.seed, 0)
        measures: dict[str, Any] = {"solved": None, "chunks": outcome.chunks, "stopped": outcome.stopped}
        if task.goal is not None:
            measures = outcome.measures(task, settings.task)
            measures["left_text"] = "no way" if measures["left"] is None else f"{measures['left']:.0f} map units"
        picture = map_picture(level.geometry, task, {"model": outcome.seen.places[:, :2]}, plans)
    facts = {"level": level.name, "seed": request.seed, "start": task.start, "goal": task.goal, "head": head and str(head), **measures}
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in ((MAP, picture), (GOAL, task.picture)):
        write_png(folder / name, image)
    write_video(folder / WALK, outcome.seen.frames, world.game.fps)
    write_json(folder / RECORD, facts)
    return facts


def _task(level: Level, request: Request, settings: NavigateSettings) -> Task:
    if not request.ends:
        return task_of(level, settings, request.seed, 0)
    for name, (x, y, _) in zip(("start", "goal"), request.ends, strict=False):
        if level.geometry.at(level.geometry.clearance, x, y) < level.walker.body_units / 2:
            raise InputError(name, level.name, (x, y), "a place where the player can stand", "choose a place away from walls")
    if request.picture is not None:
        return task_of_picture(level, request.ends[0], request.picture)
    return task_between(level, list(request.ends), settings.task)


def _along(level: Level, place: Place, plan: Any) -> NDArray[np.float64]:
    return np.array(level.follow(place, [keys for chunk in plan for keys in chunk]))[:, :2]
