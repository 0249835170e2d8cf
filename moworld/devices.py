"""The device of weights and tensors: an accelerator that PyTorch can use, or the CPU. The only place that chooses one."""

import torch

from moworld.errors import InputError

ACCELERATORS = ("cuda", "npu")  # PyTorch imports torch_npu by itself where it is installed; it registers npu


def pick_device(name: str = "") -> torch.device:
    """Returns the device `name`, as in "cuda:1"; for "", this machine's accelerator, or the CPU if it has none. See also `use_device`.

    Raises InputError if this machine has no such device.
    """
    if not name:
        found = torch.accelerator.current_accelerator(check_available=True)
        return found if found is not None and found.type in ACCELERATORS else torch.device("cpu")
    try:
        device = torch.empty(1, device=name).device
        use_device(device)
        return device
    except (RuntimeError, AssertionError, ImportError) as error:  # an unknown name, or a build or machine without it
        raise InputError("--device", "", name, "a device of this machine", f"use cpu ({str(error).splitlines()[0]})") from None


def use_device(device: torch.device) -> None:
    """Makes an accelerator the current one of this thread, where Triton's kernels run. Threads start with number 0."""
    if device.type in ACCELERATORS and device.index:
        torch.accelerator.set_device_index(device.index)


def describe_device(device: torch.device) -> str:
    """Returns the device and, of an accelerator, its model and memory: "cuda, NVIDIA H200, 139.8 GiB"."""
    if device.type not in ACCELERATORS:
        return str(device)
    properties = torch.get_device_module(device).get_device_properties(device)
    return f"{device}, {properties.name}, {properties.total_memory / 2**30:.1f} GiB"
