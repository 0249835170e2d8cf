"""Goal-conditioned task for Gymnasium: walk through a generated world to where a goal picture was taken.

    tasks = recorded_tasks("train", 20)
    env = gymnasium.make("moworld.applications.navigation.environment:MoWorldNavigation-v0", tasks=tasks)
    envs = gymnasium.make_vec("moworld.applications.navigation.environment:MoWorldNavigation-v0", num_envs=4, tasks=tasks)

The world is the model's, so nothing stops the camera, and its pose is known: the reward is exact. How a policy does in the true engine is
what protocol `navigate` measures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

from moworld.applications.navigation.settings import TaskSettings
from moworld.camera import se3
from moworld.errors import InputError
from moworld.inference.environment import Info, WorldEnvironment
from moworld.inference.vector_environment import WorldVectorEnvironment
from moworld.video import Frames

ID = "MoWorldNavigation-v0"
MAX_CHUNKS = 6
UNIT = 540.0  # map units of a model unit: 54 frames of walking, 10 each
YAW_DEGREES = 3.0  # of a frame, in recordings of the engine


@dataclass(frozen=True, eq=False)
class GoalTask:
    """Pictures (H, W, 3) uint8 of start and goal, and the goal's pose (4, 4) in the start's camera, model units."""

    first: Frames
    goal: Frames
    c2w: NDArray[np.float64]


def recorded_tasks(split: str, count: int, seed: int = 0, size_hw: tuple[int, int] = (64, 96)) -> list[GoalTask]:
    """Returns tasks, spread evenly over the levels of a split ("train", "validation", "held_out"), as the engine shows them. Needs extra `game`.

    Raises InputError for an unknown split and a count below 1.
    """
    from moworld.applications.navigation.tasks import planned_task
    from moworld.data.game_maps import game_maps
    from moworld.data.game_walks import Level
    from moworld.data.settings import GameSettings

    if split not in game_maps():
        raise InputError("navigation", "split", split, " or ".join(game_maps()), "choose one of them")
    if count < 1:
        raise InputError("navigation", "count", count, "at least 1", "correct it")
    names, found = game_maps()[split], list[GoalTask]()
    for first, name in enumerate(names[:count]):
        with Level(name, GameSettings.model_validate({}), size_hw) as level:
            for index in range(first, count, len(names)):
                task = planned_task(level, TaskSettings(), np.random.default_rng([seed, 10, index]))
                goal, _ = task.truth()
                level.engine.restart()
                walk = level.views([task.start, goal])
                found.append(GoalTask(walk.frames[0], walk.frames[1], walk.c2w[1]))
    return found


class NavigationEnvironment(WorldEnvironment):
    """Reach the place and the view of a goal picture. Arguments, actions and memory are those of `WorldEnvironment`; besides

    tasks:           tasks, of which `reset` draws one, or takes number `options["task"]`
    task_settings:   distance and angle at which the goal is reached

    Observation: a dictionary of `frame`, the newest, and `goal`, both (H, W, 3) uint8. Info: as there, and `left`, the frames to the goal,
    by walking straight and by turning.

    Reward: by how much `left` has shrunk, as a share of what it was at the start, and 1 more where the goal is reached; that terminates the
    episode. So the sum over an episode is at most about 2, and below 1 without success. Truncated after `max_chunks` chunks.
    """

    def __init__(
        self,
        model: Any = None,
        *,
        tasks: Sequence[GoalTask],
        task_settings: TaskSettings | None = None,
        max_chunks: int | None = MAX_CHUNKS,
        **settings: Any,
    ) -> None:
        if not tasks or not all(isinstance(task, GoalTask) for task in tasks):
            raise InputError("environment", "tasks", repr(tasks)[:80], "a list of GoalTask", "pass recorded_tasks(...)")
        super().__init__(model, pictures=[task.first for task in tasks], max_chunks=max_chunks, **settings)
        self.tasks, self.task_settings = list(tasks), task_settings or TaskSettings()
        picture = Box(0, 255, (*self.size_hw, 3), np.uint8)
        self.observation_space = Dict({"frame": picture, "goal": picture})  # type: ignore[assignment]
        self._task = self.tasks[0]
        self._first_left = self._left = 0.0

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Any, Info]:
        """Opens a task's world. Options: `task`, its number, and `prompt`. Raises InputError for others and for invalid values."""
        given = {} if options is None else options
        if not isinstance(given, dict) or set(given) - {"task", "prompt"}:
            raise InputError("environment", "options", repr(given)[:80], "task, prompt, or None", "omit it")
        gymnasium.Env.reset(self, seed=seed)
        number = given.get("task", int(self.np_random.integers(len(self.tasks))))
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or not 0 <= number < len(self.tasks):
            raise InputError("environment", "task", repr(number)[:80], f"an integer of 0 to {len(self.tasks) - 1}", "omit it")
        self._task = self.tasks[int(number)]
        frames = {"first_frame": self._task.first, "goal": self._task.goal}
        frame, info = super().reset(seed=seed, options=frames | ({"prompt": given["prompt"]} if "prompt" in given else {}))
        self._first_left = self._left = self._frames_left(info)
        return self._with_goal(frame), info | {"left": self._left}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Info]:
        """Holds an action for a chunk. Raises InputError for an invalid action and before `reset`."""
        frame, reward, terminated, truncated, info = super().step(action)
        return self._with_goal(frame), reward, terminated, truncated, info | {"left": self._frames_left(info)}

    def _with_goal(self, frame: Frames) -> dict[str, Frames]:
        assert self._goal is not None
        return {"frame": frame, "goal": self._goal.copy()}

    def _apart(self, info: Info) -> tuple[float, float]:
        """Returns model units along the floor and degrees between the camera and the goal's."""
        goal, here = self._task.c2w, info["c2w"]
        turned = float(se3.rotation_angle_degrees(here[:3, :3].T @ goal[:3, :3]))
        return float(np.hypot(*(goal - here)[[0, 2], 3])), turned

    def _frames_left(self, info: Info) -> float:
        units, degrees = self._apart(info)
        return units / self.worlds.facts.move_units + degrees / YAW_DEGREES

    def _reached(self, info: Info) -> bool:
        units, degrees = self._apart(info)
        return units * UNIT <= self.task_settings.success_units and degrees <= self.task_settings.success_degrees

    def _task_reward(self, info: Info) -> float:
        before, self._left = self._left, self._frames_left(info)
        return (before - self._left) / max(self._first_left, 1.0) + float(self._reached(info))


class NavigationVectorEnvironment(WorldVectorEnvironment):
    """`num_envs` environments on one engine, whose chunks are requested together. The arguments are those of `NavigationEnvironment`."""

    environment = NavigationEnvironment


if ID not in gymnasium.registry:
    gymnasium.register(ID, f"{__name__}:NavigationEnvironment", vector_entry_point=f"{__name__}:NavigationVectorEnvironment")
