"""What the Triton kernels ask of a device: which table of tiles it takes, and whether its copy engine can read a tensor."""

from functools import cache

import torch
from torch import Tensor


@cache
def chip(device: torch.device) -> str:
    """'hopper', 'npu', or 'other'."""
    if device.type == "cuda":
        return "hopper" if torch.cuda.get_device_capability(device)[0] == 9 else "other"
    return "npu" if device.type == "npu" else "other"


@cache
def processors(device: torch.device) -> int:
    """How many programs run at the same time at least: one for each multiprocessor of a GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def describable(x: Tensor) -> bool:
    """Whether the copy engine can read it by tiles: it wants addresses and strides of whole 16 bytes, and columns side by side."""
    *outer, last = x.stride()
    return last == 1 and x.data_ptr() % 16 == 0 and all(stride * x.element_size() % 16 == 0 for stride in outer)
