"""Scaled dot-product attention over all keys, or over a part of them with the log-sum-exp that joins parts (ring attention).

The softmax over all keys is recovered exactly from parts by their log-sum-exps. Backward of a part takes the joined output and log-sum-exp.
"""

from typing import Any, Literal, overload

import torch
from torch import Tensor

from moworld.kernels.chips import why_no_hopper, why_no_onednn
from moworld.kernels.dispatch import GRADIENTS, LOG_SUM_EXP, Implementation, Operator, needs, wants_gradient


@overload
def attention(query: Tensor, key: Tensor, value: Tensor, backend: str | None = ..., return_lse: Literal[False] = ...) -> Tensor: ...
@overload
def attention(
    query: Tensor, key: Tensor, value: Tensor, backend: str | None = ..., *, return_lse: Literal[True]
) -> tuple[Tensor, Tensor]: ...
def attention(
    query: Tensor, key: Tensor, value: Tensor, backend: str | None = None, return_lse: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Returns softmax(q k^T / sqrt(D)) v, differentiable; with return_lse also the logarithm of the softmax's denominator.

    query:      (B, H, N, D); key, value: (B, H, M, D), the same float dtype
    backend:    name of an implementation; None: the first that serves the call
    return_lse: for keys that are a part of all keys; gradients are then computed by `attention_backward`, not by autograd
    returns:    output (B, H, N, D), or output and log-sum-exp (B, H, N) float32
    Raises ValueError if shapes or dtypes disagree or there are no keys; NoKernel if the backend cannot run.
    """
    if return_lse:
        return _chosen(query, key, value, backend, (LOG_SUM_EXP,)).forward(query, key, value)  # type: ignore[no-any-return]
    gradient = wants_gradient(query, key, value)
    implementation = _chosen(query, key, value, backend, (GRADIENTS,) if gradient else ())
    if gradient and hasattr(implementation, "backward"):
        return _Differentiable.apply(query, key, value, implementation)  # type: ignore[no-untyped-call, no-any-return]
    return implementation.forward(query, key, value)[0]  # type: ignore[no-any-return]


def attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor, backend: str | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of query, key and value from these keys. output, lse: those of the softmax over all keys."""
    return _chosen(query, key, value, backend, (LOG_SUM_EXP,)).backward(gradient, query, key, value, output, lse)  # type: ignore[no-any-return]


def join(output: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the attention over the union of two disjoint sets of keys: output (B, H, N, D), log-sum-exp (B, H, N) float32."""
    joined = torch.logaddexp(lse, other_lse)
    weights = ((part - joined).exp().unsqueeze(-1) for part in (lse, other_lse))
    return next(weights) * output + next(weights) * other, joined


def _chosen(query: Tensor, key: Tensor, value: Tensor, backend: str | None, requires: tuple[str, ...]) -> Any:
    """Returns a module with `forward`, which returns (output, log-sum-exp or None), and perhaps `backward`."""
    q_shape, k_shape = query.shape, key.shape
    fits = len(q_shape) == len(k_shape) == 4 and k_shape == value.shape and query.dtype == key.dtype == value.dtype
    if not fits or q_shape[:2] != k_shape[:2] or q_shape[3] != k_shape[3] or not k_shape[2]:
        shapes = ", ".join(f"{name} {tuple(x.shape)} {x.dtype}" for name, x in (("query", query), ("key", key), ("value", value)))
        raise ValueError(f"{shapes} do not fit")
    _, heads, queries, head_dim = q_shape
    sizes = {"head_dim": head_dim, "heads": heads}
    if LOG_SUM_EXP not in requires:  # alternatives differ in speed: with a log-sum-exp the first that can run is taken at every size
        sizes |= {"queries": queries, "keys": k_shape[2], "logits": queries * k_shape[2]}
    return OPERATOR.choose(query.device.type, backend, query.dtype, requires, **sizes).implementation


class _Differentiable(torch.autograd.Function):
    """Makes an implementation's forward and backward one differentiable operation."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, implementation: Any) -> Tensor:
        output, lse = implementation.forward(query, key, value)
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.implementation = implementation
        return output  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return *ctx.implementation.backward(gradient, *ctx.saved_tensors), None


_HALF = (torch.bfloat16, torch.float16)
_USUAL = (torch.float32, *_HALF)
OPERATOR = Operator(
    "attention",
    (
        # with 512 keys it took 1.5 times cuDNN's time, with 1,560 as long, from 6,240 on a tenth less; its backward is the portable one
        Implementation(
            "hopper", ("cuda",), "hopper_kernel", why_no_hopper, _HALF, {"head_dim": 128}, worthwhile={"keys": 2048}, slow_for=(GRADIENTS,)
        ),
        # sizes of a head: below, starting several kernels costs more than it saves
        Implementation(
            "onednn", ("cpu",), "onednn", why_no_onednn, _USUAL, {}, {"queries": 96, "logits": 3 * 2**14}, lacks=(GRADIENTS, LOG_SUM_EXP)
        ),
        Implementation("sdpa", ("cpu", "cuda", "npu"), "sdpa", lacks=(LOG_SUM_EXP,)),
        Implementation("npu_binding", ("npu",), "npu_binding", needs("torch_npu"), _USUAL, {"head_dim": 768, "heads": 256}),
        Implementation("triton", ("cuda",), "triton_kernel", needs("triton"), _USUAL, {"head_dim": 128}),
        Implementation("flash_cpu", ("cpu",), "flash_cpu"),
        Implementation("reference", ("cpu", "cuda", "npu"), "reference"),
    ),
    variants={"": (), " with log-sum-exp": (LOG_SUM_EXP,)},
)
