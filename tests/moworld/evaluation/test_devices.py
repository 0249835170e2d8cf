"""The held-out protocol on a fake accelerator: a tensor that is left on the CPU raises. Its numbers are invented."""

import pytest

from moworld.evaluation.protocol import measure_accuracy, write_samples
from moworld.evaluation.settings import BenchmarkSettings
from moworld.model.world import WorldModel
from tests.moworld.evaluation.test_protocol import made  # noqa: F401 a fixture
from tests.moworld.inference.accelerator import fake_accelerator

SETTINGS = BenchmarkSettings(windows=2, teacher_steps=2, samples=1, sample_chunks=2)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor", "ignore:invalid value", "ignore:divide by zero")
def test_accuracy_and_samples_are_measured_on_the_accelerator(made, tmp_path):  # noqa: F811
    store, world, _ = made
    world.save(tmp_path / "model")
    (tmp_path / "samples").mkdir()
    with fake_accelerator():
        loaded = WorldModel.load(tmp_path / "model", "cuda")
        assert "student_next_chunk_psnr" in measure_accuracy(lambda _: loaded, store, SETTINGS, 3)
        assert len(write_samples(loaded, store, None, tmp_path, SETTINGS, 3)["samples"]) == 1
