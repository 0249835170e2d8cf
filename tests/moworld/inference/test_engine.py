"""Several sessions on one model: admitted, served in turn, independent of each other."""

from concurrent.futures import CancelledError
from concurrent.futures import wait as wait_for
from pathlib import Path

import numpy as np
import pytest

from moworld.errors import InputError
from moworld.inference.session import WorldSession
from tests.moworld.inference.worlds import Letters, picture, tiny_engine


@pytest.fixture
def engine(tmp_path: Path):
    made = tiny_engine(tmp_path, max_sessions=3)
    yield made
    made.close()


def test_sessions_side_by_side_see_what_each_would_see_alone(engine):
    controls = {3: ["w*12", "l*12", "wl*12"], 4: ["s*12", "j*12", "d*12"]}
    seats = {seed: engine.admit() for seed in controls}
    frames = {seed: [seat.open(picture(seed=seed), "a hall", seed).result().frames] for seed, seat in seats.items()}
    for number in range(3):
        asked = {seed: seats[seed].step(keys[number]) for seed, keys in controls.items()}  # both under way at once
        for seed, future in asked.items():
            frames[seed].append(future.result().frames)
    for seed, keys in controls.items():
        alone = WorldSession(engine.model, Letters(), engine.codec)
        expected = [alone.open(picture(seed=seed), "a hall", seed), *map(alone.step, keys)]
        assert all(np.array_equal(one, other) for one, other in zip(frames[seed], expected, strict=True))


def test_places_are_limited_and_given_back(engine):
    seats = [engine.admit() for _ in range(3)]
    with pytest.raises(InputError, match="fewer than 3"):
        engine.admit()
    seats[1].leave()
    seats[1].leave()  # twice does no harm
    assert engine.sessions == 2 and engine.admit()


def test_chunks_are_made_in_turn(engine):
    """A session that asks again as soon as it is answered does not get ahead of one that waits."""
    seats = [engine.admit() for _ in range(3)]
    for seat in seats:
        seat.open(picture()).result()
    order: list[int] = []
    for _ in range(4):
        futures = []
        for index, seat in enumerate(seats):
            future = seat.step("w*12")
            future.add_done_callback(lambda _, index=index: order.append(index))
            futures.append(future)
        wait_for(futures)
    assert order == [0, 1, 2] * 4


def test_a_second_request_before_the_first_is_answered_is_refused(engine):
    seat = engine.admit()
    seat.open(picture()).result()
    first = seat.step("w*12")
    with pytest.raises(RuntimeError, match="under way"):
        seat.step("w*12")
    first.result()


def test_who_leaves_frees_the_queue_and_errors_reach_who_asked(engine):
    first, second = engine.admit(), engine.admit()
    first.open(picture()).result()
    second.open(picture()).result()
    running, waiting = first.step("w*12"), second.step("w*12")
    second.leave()
    assert running.result().frames.shape == (12, 16, 32, 3)
    with pytest.raises(CancelledError):
        waiting.result()
    with pytest.raises(InputError, match="key"):
        first.step("q*12").result()
    assert first.step("w*12").result().frames.shape == (12, 16, 32, 3)  # and the world goes on
    assert engine.sessions == 1
