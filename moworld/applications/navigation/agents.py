"""Agents: from what was seen so far and the task to the keys of the next chunk, or to stopping; and a run of one through a task."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from moworld.applications.navigation.head import NavigationHead
from moworld.applications.navigation.metrics import path_length, progress_by_length, success_by_length, warping_similarity
from moworld.applications.navigation.planners import Choice, Chunk, Planner
from moworld.applications.navigation.player import Player, Seen
from moworld.applications.navigation.scorers import Scorer
from moworld.applications.navigation.settings import TaskSettings
from moworld.applications.navigation.simulators import Simulator
from moworld.applications.navigation.tasks import Task, angle_between
from moworld.camera.controls import Walk

Array = NDArray[np.float64]


class Agent(Protocol):
    def act(self, seen: Seen, task: Task, rng: np.random.Generator) -> Chunk | None:
        """Returns the keys of the next chunk, None to stop."""


@dataclass(frozen=True)
class StraightAgent:
    """Walks straight ahead for the frames that the goal is away, then stops."""

    frames: int
    chunk_frames: int

    def act(self, seen: Seen, task: Task, rng: np.random.Generator) -> Chunk | None:
        left = self.frames - (len(seen.frames) - 1)
        return None if left <= 0 else ("w",) * min(left, self.chunk_frames) + ("",) * (self.chunk_frames - left)


@dataclass(frozen=True)
class RandomAgent:
    """Does a random one of the tree's actions in each chunk, for the frames that the goal is away, then stops."""

    frames: int
    actions: tuple[Chunk, ...]

    def act(self, seen: Seen, task: Task, rng: np.random.Generator) -> Chunk | None:
        left = self.frames - (len(seen.frames) - 1)
        return None if left <= 0 else self.actions[int(rng.integers(len(self.actions)))]


@dataclass(frozen=True, eq=False)
class PlanningAgent:
    """Proposes plans, imagines them, and does the first chunk of the one whose end is nearest to the goal; then plans again.

    report: called with what was seen and each choice
    """

    planner: Planner
    simulator: Simulator
    scorer: Scorer
    chunk_frames: int
    report: Callable[[Seen, Choice], object] = lambda seen, choice: None

    def act(self, seen: Seen, task: Task, rng: np.random.Generator) -> Chunk | None:
        choice = self.planner.plan(
            lambda plans: self.simulator.imagine(seen, plans), lambda found: self.scorer(found, task), self.chunk_frames, rng
        )
        self.report(seen, choice)
        return choice.plan[0] if choice.plan else None


@dataclass(frozen=True, eq=False)
class HeadAgent:
    """Does the action whose end, by its keys alone, is nearest to where the head sees the goal; stops where no action is nearer."""

    head: NavigationHead
    actions: tuple[Chunk, ...]
    speeds: tuple[float, float]  # model units and degrees of a frame

    def act(self, seen: Seen, task: Task, rng: np.random.Generator) -> Chunk | None:
        found = self.head.estimate([seen.frames[-1]], task.picture)
        goal, yaw = found.position[0], float(found.yaw_degrees[0])
        best, keys = self._frames(goal, yaw), None
        for chunk in self.actions:
            walk = Walk(*self.speeds)
            walk.go(chunk)
            left = self._frames(goal - walk.centre[[0, 2]], yaw - walk.yaw)
            if left < best:
                best, keys = left, chunk
        return keys

    def _frames(self, apart: Array, yaw: float) -> float:
        return float(np.hypot(*apart)) / self.speeds[0] + angle_between(yaw, 0) / self.speeds[1]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What an agent did in a task: all that was seen, the number of chunks, and whether it stopped by itself."""

    seen: Seen
    chunks: int
    stopped: bool

    def measures(self, task: Task, settings: TaskSettings) -> dict[str, Any]:
        """Returns the task's part of every score, and the path in whole map units; `left` is null where the goal cannot be reached."""
        places, (goal, ways) = self.seen.places, task.truth()
        left, walked = ways.length(*self.seen.place[:2]), path_length(places[:, :2])
        solved = task.solved(self.seen.place, settings)
        return {
            "solved": solved,
            "spl": success_by_length(solved, task.shortest, walked),
            "soft_spl": progress_by_length(task.shortest, left, task.shortest, walked),
            "ndtw": warping_similarity(places[:, :2], task.reference, settings.success_units),
            "left": left if np.isfinite(left) else None,
            "turned_away": angle_between(self.seen.place[2], goal[2]),
            "walked": walked,
            "chunks": self.chunks,
            "stopped": self.stopped,
            "path": np.rint(places[::2, :2]).astype(int).tolist(),
        }


def run_task(player: Player, task: Task, agent: Agent, settings: TaskSettings, rng: np.random.Generator) -> Outcome:
    """Returns what an agent does in a task, in the engine, by its buttons: at most `max_chunks` chunks."""
    seen = player.begin(task.start)
    for chunks in range(settings.max_chunks):
        keys = agent.act(seen, task, rng)
        if keys is None:
            return Outcome(seen, chunks, True)
        seen = player.hold(keys)
        if player.ended:
            return Outcome(seen, chunks + 1, False)
    return Outcome(seen, settings.max_chunks, False)
