"""Planners: propose sequences of chunks of keys, have them imagined, keep the one that ends nearest to the goal.

A planner sees no world: `imagine` gives what is seen after every chunk of the proposed plans, `score` how far that is from the goal, in
frames. The best end of any length wins. Staying is imagined like the rest, because imagined pictures differ from what is really seen;
if it is the best, the agent stops.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from moworld.applications.navigation.settings import PlannerSettings
from moworld.camera.controls import parse_controls
from moworld.errors import InputError

Array = NDArray[np.float64]
Chunk = tuple[str, ...]  # keys of every frame
Plan = tuple[Chunk, ...]
Imagine = Callable[[list[Plan]], dict[Plan, Any]]  # plans -> what is seen after each of them and of their beginnings, () for now
Score = Callable[[list[Any]], Array]  # what is seen -> frames to the goal
LEAST_SPREAD = 1.0  # frames: the search does not narrow below it


@dataclass(frozen=True)
class Choice:
    """The chosen plan, () to stop, and the frames to the goal after every plan that was imagined."""

    plan: Plan
    scores: dict[Plan, float]


class Planner(Protocol):
    def plan(self, imagine: Imagine, score: Score, chunk_frames: int, rng: np.random.Generator) -> Choice:
        """Returns the plan whose end is nearest to the goal. chunk_frames: frames of a chunk."""


def planner_of(settings: PlannerSettings) -> Planner:
    """Returns the planner of some settings."""
    if settings.kind == "tree":
        return TreePlanner(settings.actions, settings.depth)
    return CrossEntropyPlanner(settings.depth, settings.rounds, settings.samples, settings.elite)


@dataclass(frozen=True)
class TreePlanner:
    """Imagines every sequence of at most `depth` chunks, each of them one of `actions`: controls such as "wl*6,w*6"."""

    actions: tuple[str, ...]
    depth: int

    def plan(self, imagine: Imagine, score: Score, chunk_frames: int, rng: np.random.Generator) -> Choice:
        chunks = [chunk_of(controls, chunk_frames) for controls in self.actions]
        rest = stay(chunk_frames)
        return choice_of(scores_of(imagine([rest, *itertools.product(chunks, repeat=self.depth)]), score), rest)


@dataclass(frozen=True)
class CrossEntropyPlanner:
    """Samples frames of turning (left is negative) and of walking in each chunk from normal distributions, and fits these to the best."""

    depth: int
    rounds: int
    samples: int
    elite: float

    def plan(self, imagine: Imagine, score: Score, chunk_frames: int, rng: np.random.Generator) -> Choice:
        mean = np.tile([0.0, 0.75 * chunk_frames], (self.depth, 1))
        spread = np.tile([0.75 * chunk_frames, 0.5 * chunk_frames], (self.depth, 1))
        rest = stay(chunk_frames)
        scores = scores_of(imagine([rest]), score)
        for _ in range(self.rounds):
            drawn = mean + spread * rng.standard_normal((self.samples, self.depth, 2))
            drawn = np.clip(np.rint(drawn), [-chunk_frames, 0], chunk_frames)
            plans = [tuple(walked_chunk(int(turn), int(walk), chunk_frames) for turn, walk in each) for each in drawn]
            if new := [plan for plan in dict.fromkeys(plans) if plan not in scores]:
                scores |= scores_of(imagine(new), score)
            order = np.argsort([scores[plan] for plan in plans], kind="stable")
            best = drawn[order[: max(2, round(self.elite * self.samples))]]
            mean, spread = best.mean(axis=0), np.maximum(best.std(axis=0), LEAST_SPREAD)
        return choice_of(scores, rest)


def stay(chunk_frames: int) -> Plan:
    """Returns the plan without keys for a chunk."""
    return (("",) * chunk_frames,)


def chunk_of(controls: str, chunk_frames: int) -> Chunk:
    """Returns the keys of a chunk; without keys in the frames that the controls do not have. Raises InputError for controls that do not fit."""
    keys = ["".join(sorted(held)) for held in parse_controls(controls)]
    if len(keys) > chunk_frames:
        raise InputError("actions", "", controls, f"at most {chunk_frames} frames, those of a chunk", "shorten the controls")
    return (*keys, *[""] * (chunk_frames - len(keys)))


def walked_chunk(turn: int, walk: int, chunk_frames: int) -> Chunk:
    """Returns the keys of a chunk that turns in its first |turn| frames, to the left if negative, and walks in its last `walk` frames."""
    side = "l" if turn > 0 else "j"
    return tuple(("w" if index >= chunk_frames - walk else "") + (side if index < abs(turn) else "") for index in range(chunk_frames))


def scores_of(seen: dict[Plan, Any], score: Score) -> dict[Plan, float]:
    """Returns the frames to the goal after every plan that was imagined, without the empty one."""
    plans = [plan for plan in seen if plan]
    return dict(zip(plans, score([seen[plan] for plan in plans]).tolist(), strict=True))


def choice_of(scores: dict[Plan, float], rest: Plan) -> Choice:
    """Returns the best plan, () if that is `rest`; of equal ones the shortest, then the first."""
    best = min(scores, key=lambda plan: (scores[plan], len(plan)))
    return Choice(() if best == rest else best, scores)


def beginnings(plans: list[Plan], length: int) -> list[Plan]:
    """Returns the different beginnings of `length` chunks of the plans that are long enough, in order."""
    return list(dict.fromkeys(plan[:length] for plan in plans if len(plan) >= length))
