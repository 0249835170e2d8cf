"""Planners in a world whose outcomes are known: a place on a plane, and walls."""

import itertools
import math

import numpy as np
import pytest

from moworld.applications.navigation.planners import CrossEntropyPlanner, TreePlanner, chunk_of, planner_of, stay, walked_chunk
from moworld.applications.navigation.settings import PlannerSettings
from moworld.errors import InputError

CHUNK = 4
RNG = np.random.default_rng(0)


class Plane:
    """Places (x, z, degrees) after plans; steps of 1, turns of 15 degrees; a wall at x = `wall` cannot be crossed."""

    def __init__(self, wall: float = np.inf) -> None:
        self.wall = wall

    def imagine(self, plans):
        found = {(): (0.0, 0.0, 0.0)}
        for plan in plans:
            for length in range(1, len(plan) + 1):
                if plan[:length] not in found:
                    found[plan[:length]] = self.moved(*found[plan[: length - 1]], plan[length - 1])
        return found

    def moved(self, x, z, yaw, chunk):
        for keys in chunk:
            yaw += 15 * (("l" in keys) - ("j" in keys))
            step = ("w" in keys) - ("s" in keys)
            x, z = min(x + step * math.sin(math.radians(yaw)), self.wall), z + step * math.cos(math.radians(yaw))
        return x, z, yaw


def distance_to(goal):
    def score(places):
        apart = np.array(places) - goal
        return np.hypot(apart[:, 0], apart[:, 1]) + np.abs(apart[:, 2]) / 15

    return score


def test_the_tree_finds_every_goal_that_its_actions_reach():
    actions = ("w*4", "l*4", "j*4", "wl*4")
    for plan in itertools.product(actions, repeat=3):
        chunks = tuple(chunk_of(controls, CHUNK) for controls in plan)
        goal = Plane().imagine([chunks])[chunks]
        found = TreePlanner(actions, 3).plan(Plane().imagine, distance_to(goal), CHUNK, RNG)
        assert found.scores[found.plan or stay(CHUNK)] == pytest.approx(0, abs=1e-9) and len(found.plan) <= 3


def test_the_tree_imagines_every_sequence_and_stops_where_nothing_is_nearer():
    planner = TreePlanner(("w*4", "l*4"), 2)
    found = planner.plan(Plane().imagine, distance_to(np.array([0.0, -3.0, 0.0])), CHUNK, RNG)
    assert found.plan == () and len(found.scores) == 1 + 2 + 4
    near = planner.plan(Plane().imagine, distance_to(np.array([0.0, 4.0, 0.0])), CHUNK, RNG)
    assert near.plan == (("w",) * 4,)


def test_plans_are_judged_by_what_is_seen_not_by_their_keys():
    actions, goal = ("wl*4", "w*4"), np.array([5.0, 6.0, 60.0])
    free = TreePlanner(actions, 2).plan(Plane().imagine, distance_to(goal), CHUNK, RNG)
    walled = TreePlanner(actions, 2).plan(Plane(wall=0.5).imagine, distance_to(goal), CHUNK, RNG)
    assert free.plan != walled.plan or free.scores[free.plan] < walled.scores[walled.plan]


def test_cross_entropy_comes_close_to_goals_between_the_actions_and_is_deterministic():
    planner = CrossEntropyPlanner(depth=2, rounds=6, samples=64, elite=0.15)
    for goal in ([1.2, 5.1, 15.0], [-2.9, 3.4, -45.0], [0.0, 3.0, 0.0]):
        found, again = (planner.plan(Plane().imagine, distance_to(np.array(goal)), CHUNK, np.random.default_rng(3)) for _ in range(2))
        assert found.plan == again.plan and found.scores[found.plan] < 1.2
        assert found.plan and found.scores[found.plan] == min(found.scores.values())
    stop = planner.plan(Plane().imagine, distance_to(np.zeros(3)), CHUNK, np.random.default_rng(3))
    assert stop.plan == ()


def test_staying_is_imagined_and_not_judged_by_what_is_seen_now():
    def generated(plans):
        """Imagined places are all 0.5 farther than seen ones: no reason to stop."""
        return {plan: place if not plan else (place[0], place[1] - 0.5, place[2]) for plan, place in Plane().imagine(plans).items()}

    goal = np.array([0.0, 4.0, 0.0])
    for planner in (TreePlanner(("w*1", "l*4"), 1), CrossEntropyPlanner(depth=1, rounds=2, samples=16, elite=0.25)):
        found = planner.plan(generated, distance_to(np.array([0.0, 0.4, 0.0])), CHUNK, np.random.default_rng(0))
        assert found.scores[stay(CHUNK)] == pytest.approx(0.9)
        assert planner.plan(generated, distance_to(goal), CHUNK, np.random.default_rng(0)).plan != ()
        assert () not in found.scores


def test_chunks_of_keys():
    assert chunk_of("wl*2,w", 4) == ("lw", "lw", "w", "") and chunk_of("none*4", 4) == ("",) * 4
    assert walked_chunk(-2, 3, 4) == ("j", "wj", "w", "w") and walked_chunk(1, 0, 4) == ("l", "", "", "")
    with pytest.raises(InputError, match="at most 4 frames"):
        chunk_of("w*5", 4)
    with pytest.raises(InputError, match="term 1"):
        planner_of(PlannerSettings(actions=("q*2",))).plan(Plane().imagine, distance_to(np.zeros(3)), CHUNK, RNG)
    assert isinstance(planner_of(PlannerSettings(kind="cem")), CrossEntropyPlanner)
