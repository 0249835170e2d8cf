"""Attention over all keys, by the fastest way that a device has; `kernels.attention` is for parts of the keys, which are joined."""

import torch
from torch import Tensor

from kernels.chips import mkl_suits, no_hopper
from kernels.dispatch import Choice, Implementation, Operator, always, module, wants_gradient


def sdpa(query: Tensor, key: Tensor, value: Tensor, backend: str | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D)) v.

    query:   (B, H, N, D); key, value: (B, H, M, D), the same float dtype -> (B, H, N, D)
    backend: an implementation by name; None takes the first that serves the call
    Raises NoKernel for a backend that cannot run.
    """
    gradient = wants_gradient(query, key, value)
    choice = OPERATOR.choose(query.device.type, backend, query.dtype, gradient, head_dim=query.shape[3])
    return choice.operator(query, key, value)  # type: ignore[no-any-return]


def selected(device: str, backend: str | None = None) -> Choice:
    """The implementation for a device type, with what was refused and why."""
    return OPERATOR.choose(device, backend)


OPERATOR = Operator(
    "sdpa",
    (
        Implementation(
            "hopper",
            ("cuda",),
            no_hopper,
            module("kernels.sdpa.hopper_kernel", "sdpa"),
            (torch.bfloat16, torch.float16),
            limits=(("head_dim", 128),),
            differentiable=False,
        ),
        Implementation("onednn", ("cpu",), mkl_suits, module("kernels.sdpa.onednn", "sdpa"), differentiable=False),
        Implementation("reference", ("cpu", "cuda", "npu"), always, module("kernels.sdpa.reference", "sdpa")),
    ),
)
