"""What kernels ask of a device: which of them and which tiles it takes, and whether its copy engine can read a tensor."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor


@cache
def chip(device: torch.device) -> str:
    """'hopper', 'npu', or 'other'."""
    if device.type == "cuda":
        return "hopper" if torch.cuda.get_device_capability(device)[0] == 9 else "other"
    return "npu" if device.type == "npu" else "other"


@cache
def no_hopper() -> str:
    """A probe: why the kernels for Hopper cannot run on this machine, "" when they can."""
    if not torch.cuda.is_available() or any(torch.cuda.get_device_capability(index)[0] != 9 for index in range(torch.cuda.device_count())):
        return "needs NVIDIA Hopper"
    return "" if find_spec("triton") and find_spec("triton.experimental.gluon") else "Triton is not installed, or has no Gluon"


@cache
def cpu_flags() -> frozenset[str]:
    """What Linux tells of this CPU: its vendor and its flags; nothing elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = (line.partition(":") for line in info.read_text().splitlines()) if info.is_file() else ()
    return frozenset(word for name, _, words in lines if name.strip() in ("vendor_id", "flags") for word in words.split())


def mkl_suits() -> str:
    """A probe: why float32 products are left to MKL on this CPU, "" where oneDNN's are faster: AMD with AVX-512, where MKL takes AVX2."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return "PyTorch is built without MKL or oneDNN"
    return "" if {"AuthenticAMD", "avx512f"} <= cpu_flags() else "MKL suits this CPU: it is no AMD with AVX-512"


@cache
def processors(device: torch.device) -> int:
    """How many programs run at the same time at least: one for each multiprocessor of a GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def describable(x: Tensor) -> bool:
    """Whether the copy engine can read it by tiles: it wants addresses and strides of whole 16 bytes, and columns side by side."""
    *outer, last = x.stride()
    return last == 1 and x.data_ptr() % 16 == 0 and all(stride * x.element_size() % 16 == 0 for stride in outer)
