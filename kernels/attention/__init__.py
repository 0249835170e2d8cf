"""Attention over part of the keys, with what is needed to join parts: ring attention sends keys and values around and joins their results.

One softmax over all keys is exactly recovered from parts by their log-sum-exps; backward of a part takes the joined output and log-sum-exp.
"""

from typing import Any

import torch
from torch import Tensor

from kernels.chips import no_hopper
from kernels.dispatch import Choice, Implementation, Operator, always, module, needs


def partial_attention(query: Tensor, key: Tensor, value: Tensor, backend: str | None = None) -> tuple[Tensor, Tensor]:
    """softmax(q k^T / sqrt(D)) v over these keys alone, and the log of its denominator.

    query:   (B, H, N, D); key, value: (B, H, M, D), the same float dtype
    returns: output (B, H, N, D) and log-sum-exp (B, H, N) float32
    Raises ValueError for shapes or dtypes that do not fit, no keys, NoKernel for a backend that cannot run.
    """
    return _implementation(query, key, value, backend).forward(query, key, value)  # type: ignore[no-any-return]


def partial_attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor, backend: str | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value from these keys. `output` and `lse` are those of the softmax over all keys."""
    return _implementation(query, key, value, backend).backward(gradient, query, key, value, output, lse)  # type: ignore[no-any-return]


def join(output: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Join the attention over two disjoint sets of keys. Outputs (B, H, N, D), log-sum-exps (B, H, N) float32."""
    joined = torch.logaddexp(lse, other_lse)
    weights = ((part - joined).exp().unsqueeze(-1) for part in (lse, other_lse))
    return next(weights) * output + next(weights) * other, joined


def selected(device: str, backend: str | None = None) -> Choice:
    """The implementation for a device type, with what was refused and why."""
    return OPERATOR.choose(device, backend)


def _implementation(query: Tensor, key: Tensor, value: Tensor, backend: str | None) -> Any:
    fits = query.ndim == key.ndim == 4 and key.shape == value.shape and query.dtype == key.dtype == value.dtype
    if not fits or query.shape[:2] != key.shape[:2] or query.shape[3] != key.shape[3] or not key.shape[2]:
        shapes = ", ".join(f"{name} {tuple(x.shape)} {x.dtype}" for name, x in (("query", query), ("key", key), ("value", value)))
        raise ValueError(f"{shapes} do not fit")
    return OPERATOR.choose(query.device.type, backend, query.dtype, head_dim=query.shape[3], heads=query.shape[1]).operator


_HALF = (torch.bfloat16, torch.float16)
_USUAL = (torch.float32, *_HALF)
OPERATOR = Operator(
    "attention",
    (
        Implementation(
            "npu_binding",
            ("npu",),
            needs("torch_npu"),
            module("kernels.attention.npu_binding"),
            _USUAL,
            limits=(("head_dim", 768), ("heads", 256)),
        ),
        Implementation("hopper", ("cuda",), no_hopper, module("kernels.attention.hopper_kernel"), _HALF, limits=(("head_dim", 128),)),
        Implementation(
            "triton", ("cuda", "npu"), needs("triton"), module("kernels.attention.triton_kernel"), _USUAL, limits=(("head_dim", 128),)
        ),
        Implementation("flash_cpu", ("cpu",), always, module("kernels.attention.flash_cpu")),
        Implementation("reference", ("cpu", "cuda", "npu"), always, module("kernels.attention.reference")),
    ),
)
