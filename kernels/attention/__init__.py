"""Attention over part of the keys, with what is needed to join parts: ring attention sends keys and values around and joins their results.

One softmax over all keys is exactly recovered from parts by their log-sum-exps; backward of a part takes the joined output and log-sum-exp.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import Choice, Implementation, choose


def partial_attention(query: Tensor, key: Tensor, value: Tensor, backend: str | None = None) -> tuple[Tensor, Tensor]:
    """softmax(q k^T / sqrt(D)) v over these keys alone, and the log of its denominator.

    query:   (B, H, N, D); key, value: (B, H, M, D), the same float dtype
    returns: output (B, H, N, D) and log-sum-exp (B, H, N) float32
    Raises ValueError for a backend that cannot run.
    """
    return selected(query.device.type, backend).operator.forward(query, key, value)  # type: ignore[attr-defined, no-any-return]


def partial_attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor, backend: str | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value from these keys. `output` and `lse` are those of the softmax over all keys."""
    operator: Any = selected(query.device.type, backend).operator
    return operator.backward(gradient, query, key, value, output, lse)  # type: ignore[no-any-return]


def join(output: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Join the attention over two disjoint sets of keys. Outputs (B, H, N, D), log-sum-exps (B, H, N) float32."""
    joined = torch.logaddexp(lse, other_lse)
    weights = ((part - joined).exp().unsqueeze(-1) for part in (lse, other_lse))
    return next(weights) * output + next(weights) * other, joined


@cache
def selected(device: str, backend: str | None = None) -> Choice:
    """The implementation for a device type, with what was refused and why."""
    return choose(IMPLEMENTATIONS, device, backend)


def _implementation(name: str, devices: tuple[str, ...], needs: str | None = None) -> Implementation:
    def why_not() -> str:
        return "" if needs is None or find_spec(needs) else f"{needs} is not installed"

    return Implementation(name, devices, why_not, lambda: import_module(f"kernels.attention.{name}"))  # type: ignore[arg-type, return-value]


IMPLEMENTATIONS = (
    _implementation("npu_binding", ("npu",), "torch_npu"),
    _implementation("flash_cpu", ("cpu",)),
    _implementation("reference", ("cpu", "cuda", "npu")),
)
