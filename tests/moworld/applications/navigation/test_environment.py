"""The goal-conditioned task for Gymnasium: the checker, reward and end by the camera's pose, options, vectors, tasks of the engine."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from moworld.applications.navigation.environment import GoalTask, NavigationEnvironment, recorded_tasks
from moworld.camera.controls import controls_to_c2w
from moworld.errors import InputError
from tests.moworld.inference.worlds import picture, tiny_engine

NAME = "moworld.applications.navigation.environment:MoWorldNavigation-v0"
AHEAD, TURN, REST = np.array([1, 0, 0, 0]), np.array([0, 0, 1, 0]), np.array([0, 0, 0, 0])


@pytest.fixture
def engine(tmp_path):
    made = tiny_engine(tmp_path, max_sessions=4)
    yield made
    made.close()


@pytest.fixture
def tasks(engine):
    step = engine.model.config.move_units
    poses = [controls_to_c2w(keys, step, 3.0)[-1] for keys in ("w*24", "l*12,w*12")]
    return [GoalTask(picture(seed=number), picture(seed=number + 5), pose) for number, pose in enumerate(poses)]


def test_the_checker_of_gymnasium_passes(engine, tasks, recwarn):
    check_env(NavigationEnvironment(engine, tasks=tasks), skip_render_check=True)
    assert not recwarn.list


def test_reward_is_the_share_of_the_way_and_success_terminates(engine, tasks):
    world = NavigationEnvironment(engine, tasks=tasks)
    observation, info = world.reset(seed=1, options={"task": 0})
    assert info["left"] == pytest.approx(24) and observation["goal"].shape == observation["frame"].shape == (16, 32, 3)
    assert world.observation_space.contains(observation)
    _, reward, terminated, truncated, info = world.step(AHEAD)
    assert reward == pytest.approx(0.5) and info["left"] == pytest.approx(12) and (terminated, truncated) == (False, False)
    _, reward, terminated, _, info = world.step(AHEAD)
    assert reward == pytest.approx(1.5) and terminated and info["left"] == pytest.approx(0, abs=1e-6)
    world.reset(seed=1, options={"task": 1})
    steps = [world.step(REST) for _ in range(6)]
    assert [step[1] for step in steps] == [0.0] * 6 and [step[3] for step in steps] == [False] * 5 + [True]
    assert not any(step[2] for step in steps)


def test_the_goal_is_a_view_not_only_a_place(engine, tasks):
    world = NavigationEnvironment(engine, tasks=[GoalTask(tasks[0].first, tasks[0].goal, controls_to_c2w("w*12,l*14", 1 / 54, 3.0)[-1])])
    world.reset(seed=0)
    assert not world.step(AHEAD)[2]
    reached = [world.step(TURN)[2] for _ in range(2)]
    assert reached[-1] or reached[0]


def test_an_episode_is_a_function_of_its_seed_and_every_task_is_drawn(engine, tasks):
    world = NavigationEnvironment(engine, tasks=tasks)
    first, again = (world.reset(seed=5)[0] for _ in range(2))
    assert np.array_equal(first["frame"], again["frame"]) and np.array_equal(first["goal"], again["goal"])
    assert len({world.reset(seed=seed)[0]["goal"].tobytes() for seed in range(8)}) == 2


def test_a_vector_gives_the_frames_of_single_environments(engine, tasks):
    vector = gymnasium.make_vec(NAME, num_envs=2, model=engine, tasks=tasks)
    seen, _ = vector.reset(seed=3)
    stepped, rewards, *_ = vector.step(np.array([AHEAD, TURN]))
    alone = NavigationEnvironment(engine, tasks=tasks)
    one, _ = alone.reset(seed=4)
    after, reward, *_ = alone.step(TURN)
    assert np.array_equal(seen["frame"][1], one["frame"]) and np.array_equal(stepped["frame"][1], after["frame"])
    assert rewards[1] == pytest.approx(reward) and stepped["goal"].shape == (2, 16, 32, 3)
    vector.close()


def test_bad_input_is_refused(engine, tasks):
    with pytest.raises(InputError, match="recorded_tasks"):
        NavigationEnvironment(engine, tasks=[])
    world = NavigationEnvironment(engine, tasks=tasks)
    for options in ({"task": 2}, {"task": True}, {"goal": tasks[0].goal}, {"task": "0"}):
        with pytest.raises(InputError):
            world.reset(options=options)
    with pytest.raises(InputError, match="split"):
        recorded_tasks("nowhere", 1)
    with pytest.raises(InputError, match="at least 1"):
        recorded_tasks("train", 0)


def test_recorded_tasks_are_those_of_the_engine():
    (task,) = recorded_tasks("held_out", 1, seed=2, size_hw=(32, 48))
    assert task.first.shape == task.goal.shape == (32, 48, 3) and not np.array_equal(task.first, task.goal)
    units = float(np.hypot(task.c2w[0, 3], task.c2w[2, 3])) * 540
    assert 95 < units <= 241
