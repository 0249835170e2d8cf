"""Properties of devices by which kernels and their tiles are chosen, and probes: why an implementation cannot run, "" if it can."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor


@cache
def is_hopper(device: torch.device) -> bool:
    """Returns whether a device is an NVIDIA Hopper."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9


@cache
def why_no_hopper() -> str:
    """Probe for the kernels that need NVIDIA Hopper and Triton's Gluon."""
    if not torch.cuda.is_available() or any(torch.cuda.get_device_capability(index)[0] != 9 for index in range(torch.cuda.device_count())):
        return "needs NVIDIA Hopper"
    return "" if find_spec("triton") and find_spec("triton.experimental.gluon") else "Triton is not installed, or has no Gluon"


@cache
def cpu_flags() -> frozenset[str]:
    """Returns this CPU's vendor and flags from Linux's /proc/cpuinfo; empty on other systems."""
    info = Path("/proc/cpuinfo")
    lines = (line.partition(":") for line in info.read_text().splitlines()) if info.is_file() else ()
    return frozenset(word for name, _, words in lines if name.strip() in ("vendor_id", "flags") for word in words.split())


def why_no_vnni() -> str:
    """Probe for int8 products in hardware (AVX512-VNNI or AVX-VNNI)."""
    return "this CPU has no VNNI: int8 products are emulated" if cpu_flags().isdisjoint(("avx512_vnni", "avx_vnni")) else ""


def why_no_onednn(flags: frozenset[str] | None = None) -> str:
    """Probe for float32 products by oneDNN: faster than MKL on AMD CPUs with AVX-512, where MKL uses AVX2. flags: default this CPU's."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return "PyTorch is built without MKL or oneDNN"
    found = cpu_flags() if flags is None else flags
    return "" if {"AuthenticAMD", "avx512f"} <= found else "MKL suits this CPU: it is no AMD with AVX-512"


@cache
def num_multiprocessors(device: torch.device) -> int:
    """Returns the number of multiprocessors of a GPU, 1 for other devices."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def has_descriptor(x: Tensor) -> bool:
    """Returns whether Hopper's copy engine (TMA) can read x by tiles: addresses and strides of whole 16 bytes, columns contiguous."""
    *outer, last = x.stride()
    return last == 1 and x.data_ptr() % 16 == 0 and all(stride * x.element_size() % 16 == 0 for stride in outer)
