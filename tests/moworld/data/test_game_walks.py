"""Walks of the engine under given keys: the truth of protocol `walk`."""

import numpy as np
import pytest

from moworld.camera.controls import controls_to_c2w
from moworld.data.game_maps import game_maps, split_of_map
from moworld.data.game_walks import Level
from moworld.data.settings import GameSettings
from moworld.evaluation.walk import warped

SIZE = (64, 96)
LENS = (0.5, 0.9, 0.5, 0.5)


@pytest.fixture(scope="module")
def level():
    with Level("MAP07", GameSettings(), SIZE) as opened:
        yield opened


def test_the_poses_of_a_planned_walk_are_those_of_its_keys(level) -> None:
    start, keys = level.planned(25, np.random.default_rng(3))
    walk = level.walk(start, keys)
    assert walk.frames.shape == (25, *SIZE, 3) and walk.depth.shape == (25, *SIZE)
    commanded = controls_to_c2w([frozenset(key) for key in keys], degrees=3.0)
    moved = walk.c2w[:, :3, 3] - commanded[:, :3, 3]
    moved[:, 1] = 0  # stairs
    assert np.abs(moved).max() < 0.006, "the engine warps to whole map units, 1/540 model unit"
    np.testing.assert_allclose(walk.c2w[:, :3, :3], commanded[:, :3, :3], atol=2e-3)


def test_walls_stop_the_player_who_slides_along_them(level) -> None:
    start = level.start(np.random.default_rng(4))
    places = np.array(level.follow(start, ["w"] * 400))
    steps = np.linalg.norm(np.diff(places[:, :2], axis=0), axis=1)
    assert steps.max() <= level.settings.units_per_frame + 1e-9 and steps[-50:].sum() < 50 * level.settings.units_per_frame
    clear = level.geometry.at(level.geometry.clearance, *places[:, :2].T)
    assert clear.min() >= level.walker.body_units / 2
    turned = np.array(level.follow(tuple(places[-1]), ["j"] * 10))
    assert turned[-1, 2] - turned[0, 2] == pytest.approx(30.0)


def test_the_first_frame_warped_by_the_true_depth_shows_what_the_engine_shows(level) -> None:
    start = level.start(np.random.default_rng(5))
    walk = level.walk(start, ["j"] * 5)
    moved = warped(walk, LENS)

    def error(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.abs(one[-1, 8:-8, 40:-8].astype(float) - other[-1, 8:-8, 40:-8]).mean())  # what the first frame showed

    still = np.broadcast_to(walk.frames[:1], walk.frames.shape)
    np.testing.assert_array_equal(moved[0], walk.frames[0])
    assert error(moved, walk.frames) < 0.5 * error(still, walk.frames)


def test_every_level_is_in_one_split_and_a_profile_cannot_move_it() -> None:
    names = [name for split in game_maps().values() for name in split]
    assert len(names) == len(set(names)) == 68
    assert split_of_map("MAP07") == "held_out" and split_of_map("MAP77") == ""
    with pytest.raises(ValueError, match="MAP07 is a level of the split held_out, not train"):
        GameSettings(train_maps=("MAP07",))
