"""Used-up memory and lost ranks are different errors of one line; all others pass."""

import pytest
import torch
import torch.distributed as dist

from moworld.errors import InputError
from moworld.inference.failures import memory_errors, peer_errors
from moworld.inference.session import WorldSession
from tests.moworld.inference.worlds import Letters, picture, served_world

CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 23.69 GiB of which 5.44 MiB is free. Process 7 has"
    " 20 GiB memory in use.\nSee documentation."
)
NPU = "NPU out of memory. Tried to allocate 2.00 GiB (NPU 0; 60.97 GiB total capacity; 58.00 GiB already allocated; 1.20 GiB free; ...)"


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (torch.OutOfMemoryError(CUDA), "20.00 MiB needed, 5.44 MiB free"),
        (RuntimeError(NPU), "2.00 GiB needed, 1.20 GiB free"),
        (MemoryError(), "no more memory"),
    ],
    ids=["cuda", "npu", "python"],
)
@pytest.mark.parametrize("errors", [memory_errors, peer_errors])
def test_used_up_memory_is_its_own_error_also_among_ranks(errors, error, found):
    with pytest.raises(InputError) as line, errors("denoising"):
        raise error
    assert str(line.value).startswith(f"memory: denoising: found {found}, expected ") and "--memory" in str(line.value)


def test_a_chunk_that_is_too_large_for_the_memory_is_one_line(tmp_path):
    session = WorldSession(served_world(tmp_path), Letters())
    session.open(picture())
    session.rollout.denoise = lambda *_: torch.empty(1 << 46, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"memory: denoising: found 70368744177664 bytes needed, expected"):
        session.step("w")


@pytest.mark.parametrize(
    "error", [dist.DistBackendError("NCCL error: remote process exited"), RuntimeError("[gloo/tcp/pair.cc:1] Connection closed by peer")]
)
def test_errors_of_the_process_group_are_missing_ranks(error):
    with pytest.raises(InputError, match=r"ranks: denoising: found .*, expected all ranks at work"), peer_errors("denoising"):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("The size of tensor a (3) must match"), ValueError("no")])
def test_other_errors_pass(error):
    with pytest.raises(type(error), match=str(error)[:5]), peer_errors("denoising"):
        raise error
