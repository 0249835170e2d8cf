"""Protocol navigate on one task of a held-out level: tasks, the player's buttons, agents, what is stored, and that a stopped run resumes."""

import numpy as np
import pytest

from moworld.applications.navigation import score_report
from moworld.applications.navigation.agents import PlanningAgent, run_task
from moworld.applications.navigation.planners import TreePlanner
from moworld.applications.navigation.player import Player
from moworld.applications.navigation.score import NavigateSettings, World, task_of
from moworld.applications.navigation.score_report import comparison_table, evaluate_navigation, table
from moworld.applications.navigation.scorers import PlaceScorer
from moworld.applications.navigation.settings import PlannerSettings, TaskSettings
from moworld.applications.navigation.simulators import EngineSimulator, PlaceSimulator, WorldSimulator
from moworld.applications.navigation.tasks import task_between
from moworld.data.game import Engine
from moworld.data.game_walks import Level
from moworld.data.settings import GameSettings
from moworld.errors import InputError
from moworld.files import read_json
from tests.moworld.inference.worlds import served_world

PLANNER = PlannerSettings(actions=("w*12", "l*12"), depth=1)
SETTINGS = NavigateSettings(tasks=1, task=TaskSettings(max_chunks=2), planner=PLANNER)
GAME = GameSettings()


@pytest.fixture(scope="module")
def level():
    with Level("MAP07", GAME, (64, 96)) as opened:
        yield opened


@pytest.fixture(scope="module")
def engine():
    with Engine("MAP07", GAME, 0) as opened:
        yield opened


def test_a_task_is_a_function_of_its_numbers_and_its_reference_leads_to_its_goal(level):
    task, again = (task_of(level, SETTINGS, 0, 0) for _ in range(2))
    assert task.start == again.start and np.array_equal(task.picture, again.picture) and task.picture.shape == (64, 96, 3)
    assert task_of(level, SETTINGS, 1, 0).start != task.start
    assert len(task.reference) == 25 and task.reference[-1].tolist() == list(task.goal[:2])
    straight = np.hypot(*(task.reference[-1] - task.reference[0]))
    assert 96 <= straight <= task.shortest * 1.01 and task.shortest <= 240 + 1e-6
    assert task.solved(task.goal, SETTINGS.task) and not task.solved(task.start, SETTINGS.task)
    x, y, angle = task.goal
    assert not task.solved((x, y, angle + 31), SETTINGS.task) and task.solved((x, y, angle - 331), SETTINGS.task)
    with pytest.raises(InputError, match="goal farther away"):
        task_between(level, [task.start, task.start], SETTINGS.task)


def test_ways_go_around_walls_and_do_not_reach_outside(level):
    task = task_of(level, SETTINGS, 0, 0)
    ways = task.ways
    assert ways.length(*task.goal[:2]) <= 8 and ways.length(-1e6, 0) == np.inf
    rows, columns = np.nonzero(np.isfinite(ways.lengths))
    x, y = level.geometry.origin[0] + (columns + 0.5) * 8, level.geometry.origin[1] + (rows + 0.5) * 8
    straight = np.hypot(x - task.goal[0], y - task.goal[1])
    assert (ways.lengths[rows, columns] >= straight - 12).all() and (ways.lengths[rows, columns] > straight + 40).any()


def test_buttons_follow_the_keys_and_walls_stop_the_player(level, engine):
    task = task_of(level, SETTINGS, 0, 0)
    player = Player(engine, (64, 96))
    keys = ["w"] * 8 + ["wl"] * 4 + [""] * 4 + ["a"] * 4 + ["j"] * 4
    player.begin(task.start)
    seen = player.hold(keys)
    wanted = np.array(level.follow(task.start, keys))
    assert (
        np.hypot(*(seen.places - wanted)[:, :2].T).max() < 24
        and np.hypot(*(seen.places - wanted)[8, :2]) < 8
        and np.abs((seen.places - wanted)[:, 2]).max() < 0.1
    )
    assert seen.frames.shape == (25, 64, 96, 3) and seen.c2w.shape == (25, 4, 4) and np.allclose(seen.c2w[0], np.eye(4))
    assert seen.c2w[8, 2, 3] == pytest.approx(8 / 54, abs=0.02)
    player.begin(task.start)
    again = player.hold(keys)
    assert np.array_equal(again.frames, seen.frames) and np.array_equal(again.places, seen.places)
    through = player.hold(["w"] * 250)
    assert np.hypot(*(through.places[-1] - through.places[-6])[:2]) < 40  # it stands at a wall


def test_exact_planning_in_the_engine_reaches_the_goal(level, engine):
    task = task_of(level, SETTINGS, 1, 0)
    agent = PlanningAgent(TreePlanner(PlannerSettings().actions[:5], 2), PlaceSimulator(level), PlaceScorer(GAME), 12)
    outcome = run_task(Player(engine, (64, 96)), task, agent, SETTINGS.task, np.random.default_rng(0))
    measures = outcome.measures(task, SETTINGS.task)
    assert measures["solved"] and measures["spl"] > 0.7 and measures["ndtw"] > 0.5 and measures["left"] < 64


def test_the_engine_shows_what_plans_lead_to(level, engine):
    task = task_of(level, SETTINGS, 0, 0)
    seen = Player(engine, (64, 96)).begin(task.start)
    plan = (("w",) * 12, ("l",) * 12)
    found = EngineSimulator(level).imagine(seen, [plan])
    assert list(found) == [(), plan[:1], plan] and all(frame.shape == (64, 96, 3) for frame in found.values())
    assert np.abs(found[()].astype(int) - seen.frames[0]).mean() < 2 < np.abs(found[plan].astype(int) - seen.frames[0]).mean()


def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    served_world(tmp_path / "codec", chunk_latents=3).save(tmp_path / "model")
    whole = evaluate_navigation(tmp_path / "model", None, SETTINGS, [0], tmp_path / "whole")
    real, calls = score_report.outcome_of, []

    def stops(name, *rest):
        calls.append(name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(name, *rest)

    monkeypatch.setattr(score_report, "outcome_of", stops)
    with pytest.raises(KeyboardInterrupt):
        evaluate_navigation(tmp_path / "model", None, SETTINGS, [0], tmp_path / "cut")
    assert len(list((tmp_path / "cut" / "measured").iterdir())) == 2
    evaluate_navigation(tmp_path / "model", None, SETTINGS, [0], tmp_path / "cut")
    assert len(calls) == len(whole["rows"]) + 1
    for path in sorted(path for path in (tmp_path / "whole").rglob("*") if path.is_file()):
        assert path.read_bytes() == (tmp_path / "cut" / path.relative_to(tmp_path / "whole")).read_bytes(), path
    before = len(calls)
    evaluate_navigation(tmp_path / "model", None, SETTINGS, [0], tmp_path / "cut")
    assert len(calls) == before
    assert [row[0] for row in table(whole)][:2] == ["world model", "world model, camera zeroed"] and len(table(whole)) == 6
    assert len(comparison_table(whole)) == 5 and whole["summary"]["straight"]["tasks"] == 1
    assert read_json(tmp_path / "cut" / "navigate.json")["rows"] == read_json(tmp_path / "whole" / "navigate.json")["rows"]


def test_a_model_of_another_speed_is_refused(tmp_path):
    world = served_world(tmp_path / "codec")
    world.config = world.config.model_copy(update={"move_units": 0.1})
    with pytest.raises(InputError, match="move_units"):
        World.of(world, None)


def test_the_world_model_imagines_as_a_session_does(tmp_path, level, engine):
    world = served_world(tmp_path / "codec", chunk_latents=3)
    task = task_of(level, SETTINGS, 0, 0)
    size = (world.config.height, world.config.width)
    player = Player(engine, size)
    seen = player.begin(task.start)
    ahead, turn = ("w",) * 12, ("l",) * 12
    simulator = WorldSimulator(world, 0)
    both = simulator.imagine(seen, [(ahead, turn), (turn, turn)])
    assert list(both) == [(), (ahead,), (turn,), (ahead, turn), (turn, turn)] and both[()].shape == (*size, 3)
    alone = simulator.imagine(seen, [(turn, turn)])
    assert all(np.abs(alone[plan].astype(int) - both[plan]).max() <= 1 for plan in alone)  # a plan does not depend on the others
    assert not np.array_equal(both[(ahead,)], both[(turn,)])
    blind = WorldSimulator(world, 0, camera=False).imagine(seen, [(ahead,), (turn,)])
    assert np.array_equal(blind[(ahead,)], blind[(turn,)])
    later = simulator.imagine(player.hold(ahead), [(turn,)])
    assert later[(turn,)].shape == (*size, 3) and not np.array_equal(later[(turn,)], both[(ahead, turn)])
