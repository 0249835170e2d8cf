"""The Triton kernels: interpreted on the CPU against their references, and compiled for absent GPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("interpreted")


def test_interpreted_kernels_agree_with_their_references():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", str(FOLDER)]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout and " passed" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_every_kernel_compiles_for_nvidia_within_its_shared_memory_and_without_spilling_to_local(capability, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from tests.moworld.kernels.compiled import compiled, kernels

    for name, (kernel, types, constants) in kernels("hopper" if capability == 90 else "other").items():
        made = compiled(kernel, types, constants, capability)
        assert made.metadata.shared <= (227 if capability == 90 else 163) * 1024, name  # what a program may take on an H100, an A100
        assert ".local" not in made.asm["ptx"], name
        if name.startswith(("attention", "int8_product")):  # on tensor cores
            assert ("wgmma" if capability == 90 else "mma.sync") in made.asm["ptx"], name
        if constants.get("DESCRIPTORS") or "Hopper" in name:
            assert "cp.async.bulk.tensor" in made.asm["ptx"], name
