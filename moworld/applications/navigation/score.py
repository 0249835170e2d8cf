"""Protocol `navigate`: agents on the same tasks on held-out levels; the verdict is the engine's, whose player does what they decide."""

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moworld.applications.navigation.agents import Agent, HeadAgent, Outcome, PlanningAgent, RandomAgent, StraightAgent, run_task
from moworld.applications.navigation.head import NavigationHead
from moworld.applications.navigation.planners import chunk_of, planner_of
from moworld.applications.navigation.player import Player
from moworld.applications.navigation.scorers import HeadScorer, PlaceScorer, Scorer, pixel_scorer
from moworld.applications.navigation.settings import PlannerSettings, TaskSettings
from moworld.applications.navigation.simulators import EngineSimulator, PlaceSimulator, WorldSimulator
from moworld.applications.navigation.tasks import Task, planned_task
from moworld.data.game import ACTIONS_PER_UNIT
from moworld.data.game_maps import game_maps
from moworld.data.game_walks import Level
from moworld.data.settings import GameSettings
from moworld.errors import InputError
from moworld.model.world import WorldConfig, WorldModel
from moworld.settings import PositiveInt, Settings

Frames = NDArray[np.uint8]
AGENTS = {
    "model": "world model", "blind": "world model, camera zeroed", "straight": "straight ahead", "random": "random", "head": "head as policy",
    "engine": "engine as model", "exact": "engine as model, true distance",
}  # fmt: skip
NEEDS_MODEL, ENGINE = ("model", "blind"), ("engine", "exact")  # the engine's are upper bounds, not baselines


class NavigateSettings(Settings):
    """`tasks` tasks for each seed, over the held-out levels in turn."""

    tasks: PositiveInt = 100
    task: TaskSettings = TaskSettings()
    planner: PlannerSettings = PlannerSettings()


@dataclass(frozen=True, eq=False)
class World:
    """What the tasks are for: a model, or the size, chunk and speed of one; and the head, None to compare pictures by their difference."""

    model: WorldModel | None
    head: NavigationHead | None
    size_hw: tuple[int, int] = (64, 96)
    chunk_frames: int = 12
    speeds: tuple[float, float] = (1 / ACTIONS_PER_UNIT, 3.0)  # model units and degrees of a frame

    @staticmethod
    def of(model: WorldModel, head: NavigationHead | None) -> "World":
        size, chunk, speeds = facts_of(model.config)
        return World(model, head, size, chunk, speeds)

    @property
    def game(self) -> GameSettings:
        """The engine's settings: its player moves as the model was trained to."""
        return GameSettings.model_validate({"yaw_degrees_per_frame": self.speeds[1]})

    @property
    def scorer(self) -> Scorer:
        return pixel_scorer if self.head is None else HeadScorer(self.head)


def facts_of(config: WorldConfig) -> tuple[tuple[int, int], int, tuple[float, float]]:
    """Returns size, frames of a chunk and speeds of a model. Raises InputError for one that walks at another speed than the engine's player."""
    if abs(config.move_units * ACTIONS_PER_UNIT - 1) > 1e-3:
        raise InputError("model_index.json", "move_units", config.move_units, f"1/{ACTIONS_PER_UNIT}, the engine's step", "use a model of game footage")
    return (config.height, config.width), config.model.chunk_frames, (config.move_units, config.yaw_degrees)


def agent_names(with_model: bool, with_head: bool) -> list[str]:
    """Returns the agents that a protocol runs, in the order of its table."""
    return [name for name in AGENTS if (with_model or name not in NEEDS_MODEL) and (with_head or name != "head")]


def agent_of(name: str, world: World, level: Level, settings: NavigateSettings, seed: int, report: Any = None) -> Agent:
    """Returns an agent of AGENTS. report: see `PlanningAgent`"""
    chunk, ahead = world.chunk_frames, settings.task.ahead
    actions = tuple(chunk_of(controls, chunk) for controls in settings.planner.actions)
    if name == "straight":
        return StraightAgent(ahead, chunk)
    if name == "random":
        return RandomAgent(ahead, actions)
    if name == "head":
        assert world.head is not None
        return HeadAgent(world.head, actions, world.speeds)
    planner, reported = planner_of(settings.planner), report or (lambda seen, choice: None)
    if name == "exact":
        return PlanningAgent(planner, PlaceSimulator(level), PlaceScorer(world.game), chunk, reported)
    if name == "engine":
        return PlanningAgent(planner, EngineSimulator(level), world.scorer, chunk, reported)
    assert world.model is not None
    return PlanningAgent(planner, WorldSimulator(world.model, seed, camera=name == "model"), world.scorer, chunk, reported)


def level_of(index: int) -> str:
    """Returns the held-out level of a task."""
    names = game_maps()["held_out"]
    return names[index % len(names)]


def task_of(level: Level, settings: NavigateSettings, seed: int, index: int) -> Task:
    """Returns a task of a seed. It depends on the level, the task settings, and these two numbers."""
    return planned_task(level, settings.task, np.random.default_rng([seed, 6, index]))


def outcome_of(name: str, agent: Agent, player: Player, task: Task, settings: NavigateSettings, seed: int, index: int) -> Outcome:
    """Returns what an agent does in a task. It depends on nothing that was done before with the player's engine."""
    return run_task(player, task, agent, settings.task, np.random.default_rng([seed, 9, index, zlib.crc32(name.encode())]))
