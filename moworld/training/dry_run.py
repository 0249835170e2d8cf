"""Dry run: executes real steps at true size on fake tensors and fake ranks, and counts the bytes that one rank would hold.

A fake tensor has a shape and a dtype but no memory, so a rank of the paper's model fits into a small process. Collectives of the fake process
group move nothing. `MemoryTracker` counts every storage from its allocation to its end. Time is not measured.
"""

import copy
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.distributed._tools.mem_tracker import MemTracker, _MemRefType
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from moworld.kernels import int8_linear
from moworld.kernels.dispatch import Implementation, Operator

REAL_ELEMENTS = 2**16  # tensors up to this size, such as schedules, cameras and random draws, have values
Kind = _MemRefType


@dataclass(frozen=True)
class Peak:
    """The bytes of one rank at the moment of its largest total.

    parameters, gradients, optimizer: this rank's shards, buffers included; gradients after their reduction
    gathered:    weights of other ranks, and the buffers that collect weights and sum gradients
    activations: all else: of forward and backward, gradients before their reduction, inputs
    """

    parameters: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


class MemoryTracker(MemTracker):
    """PyTorch's tracker without its statistics per module, which take longer than the step itself.

    It also distinguishes gathered weights and reduced gradients from activations, and counts no tensors of DTensor's shape inference.
    """

    def __init__(self) -> None:
        super().__init__()
        self._mod_tracker: Any = _NoModules()
        self.pauses, self.placing = 0, 0

    def start_step(
        self, modules: Iterable[nn.Module], optimizers: Iterable[torch.optim.Optimizer] = (), copies: Iterable[Tensor] = ()
    ) -> None:
        """Labels weights and their `copies`, gradients from now on, and the optimizers' state; then forgets the peak so far.

        `placing` becomes that peak, of creating and placing the modules.
        """
        for module in modules:
            self._label([*module.parameters(), *module.buffers()], Kind.PARAM)
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(lambda p: self._label([p.grad], Kind.GRAD))
        self._label(copies, Kind.PARAM)
        for optimizer in optimizers:
            self._track_optimizer_states(Kind.OPT, optimizer)
        self.placing = max((size for device, size in self._peak_mem.items() if device.type != "meta"), default=0)
        self._peak_mem.clear()
        self._peak_mem_snap.clear()
        self._update_peak_stats(None)

    def peak(self) -> Peak:
        """Returns the largest total since `start_step`."""
        kinds = next(kinds for device, kinds in self._peak_mem_snap.items() if device.type != "meta")
        state = (kinds[Kind.PARAM] + kinds[Kind.BUFFER], kinds[Kind.GRAD], kinds[Kind.OPT])
        return Peak(*state, kinds[Kind.OTH], kinds[Kind.ACT])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.pauses:
            return func(*args, **(kwargs or {}))
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if func in BUFFERS:
            self._label(BUFFERS[func](args, kwargs or {}), Kind.OTH)
        return result

    def __enter__(self) -> "MemoryTracker":
        ShardingPropagator._fake_mode_lock = _Pause(self)  # type: ignore[assignment]  # DTensor enters it to infer shapes
        super().__enter__()
        return self

    def _label(self, tensors: Iterable[Tensor | None], kind: Any) -> None:
        for tensor in tensors:
            if tensor is not None:
                self._update_and_maybe_create_winfos(tensor, kind)

    def _update_peak_stats(self, peak_state: Any) -> None:
        for device, kinds in self._curr_mem_snap.items():
            if kinds["Total"] > self._peak_mem.get(device, 0):
                self._peak_mem[device], self._peak_mem_snap[device] = kinds["Total"], dict(kinds)


class _NoModules:
    """Replaces PyTorch's tracker of modules, whose hooks keep a gradient of each block until the backward pass ends."""

    is_bw = False

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class _Pause:
    """A context that may be entered again and again, in which a tracker counts nothing."""

    def __init__(self, tracker: MemoryTracker) -> None:
        self.tracker = tracker

    def __enter__(self) -> None:
        self.tracker.pauses += 1

    def __exit__(self, *_: object) -> None:
        self.tracker.pauses -= 1


# Operators by which FSDP collects weights and gradients: the buffers in their arguments.
BUFFERS: dict[Any, Callable[[Any, Any], list[Tensor]]] = {
    torch.ops.c10d._allgather_base_.default: lambda args, _: [args[0]],
    torch.ops.fsdp.split_with_sizes_copy.default: lambda _, kwargs: list(kwargs["out"]),
    torch.ops.fsdp.chunk_cat.default: lambda _, kwargs: [kwargs["out"]],
}


class _Values(TorchDispatchMode):
    """Computes small real tensors for real. Of fake ones every number is 1 and every truth value is true.

    Random draws, schedules and cameras therefore take the same path as in a real run, and checks of fake losses pass.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_iter((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(isinstance(tensor, FakeTensor) for tensor in tensors):
            if func is torch.ops.aten._local_scalar_dense.default:
                return True if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 1
            return func(*args, **kwargs)
        sizes = [tensor.numel() for tensor in tensors] or [math.prod(leaf for leaf in tree_iter(args) if isinstance(leaf, int))]
        if max(sizes) > REAL_ELEMENTS or any(tensor.device.type != "cpu" for tensor in tensors):
            return func(*args, **kwargs)
        with unset_fake_temporarily():
            return func(*args, **kwargs)


@contextmanager
def fake_ranks(world: int, rank: int) -> Iterator[None]:
    """Opens a fake process group of `world` ranks, in which this process is `rank`, as torchrun would. One per process.

    Device meshes must be made before fake tensors are: call `join_ranks` outside `fake_tensors`.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    os.environ.update(WORLD_SIZE=str(world), RANK=str(rank), LOCAL_RANK="0")
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _copied(tensor: Tensor, _: Any) -> Tensor:
    """Implements `copy.deepcopy`."""
    copied = tensor.detach().clone()
    return nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied


@contextmanager
def fake_tensors() -> Iterator[MemoryTracker]:
    """Makes every large tensor that the body creates fake, and yields the tracker that counts it."""
    copiers: dict[Any, Any] = copy._deepcopy_dispatch  # type: ignore[attr-defined]
    copiers[FakeTensor], copiers[Tensor] = _copied, _copied  # without values deepcopy fails
    with FakeTensorMode(allow_non_fake_inputs=True), _Values(), MemoryTracker() as tracker:
        yield tracker


class _AscendShapes(ModuleType):
    """Stands in for torch_npu: its INT8 operators without values."""

    @staticmethod
    def npu_dynamic_quant(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.empty_like(x, dtype=torch.int8), x.new_empty(x.shape[:-1], dtype=torch.float32)

    @staticmethod
    def npu_quant_matmul(x: Tensor, weight: Tensor, scale: Tensor, pertoken_scale: Tensor, output_dtype: torch.dtype) -> Tensor:
        return x.new_empty(*x.shape[:-1], weight.shape[1], dtype=output_dtype)


@contextmanager
def ascend_shapes() -> Iterator[None]:
    """Runs INT8 layers by the binding for NPUs: CPUs have no fused INT8 product, and keep several float copies of its result."""
    before, sys.modules["torch_npu"] = int8_linear.OPERATOR, _AscendShapes("torch_npu")
    int8_linear.OPERATOR = Operator("int8_linear", (Implementation("npu", ("cpu",), "npu_binding:int8_linear"),))
    try:
        yield
    finally:
        int8_linear.OPERATOR = before
        del sys.modules["torch_npu"]
