"""The Gymnasium environment: Gymnasium's checker, frames of the session, seeds, options, vectors."""

import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

from moworld.errors import InputError
from moworld.inference.engine import Engine
from moworld.inference.environment import WorldEnvironment, WorldVectorEnvironment, action_keys
from moworld.inference.session import WorldSession
from tests.moworld.inference.worlds import Letters, picture, tiny_engine

SHIPPED = Path(__file__).parents[3] / "models" / "pocket-long"
PICTURES = [picture(seed=0), picture(seed=1)]
REST, AHEAD, TURN = [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 2, 0]


@pytest.fixture
def engine(tmp_path: Path):
    made = tiny_engine(tmp_path, max_sessions=3)
    yield made
    made.close()


@pytest.fixture
def world(engine: Engine):
    made = WorldEnvironment(engine, pictures=PICTURES, render_mode="rgb_array", max_chunks=3)
    yield made
    made.close()


def episode(world: gymnasium.Env, actions: list[list[int]], **reset: object) -> list[np.ndarray]:
    frames = [world.reset(**reset)[1]["frames"]]  # type: ignore[arg-type]
    return [*frames, *(world.step(np.array(action))[4]["frames"] for action in actions)]


def test_the_checker_of_gymnasium_passes(engine: Engine, recwarn: pytest.WarningsRecorder):
    check_env(WorldEnvironment(engine, pictures=PICTURES), skip_render_check=True)  # it requires a spec; see below
    assert not recwarn.list


def test_a_step_is_the_sessions_chunk_under_the_keys_of_its_action(world: WorldEnvironment, engine: Engine):
    options = {"first_frame": PICTURES[1], "prompt": "a hall"}
    actions, keys = [AHEAD, TURN, [2, 1, 1, 2]], ["w*12", "j*12", "sdlk*12"]
    seen = episode(world, actions, seed=4, options=options)
    seed = int(np.random.Generator(np.random.PCG64(4)).integers(2**31))
    alone = WorldSession(engine.model, Letters(), engine.codec)
    assert np.array_equal(seen[0], np.repeat(alone.open(PICTURES[1], "a hall", seed), 12, axis=0))
    assert all(np.array_equal(one, alone.step(controls)) for one, controls in zip(seen[1:], keys, strict=True))
    assert np.allclose(world.slot.session.walk.c2w, alone.walk.c2w) and not np.allclose(alone.walk.c2w, np.eye(4))


def test_the_observation_is_the_newest_frame_and_info_has_the_pose(world: WorldEnvironment):
    frame, info = world.reset(seed=1)
    assert np.array_equal(frame, info["frames"][-1]) and np.array_equal(info["c2w"], np.eye(4)) and world.observation_space.contains(frame)
    for number in range(1, 4):
        frame, reward, terminated, truncated, info = world.step(np.array(AHEAD))
        assert (
            np.array_equal(frame, info["frames"][-1]) and np.array_equal(frame, world.render()) and info["frames"].shape == (12, 16, 32, 3)
        )
        assert info["c2w"][2, 3] == pytest.approx(12 * number * world.engine.model.config.move_units)
        assert (reward, terminated, truncated) == (0.0, False, number == 3)


def test_an_episode_is_a_function_of_its_seed(world: WorldEnvironment):
    first, again, other = (episode(world, [AHEAD, TURN], seed=seed) for seed in (5, 5, 6))
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not np.array_equal(first[1], other[1])
    following = [episode(world, [AHEAD], seed=None)[1] for _ in range(2)]  # without a seed the generator continues
    assert not np.array_equal(*following)
    drawn = {world.reset(seed=seed)[0].tobytes() for seed in range(8)}
    assert len(drawn) == 2  # both pictures are drawn


def test_reward_is_minus_the_distance_to_a_goal_or_a_given_function(world: WorldEnvironment, engine: Engine):
    world.reset(seed=1, options={"goal": np.full((40, 80, 3), 200, np.uint8)})
    frame, reward, *_, info = world.step(np.array(AHEAD))
    assert reward == -info["goal_distance"] == pytest.approx(-np.abs(frame.astype(float) - 200).mean() / 255) and -1 <= reward < 0
    assert "goal_distance" not in world.reset(seed=1)[1]  # a goal holds for its episode
    bright = WorldEnvironment(engine, pictures=PICTURES, reward=lambda frames, info: frames.mean() + info["c2w"][2, 3])
    bright.reset(seed=1)
    _, reward, *_, info = bright.step(np.array(AHEAD))
    assert reward == pytest.approx(info["frames"].mean() + info["c2w"][2, 3])


@pytest.mark.parametrize(
    ("options", "field"),
    [({"frame": PICTURES[0]}, "options"), ({"first_frame": PICTURES[0][..., 0]}, "first_frame"), ({"goal": PICTURES[0] / 255}, "goal")],
)
def test_invalid_options_are_named(world: WorldEnvironment, options: dict[str, object], field: str):
    with pytest.raises(InputError, match=field):
        world.reset(options=options)
    assert world.reset(seed=0)[0].shape == (16, 32, 3)


def test_invalid_actions_are_refused_and_the_world_continues(world: WorldEnvironment):
    world.reset(seed=0)
    for action in ([3, 0, 0, 0], [-1, 0, 0, 0], [0, 0, 0], 1, [0.0, 0.0, 0.0, 0.0], "w"):
        with pytest.raises(InputError, match="action"):
            world.step(action)
    assert {action_keys(action) for action in (REST, [1, 1, 1, 1], [2, 2, 2, 2])} == {"", "wdli", "sajk"}
    assert world.step(np.array(REST))[0].shape == (16, 32, 3)


def test_slots_are_released_and_one_too_many_is_refused(engine: Engine):
    worlds = [WorldEnvironment(engine, pictures=PICTURES) for _ in range(3)]
    with pytest.raises(InputError, match="fewer than 3"):
        WorldEnvironment(engine, pictures=PICTURES)
    for one in worlds:
        one.close()
    assert engine.sessions == 0
    with pytest.raises(InputError, match="first_frame"):
        WorldEnvironment(engine).reset()
    with pytest.raises(InputError, match="rgb_array"):
        WorldEnvironment(engine, render_mode="human")


def test_environments_of_a_vector_share_a_model_and_get_the_frames_of_single_ones(engine: Engine):
    settings = {"pictures": PICTURES, "max_chunks": 2}
    vectors = [SyncVectorEnv([lambda: WorldEnvironment(engine, **settings)] * 3), lambda: WorldVectorEnvironment(3, engine, **settings)]  # type: ignore[arg-type]
    actions = [np.array([AHEAD, TURN, [0, 1, 0, 1]]), np.array([REST, AHEAD, TURN])] * 2
    runs = []
    for made in vectors:
        vector = made() if callable(made) else made
        frames = [vector.reset(seed=7)[0]]
        for number, action in enumerate(actions):
            frame, _, _, truncated, info = vector.step(action)
            frames.append(frame)
            assert truncated.tolist() == [number == 1] * 3 and info["frames"].shape == (3, 12, 16, 32, 3)  # then they are reset
        runs.append(frames)
        vector.close()
        assert engine.sessions == 0
    assert all(np.array_equal(one, other) for one, other in zip(*runs, strict=True))
    alone = WorldEnvironment(engine, **settings)  # type: ignore[arg-type]
    alone.reset(seed=8)
    assert np.array_equal(alone.step(actions[0][1])[0], runs[1][1][1])
    alone.close()


def test_a_vector_works_after_an_invalid_action_and_a_reset(engine: Engine):
    vector = WorldVectorEnvironment(2, engine, pictures=PICTURES)
    vector.reset(seed=0)
    with pytest.raises(InputError, match="action"):
        vector.step(np.array([AHEAD, [5, 0, 0, 0]]))
    vector.reset(seed=0)
    assert vector.step(np.array([AHEAD, AHEAD]))[0].shape == (2, 16, 32, 3)
    vector.close()


def test_gymnasium_makes_an_environment_of_the_shipped_model():
    name, settings = "moworld.inference.environment:MoWorld-v0", {"model": str(SHIPPED), "max_chunks": 2, "chunk_latents": 1}
    made = gymnasium.make(name, render_mode="rgb_array", **settings)
    assert len(episode(made, [AHEAD, TURN], seed=0)) == 3
    check_env(made.unwrapped)  # this one has a spec, so it is made again for every render mode
    vector = gymnasium.make_vec(name, num_envs=2, **settings)
    assert vector.reset(seed=0)[0].shape == (2, 64, 96, 3)
    vector.close()


def test_importing_it_loads_no_pytorch():
    script = "import sys, moworld.inference.environment; print(sorted({'torch', 'diffusers', 'cv2'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
