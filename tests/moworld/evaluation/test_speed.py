"""Parts of the speed measurement without a model; the measurement is tested with the benchmark step."""

import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from moworld.errors import InputError
from moworld.evaluation.speed import CpuOfOthers, control_chunks, example_picture, measure_speed, weight_bytes


def test_controls_are_divided_into_padded_chunks():
    assert control_chunks("w*3,wl*2", 4) == [["w", "w", "w", "lw"], ["lw", "", "", ""]]


def test_the_example_picture_is_fixed_and_textured():
    picture = example_picture(64, 96)
    assert picture.shape == (64, 96, 3) and picture.dtype == np.uint8
    assert np.array_equal(picture, example_picture(64, 96)) and picture.std() > 10


def test_only_the_experts_weights_are_counted(tmp_path):
    for part, size in (("transformer", 10), ("transformer_2", 20), ("vae", 40)):
        (tmp_path / part).mkdir()
        (tmp_path / part / "diffusion_pytorch_model.safetensors").write_bytes(b"0" * size)
        (tmp_path / part / "config.json").write_bytes(b"{}")
    assert weight_bytes(tmp_path) == 30


def test_cpu_time_of_other_processes_is_found():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            others = CpuOfOthers()
            time.sleep(1)
            assert 0.3 / (psutil.cpu_count() or 1) < others.share() <= 1
        finally:
            busy.kill()


def test_zero_chunks_are_refused(tmp_path):
    with pytest.raises(InputError, match="chunks"):
        measure_speed(tmp_path, chunks=0)
