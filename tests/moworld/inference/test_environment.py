"""The Gymnasium environment: Gymnasium's checker, frames of the session, seeds, options, tasks, vectors and their processes, recording."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

from moworld.errors import InputError
from moworld.inference.engine import Engine
from moworld.inference.environment import DISCRETE, MAX_CHUNKS, WorldEnvironment, action_keys
from moworld.inference.recording import RecordEpisodes
from moworld.inference.session import WorldSession
from moworld.inference.vector_environment import WorldVectorEnvironment
from moworld.video import video_info
from tests.moworld.inference.worlds import Letters, picture, served_world, tiny_engine

NAME = "moworld.inference.environment:MoWorld-v0"

SHIPPED = Path(__file__).parents[3] / "models" / "pocket-long"
PICTURES = [picture(seed=0), picture(seed=1)]
REST, AHEAD, TURN = [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 2, 0]


@pytest.fixture
def engine(tmp_path: Path):
    made = tiny_engine(tmp_path, max_sessions=3)
    made.model.config = made.model.config.model_copy(update={"pitch": True})
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
    assert np.allclose(world.step(REST)[4]["c2w"], alone.walk.c2w) and not np.allclose(alone.walk.c2w, np.eye(4))


def test_the_observation_is_the_newest_frame_and_info_has_the_pose(world: WorldEnvironment, engine: Engine):
    frame, info = world.reset(seed=1)
    assert np.array_equal(frame, info["frames"][-1]) and np.array_equal(info["c2w"], np.eye(4)) and world.observation_space.contains(frame)
    for number in range(1, 4):
        frame, reward, terminated, truncated, info = world.step(np.array(AHEAD))
        assert (
            np.array_equal(frame, info["frames"][-1]) and np.array_equal(frame, world.render()) and info["frames"].shape == (12, 16, 32, 3)
        )
        assert info["c2w"][2, 3] == pytest.approx(12 * number * engine.model.config.move_units)
        assert (terminated, truncated) == (False, number == 3) and reward == pytest.approx(1)


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


def test_the_default_task_rewards_new_distance_and_ends_by_truncation(engine: Engine):
    world = WorldEnvironment(engine, pictures=PICTURES, max_chunks=4)
    world.reset(seed=1)
    steps = [world.step(np.array(action)) for action in (AHEAD, [2, 0, 0, 0], AHEAD, AHEAD)]  # the third walks where it was
    assert [step[1] for step in steps] == pytest.approx([1, 0, 0, 1]) and [step[2:4] for step in steps] == [(False, number == 3) for number in range(4)]
    assert steps[-1][4]["distance"] == pytest.approx(24 * engine.model.config.move_units)
    world.reset(seed=1)
    assert world.step(np.array(AHEAD))[1] == pytest.approx(1)  # the distance starts again
    assert WorldEnvironment(engine, pictures=PICTURES).max_chunks == MAX_CHUNKS


def test_a_goal_that_is_reached_terminates_an_episode(engine: Engine):
    world = WorldEnvironment(engine, pictures=PICTURES, goal_tolerance=0.0)
    world.reset(seed=1)
    seen = world.step(np.array(AHEAD))[0]
    world.reset(seed=1, options={"goal": seen})
    _, reward, terminated, truncated, _ = world.step(np.array(AHEAD))
    assert (reward, terminated, truncated) == (0.0, True, False)
    world.reset(seed=1, options={"goal": seen})
    assert world.step(np.array(TURN))[2:4] == (False, False)


def test_discrete_actions_are_keys_of_a_list(engine: Engine):
    runs = []
    for actions, chosen in (("keys", [[1, 0, 1, 0], [0, 0, 2, 0]]), ("discrete", [DISCRETE.index("wl"), DISCRETE.index("j")]), (["j", "wl"], [1, 0])):
        world = WorldEnvironment(engine, pictures=PICTURES, actions=actions)
        assert world.action_space.contains(np.array(chosen[0]) if actions == "keys" else np.int64(chosen[0]))  # type: ignore[index]
        world.reset(seed=3)
        runs.append([world.step(action)[0] for action in chosen])
        world.close()
    assert all(np.array_equal(one, other) for run in runs[1:] for one, other in zip(runs[0], run, strict=True))
    check_env(WorldEnvironment(engine, pictures=PICTURES, actions="discrete"), skip_render_check=True)
    world = WorldEnvironment(engine, pictures=PICTURES, actions="discrete")
    world.reset(seed=0)
    for action in (9, -1, 1.0, [1, 0], "w", None):
        with pytest.raises(InputError, match="action"):
            world.step(action)


ODD_OPTIONS = {
    "an unknown name": ({"frame": PICTURES[0]}, "options"),
    "names that are no text": ({5: 1, "a": 2}, "options"),
    "a list": ([1], "options"),
    "text": ("prompt", "options"),
    "a grey picture": ({"first_frame": PICTURES[0][..., 0]}, "first_frame"),
    "fractions": ({"goal": PICTURES[0] / 255}, "goal"),
    "no row": ({"first_frame": np.zeros((0, 10, 3), np.uint8)}, "first_frame"),
    "no column": ({"goal": np.zeros((20, 0, 3), np.uint8)}, "goal"),
    "one pixel": ({"first_frame": np.zeros((1, 1, 3), np.uint8)}, "first_frame"),
    "a line": ({"first_frame": np.zeros((16, 9000, 3), np.uint8)}, "first_frame"),
    "no picture": ({"first_frame": None}, "first_frame"),
    "a ragged list": ({"goal": [[1, 2], [3]]}, "goal"),
    "a file name": ({"first_frame": "first.png"}, "first_frame"),
    "a number as prompt": ({"prompt": 5}, "prompt"),
    "bytes as prompt": ({"prompt": b"a hall"}, "prompt"),
    "no prompt": ({"prompt": None}, "prompt"),
    "a book": ({"prompt": "a" * 10_000}, "prompt"),
}


@pytest.mark.parametrize("case", ODD_OPTIONS)
def test_invalid_options_are_named(world: WorldEnvironment, case: str):
    options, field = ODD_OPTIONS[case]
    with pytest.raises(InputError, match=f"environment: {field}: ") as raised:
        world.reset(options=options)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400
    assert world.reset(seed=0)[0].shape == (16, 32, 3)


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_chunks", 0), ("max_chunks", -1), ("max_chunks", 1.5), ("max_chunks", True), ("max_chunks", "ten"), ("reward", 1.0), ("goal_tolerance", float("nan")),
     ("goal_tolerance", 2), ("actions", "all"), ("actions", []), ("actions", [1, 2]), ("actions", 9), ("device", 5),
     ("chunk_latents", 0), ("chunk_latents", 1.0), ("chunk_latents", "1"), ("render_mode", "human"), ("pictures", [np.zeros((0, 10, 3), np.uint8)])],
)  # fmt: skip
def test_invalid_settings_are_named(engine: Engine, field: str, value: object):
    with pytest.raises(InputError, match=f"environment: {field}"):
        WorldEnvironment(engine, **{"pictures": PICTURES, field: value})  # type: ignore[arg-type]
    assert engine.sessions == 0


def test_keys_of_a_list_that_do_not_exist_or_cancel_each_other_are_named(engine: Engine):
    for actions in (["x"], ["ws"], ["w", "lj"]):
        with pytest.raises(InputError, match="controls"):
            WorldEnvironment(engine, pictures=PICTURES, actions=actions)


def test_looking_up_and_down_is_offered_only_by_models_that_have_learned_it(engine: Engine):
    world = WorldEnvironment(engine, pictures=PICTURES, actions=["i", "wk"])
    assert world.action_space.n == 2
    world.close()
    engine.model.config = engine.model.config.model_copy(update={"pitch": False})
    world = WorldEnvironment(engine, pictures=PICTURES)
    assert list(world.action_space.nvec) == [3, 3, 3, 1]
    world.reset(seed=0)
    with pytest.raises(InputError, match="look up and down"):
        world.step([1, 0, 0, 1])
    assert world.step([1, 0, 0, 0])[0].shape == (16, 32, 3)
    with pytest.raises(InputError, match="'wk'"):
        WorldEnvironment(engine, pictures=PICTURES, actions=["w", "wk"])


def test_a_model_that_is_none_is_named(tmp_path: Path):
    for model in (5, b"models", object(), tmp_path, tmp_path / "nowhere", ""):
        with pytest.raises(InputError):
            WorldEnvironment(model)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="num_envs"):
        WorldVectorEnvironment(0)


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


def test_gymnasium_makes_an_environment_of_the_model_that_comes_along():
    settings = {"max_chunks": 2, "chunk_latents": 1}
    made = gymnasium.make(NAME, render_mode="rgb_array", **settings)
    assert len(episode(made, [AHEAD, TURN], seed=0)) == 3
    check_env(made.unwrapped)  # this one has a spec, so it is made again for every render mode
    vector = gymnasium.make_vec(NAME, num_envs=2, **settings, model=str(SHIPPED))
    assert vector.reset(seed=0)[0].shape == (2, 64, 96, 3)
    vector.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model's folder, with pictures."""
    from PIL import Image

    served_world(tmp_path / "codec").save(tmp_path / "model")
    (tmp_path / "model" / "pictures").mkdir()
    for number, one in enumerate(PICTURES):
        Image.fromarray(one).save(tmp_path / "model" / "pictures" / f"{number}.png")
    return tmp_path / "model"


def test_environments_of_a_folder_share_one_engine_which_the_last_one_closes(folder: Path):
    worlds = [WorldEnvironment(folder) for _ in range(3)]
    for one in worlds[:2]:
        one.reset(seed=0)
    engines = {id(one._seat.engine) for one in worlds[:2]}  # type: ignore[union-attr]
    assert len(engines) == 1 and worlds[2]._seat is None  # a model is loaded by the first reset
    engine = worlds[0]._seat.engine  # type: ignore[union-attr]
    for one, left in zip(worlds, (1, 0, 0), strict=True):
        one.close()
        assert engine.sessions == left
    with pytest.raises(RuntimeError):  # its threads have ended
        engine.admit().step("w*12")
    assert worlds[0].reset(seed=0)[0].shape == (16, 32, 3)
    worlds[0].close()
    with pytest.raises(InputError, match="reset"):
        worlds[0].step(np.array(AHEAD))


def steps_of(vector: gymnasium.vector.VectorEnv) -> list[np.ndarray]:
    frames = [vector.reset(seed=7)[0]]
    for _ in range(3):
        frame, _, terminated, _, info = vector.step(np.array([AHEAD, TURN, [1, 0, 1, 0]]))
        frames.append(frame)
    assert info["frames"].shape == (3, 12, 16, 32, 3) and info["c2w"].shape == (3, 4, 4) and not np.any(terminated)
    return frames


def one_server_for_all(context: str, folder: Path, place: Path) -> None:
    """The body of the next test, in a program of its own: multiprocessing keeps one fork server, with its environment, per program."""
    os.environ["TMPDIR"], tempfile.tempdir = str(place), None
    here = gymnasium.make_vec(NAME, num_envs=3, model=folder)
    expected = steps_of(here)
    here.close()
    vector = gymnasium.make_vec(NAME, num_envs=3, vectorization_mode="async", vector_kwargs={"context": context}, model=folder)
    found = steps_of(vector)
    sockets = list(place.rglob("*.sock"))
    assert len(sockets) == 1 and sockets[0].parent.stat().st_mode & 0o077 == 0
    assert all(np.array_equal(one, other) for one, other in zip(expected, found, strict=True))
    vector.close()
    while list(place.rglob("*.sock")):  # the server ends when nobody is connected; the test's limit is the suite's
        time.sleep(0.1)
    assert not list(place.rglob("*.lock"))


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow), pytest.param("forkserver", marks=pytest.mark.slow)])
def test_workers_of_an_async_vector_are_clients_of_one_server(folder: Path, tmp_path_factory: pytest.TempPathFactory, context: str):
    place = tmp_path_factory.mktemp("s")  # short: a socket's path has at most 100 bytes
    program = multiprocessing.get_context("spawn").Process(target=one_server_for_all, args=(context, folder, place))
    program.start()
    program.join()
    assert program.exitcode == 0  # the error is on its standard error


def invalid_worlds(folder: str, answers: object) -> None:
    try:
        WorldEnvironment(folder)
        answers.put("made")  # type: ignore[attr-defined]
    except InputError as error:
        answers.put(str(error))  # type: ignore[attr-defined]


def test_a_model_that_cannot_be_served_is_one_line_in_a_worker(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    worker = context.Process(target=invalid_worlds, args=(str(tmp_path), answers))
    worker.start()
    assert "model_index.json: found no such file" in answers.get()
    worker.join()


def test_an_engine_in_a_forked_process_is_refused_instead_of_waiting_for_ever(engine: Engine):
    world = WorldEnvironment(engine, pictures=PICTURES)
    child = os.fork()
    if child == 0:
        refused = 0
        for request in (world.reset, lambda: WorldEnvironment(engine)):
            try:
                request()
            except InputError as error:
                refused += "fork" in str(error)
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert world.reset(seed=0)[0].shape == (16, 32, 3)


def test_episodes_are_recorded_with_all_frames(world: WorldEnvironment, tmp_path: Path):
    recorded = RecordEpisodes(world, tmp_path / "videos", trigger=lambda episode: episode != 1)
    for count in (3, 1, 2):  # the first one is truncated, the others are left
        episode(recorded, [AHEAD] * count, seed=0)
    recorded.close()
    assert {path.name for path in (tmp_path / "videos").iterdir()} == {"episode-0.mp4", "episode-2.mp4"}
    facts = [video_info(tmp_path / "videos" / f"episode-{number}.mp4") for number in (0, 2)]
    assert [one.num_frames for one in facts] == [37, 25] and facts[0].fps == pytest.approx(world.metadata["frame_fps"], rel=1e-3)


def test_gymnasiums_recorder_says_what_it_needs(world: WorldEnvironment, tmp_path: Path):
    with pytest.raises(gymnasium.error.DependencyNotInstalled, match="pip install"):
        gymnasium.wrappers.RecordVideo(world, str(tmp_path / "videos"))


def test_importing_it_loads_no_pytorch():
    script = "import sys, moworld.inference.environment; print(sorted({'torch', 'diffusers', 'cv2'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
