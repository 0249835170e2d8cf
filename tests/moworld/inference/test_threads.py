"""PyTorch's threads while a world is served, and whether decoding runs beside denoising."""

import os
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from moworld.inference.session import WorldSession, stream
from moworld.inference.threads import decodes_beside, denoising_workers, serving_threads
from moworld.model.world import WorldModel
from tests.moworld.inference.worlds import picture, served_world, tiny_engine


@pytest.fixture
def two_threads(monkeypatch):
    """PyTorch with two threads, as a user's process has."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("speedup", "expected"), [(1.2, 1), (4.0, 2)])
def test_several_threads_are_used_where_they_are_worthwhile(two_threads, speedup, expected):
    found = []

    def chunk():
        time.sleep(0.2 / (speedup if torch.get_num_threads() == 2 else 1))

    with serving_threads(chunk):
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))  # the engine's threads get the same number
        thread.start()
        thread.join()
        assert found == [torch.get_num_threads()] == [expected]
    assert torch.get_num_threads() == 2


def test_as_many_chunks_are_denoised_at_once_as_there_are_cores_if_each_uses_one(two_threads, tmp_path):
    world = served_world(tmp_path)
    assert denoising_workers(world) == 1
    torch.set_num_threads(1)
    assert denoising_workers(world) == len(os.sched_getaffinity(0))
    other = WorldModel(world.config, world.experts, world.codec_folder, world.device, SimpleNamespace(denoise=world.denoiser.denoise))
    assert denoising_workers(other) == 1, "not known to denoise two chunks at once"


def test_a_number_that_is_set_stays(two_threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with serving_threads(lambda: pytest.fail("nothing to measure")):
        assert torch.get_num_threads() == 2


def test_decoding_takes_turns_with_denoising_if_both_use_several_threads(two_threads, tmp_path):
    assert not decodes_beside(torch.nn.Linear(2, 2)) and decodes_beside(object())  # a codec over ranks is no module
    torch.set_num_threads(1)
    assert decodes_beside(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("count", [1, 2])
def test_frames_do_not_depend_on_what_decodes(two_threads, tmp_path, count):
    torch.set_num_threads(count)
    session, controls = WorldSession(served_world(tmp_path / "codec")), ["w*12", "l*12", "wl*12"]
    session.open(picture(), seed=2)
    expected = [session.step(keys) for keys in controls]
    names = []
    decode = session.decode
    session.decode = lambda latents: names.append(threading.current_thread().name) or decode(latents)
    session.open(picture(), seed=2)
    names.clear()
    assert all((frames == exact).all() for frames, exact in zip(stream(session, controls), expected, strict=True))
    assert all(name.startswith("decode") for name in names) == (count == 1) and len(names) == 3
    engine = tiny_engine(tmp_path / "codec", max_sessions=1)
    slot = engine.admit()
    slot.open(picture(), seed=2).result()
    assert all((slot.step(keys).result().frames == exact).all() for keys, exact in zip(controls, expected, strict=True))
    engine.close()
