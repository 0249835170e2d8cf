"""A fake accelerator for tests: tensors of device `cuda` without values, on machines without one. An operation on two devices raises.

PyTorch's fake tensors have no values, so numbers that Python reads are invented: booleans true, integers 1, and floats one of `LEVELS` in
turn, so that a schedule selects both experts. Implementations of operators are those in plain PyTorch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any
from unittest.mock import patch

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from moworld.kernels.dispatch import named

LEVELS = (1.0, 0.5)
INDEXING = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)
READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default, torch.ops.aten.is_nonzero.default)
PLAIN = dict.fromkeys(("attention", "int8_linear", "modulated_norm", "qk_norm_rope"), "reference")

FLATTEN = safetensors.torch._flatten_as_ptr


class InventedNumbers(TorchDispatchMode):
    """Answers reads of a tensor's value, and checks the devices of indices, which fake tensors do not."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = cycle(LEVELS)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.equal.default:
            assert args[0].device == args[1].device
            return True
        if func in INDEXING:
            devices = {index.device for index in args[1] if index is not None} - {torch.device("cpu"), args[0].device}
            assert not devices, f"{args[0].device} tensor indexed by {devices}"
        if func in READS:
            if args[0].dtype == torch.bool:
                return True
            return next(self.levels) if args[0].is_floating_point() else 1
        return func(*args, **(kwargs or {}))


class Borders(TorchFunctionMode):
    """What fake tensors lack where values enter and leave.

    `numpy()` of CPU tensors gives ones, and raises for others, as it does for real ones. `torch.tensor` on the accelerator gives an empty
    tensor, instead of a copy that needs a driver. safetensors reads real tensors.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.numpy:
            if args[0].device.type != "cpu":
                raise TypeError(f"can't convert {args[0].device} device type tensor to numpy")
            return np.ones(args[0].shape, str(args[0].dtype).removeprefix("torch."))
        if func is torch.tensor and kwargs and torch.device(kwargs.get("device") or "cpu").type != "cpu":
            made = torch.tensor(*args, dtype=kwargs.get("dtype"))
            return torch.empty(made.shape, dtype=made.dtype, device=kwargs["device"])
        if func is torch.asarray:
            with unset_fake_temporarily():
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def replace_tensors(module: nn.Module, convert: Any, recurse: bool = True) -> nn.Module:
    """What `nn.Module.to` does, by new parameters: by default it swaps fake ones in place, which PyTorch refuses."""
    for part in module.modules():
        for name, value in part._parameters.items():
            part._parameters[name] = None if value is None else nn.Parameter(convert(value), value.requires_grad)
        for name, value in part._buffers.items():
            part._buffers[name] = None if value is None else convert(value)
    return module


def flatten_real(tensors: dict[str, torch.Tensor], alive: list[Any]) -> Any:
    """Makes safetensors write ones in place of fake tensors, which must be on the CPU."""
    assert {tensor.device.type for tensor in tensors.values()} <= {"cpu"}
    with unset_fake_temporarily():
        real = {name: torch.ones(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors.items()}
    return FLATTEN(real, alive)


@contextmanager
def fake_accelerator() -> Iterator[None]:
    """Makes tensors of device `cuda` possible in the block. Tensors made before it keep their device."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    patches = patch.object(nn.Module, "_apply", replace_tensors), patch("safetensors.torch._flatten_as_ptr", flatten_real)
    with patches[0], patches[1], mode, InventedNumbers(), Borders(), named(**PLAIN):
        yield
