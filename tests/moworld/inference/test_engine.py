"""Several sessions on one model: admitted, served in turn, independent of each other."""

import threading
from concurrent.futures import CancelledError
from concurrent.futures import wait as wait_for
from pathlib import Path

import numpy as np
import pytest
import torch

from moworld.errors import InputError
from moworld.inference.engine import Engine
from moworld.inference.session import WorldSession
from moworld.model.world import WorldModel
from tests.moworld.inference.worlds import Letters, picture, served_world, tiny_engine


@pytest.fixture
def engine(tmp_path: Path):
    made = tiny_engine(tmp_path, max_sessions=3)
    yield made
    made.close()


def test_concurrent_sessions_get_the_frames_of_single_sessions(engine):
    controls = {3: ["w*12", "l*12", "wl*12"], 4: ["s*12", "j*12", "d*12"]}
    slots = {seed: engine.admit() for seed in controls}
    frames = {seed: [slot.open(picture(seed=seed), "a hall", seed).result().frames] for seed, slot in slots.items()}
    for number in range(3):
        requested = {seed: slots[seed].step(keys[number]) for seed, keys in controls.items()}  # both in progress at once
        for seed, future in requested.items():
            frames[seed].append(future.result().frames)
    for seed, keys in controls.items():
        alone = WorldSession(engine.model, Letters(), engine.codec)
        expected = [alone.open(picture(seed=seed), "a hall", seed), *map(alone.step, keys)]
        assert all(np.array_equal(one, other) for one, other in zip(frames[seed], expected, strict=True))


class MeetingDenoiser:
    """Denoises a chunk when another chunk is being denoised, too."""

    def __init__(self, world: WorldModel) -> None:
        self.by_experts, self.both = world.denoiser, threading.Barrier(2, timeout=60)

    def denoise(self, *arguments: object) -> torch.Tensor:
        self.both.wait()
        return self.by_experts.denoise(*arguments)  # type: ignore[arg-type]


def test_workers_denoise_chunks_of_different_sessions_at_once_with_the_frames_of_one(tmp_path: Path):
    world = served_world(tmp_path)
    plain = WorldModel(world.config, world.experts, world.codec_folder, world.device)
    meeting = WorldModel(world.config, world.experts, world.codec_folder, world.device, MeetingDenoiser(plain))
    engine = Engine(meeting, text_encoder=Letters(), workers=2)
    slots = [engine.admit() for _ in range(2)]
    for seed, slot in enumerate(slots):
        slot.open(picture(), "", seed).result()
    made = [future.result().frames for future in [slot.step("wl*12") for slot in slots]]
    engine.close()
    for seed, frames in enumerate(made):
        alone = WorldSession(plain, Letters(), engine.codec)
        alone.open(picture(), "", seed)
        assert np.array_equal(frames, alone.step("wl*12"))


def test_slots_are_limited_and_released(engine):
    slots = [engine.admit() for _ in range(3)]
    with pytest.raises(InputError, match="fewer than 3"):
        engine.admit()
    slots[1].release()
    slots[1].release()  # a second release changes nothing
    assert engine.sessions == 2 and engine.admit()


def test_chunks_are_served_in_turn(engine):
    """A session that requests without pause does not overtake one that waits."""
    slots = [engine.admit() for _ in range(3)]
    for slot in slots:
        slot.open(picture()).result()
    order: list[int] = []
    for _ in range(4):
        futures = []
        for index, slot in enumerate(slots):
            future = slot.step("w*12")
            future.add_done_callback(lambda _, index=index: order.append(index))
            futures.append(future)
        wait_for(futures)
    assert order == [0, 1, 2] * 4


def test_a_second_request_is_refused_while_a_chunk_is_in_progress(engine):
    slot = engine.admit()
    slot.open(picture()).result()
    first = slot.step("w*12")
    with pytest.raises(RuntimeError, match="in progress"):
        slot.step("w*12")
    first.result()


def test_release_cancels_a_waiting_chunk_and_errors_reach_the_caller(engine):
    first, second = engine.admit(), engine.admit()
    first.open(picture()).result()
    second.open(picture()).result()
    running, waiting = first.step("w*12"), second.step("w*12")
    second.release()
    assert running.result().frames.shape == (12, 16, 32, 3)
    with pytest.raises(CancelledError):
        waiting.result()
    with pytest.raises(InputError, match="key"):
        first.step("q*12").result()
    assert first.step("w*12").result().frames.shape == (12, 16, 32, 3)  # the world continues
    assert engine.sessions == 1
