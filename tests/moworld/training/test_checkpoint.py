"""A training killed at any moment ends with the weights of an uninterrupted one; it can resume on a different number of ranks."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from moworld.errors import InputError
from moworld.training.checkpoint import Checkpoints
from moworld.training.curriculum import train_stage
from moworld.training.parallel import Ranks
from moworld.training.settings import OptimizerSettings, Stage
from moworld.training.trainer import Run
from tests.moworld.ranks import context, joined, run_ranks
from tests.moworld.worlds import tiny_batch, tiny_world

STAGE = Stage(frames=25, batch=4, steps=18, checkpoint_every=3, optimizer=OptimizerSettings(lr=3e-3, average=0.9, warmup=2, final_lr=0.1))
TASK = {"seed": 1}


def train(folder: Path | None, ranks: Ranks | None = None, steps: int = STAGE.steps, task: dict = TASK):
    """Trains on batches that are a function of their number; stops after `steps` steps and keeps its checkpoints."""
    ranks = ranks or Ranks()
    world = tiny_world()
    checkpoints = Checkpoints(folder, STAGE.checkpoint_every, task, ranks.is_first) if folder else None
    read: list[int] = []

    def batches_from(start: int):
        for number in range(start, 10_000):
            if number >= 2 * steps:
                raise StopIteration
            read.append(number)
            yield {key: ranks.of_global(value) for key, value in tiny_batch(7, 4, seed=number).items()}

    try:
        curves = train_stage(world, STAGE, Run(batches_from, 3, ranks, checkpoints))
    except RuntimeError:  # the batches ended; saved checkpoints remain
        if checkpoints:
            checkpoints.wait()
        return None, None, read
    world.save(Path(folder or ".", "out"), write=False)
    state = {key: value.full_tensor() if hasattr(value, "full_tensor") else value for key, value in world.experts.state_dict().items()}
    return state, curves, read


def in_a_process(folder: str) -> None:
    torch.set_num_threads(1)
    state, curves, _ = train(Path(folder, "checkpoints"))
    torch.save(state, Path(folder, "done.tmp"))
    Path(folder, "curves").write_text(json.dumps(curves))
    os.rename(Path(folder, "done.tmp"), Path(folder, "done"))


@pytest.fixture(scope="module")
def uninterrupted():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    state, curves, _ = train(None)
    torch.set_num_threads(before)
    return state, curves


def train_with_kills(folder: Path, picker: random.Random, kills: int) -> int:
    """Restarts a training until it is finished; kills it at random moments, at most `kills` times; returns the number of kills."""
    made = 0
    while not (folder / "done").exists():
        process = context().Process(target=in_a_process, args=(str(folder),))
        process.start()
        if made < kills:
            before = set((folder / "checkpoints").glob("*"))
            while process.is_alive() and not (set((folder / "checkpoints").glob("*")) - before):  # wait for its next checkpoint
                time.sleep(0.002)
            time.sleep(picker.uniform(0, 0.06))  # while it is being written, or in a later step
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                made += 1
        process.join()
    return made


@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_kills_at_random_moments_do_not_change_the_weights(uninterrupted, tmp_path, kills):
    picker, left = random.Random(4), kills
    for trial in range(kills):
        folder = tmp_path / str(trial)
        folder.mkdir()
        left -= train_with_kills(folder, picker, left)
        state = torch.load(folder / "done", weights_only=True)
        assert all(torch.equal(state[key], value) for key, value in uninterrupted[0].items())
        assert json.loads((folder / "curves").read_text()) == uninterrupted[1]
        if not left:
            return
    raise AssertionError(f"only {kills - left} kills in {kills} trainings")


def on_two(rank: int, folder: str, steps: int):
    state, curves, read = train(Path(folder), joined(ulysses=1), steps)
    return {"read": read, "state": state, "curves": curves}


def test_a_different_number_of_ranks_resumes_with_the_same_order_and_loss(uninterrupted, tmp_path):
    _, _, read = train(tmp_path / "c", steps=12)
    assert read == list(range(24))
    on_ranks = run_ranks(2, on_two, str(tmp_path / "c"), STAGE.steps)
    assert on_ranks[0]["read"] == list(range(24, 36)) == on_ranks[1]["read"]
    for name, curve in uninterrupted[1].items():
        found = on_ranks[0]["curves"][name]
        assert [step for step, _ in found] == list(range(18))
        assert max(abs(one[1] - other[1]) for one, other in zip(found, curve, strict=True)) <= 1e-4


def test_a_sharded_run_resumes_on_one_rank(uninterrupted, tmp_path):
    run_ranks(2, on_two, str(tmp_path / "c"), 9)
    state, curves, read = train(tmp_path / "c")
    assert read == list(range(18, 36))
    assert max(abs(a[1] - b[1]) for name in curves for a, b in zip(curves[name], uninterrupted[1][name], strict=True)) <= 1e-4
    assert all((state[key] - value).norm() <= 1e-2 * value.norm() + 1e-6 for key, value in uninterrupted[0].items())


def test_only_complete_checkpoints_of_the_task_are_loaded_and_old_ones_are_deleted(tmp_path):
    train(tmp_path / "c", steps=12)
    names = sorted(path.name for path in (tmp_path / "c").iterdir())
    assert names == ["step-00000009", "step-00000012"]
    (tmp_path / "c" / "step-00000015.tmp").mkdir()
    again = Checkpoints(tmp_path / "c", 3, TASK)
    assert again.latest() == (12, tmp_path / "c" / "step-00000012") and not list((tmp_path / "c").glob("*.tmp"))
    assert Checkpoints(tmp_path / "c", 3, {"seed": 2}).latest() is None
    train(tmp_path / "c", steps=4, task={"seed": 2})  # its step 3 must be kept although the other task reached step 12
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["step-00000003"]
    with pytest.raises(InputError, match=r"step-00000003: inputs\.teacher: found none.*expected SHA-256 0123.*delete .*/c to train"):
        Checkpoints(tmp_path / "c", 3, {"seed": 2, "inputs": {"teacher": "0123"}}).latest()
    again.clear()
    assert not (tmp_path / "c").exists()
    assert [step for step in range(1, 8) if again.is_due(step, 6)] == [3]
    assert not any(Checkpoints(tmp_path / "d", 0, TASK).is_due(step, 6) for step in range(8))
