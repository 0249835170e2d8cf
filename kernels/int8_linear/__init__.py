"""W8A8 linear: dynamic per-token int8 activations, per-channel int8 weights, exact INT32 accumulation, output in the input's dtype (paper 5.4)."""

from functools import cache

import torch
from torch import Tensor

from kernels.dispatch import Choice, Implementation, choose, has_vnni


def int8_linear(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None = None, backend: str | None = None) -> Tensor:
    """y = (q(x) @ weight^T) * scale(x) * weight_scale + bias.

    x:            (..., K) float32 or bfloat16; each row gets its own symmetric scale, max |x| / 127
    weight:       (N, K) int8
    weight_scale: (N,) float32
    bias:         (N,) or None
    backend:      an implementation by name; None takes the first that serves the device
    returns:      (..., N) in x.dtype
    Raises ValueError for shapes or dtypes that do not fit, or a backend that cannot run.
    """
    if weight.dtype != torch.int8 or weight.ndim != 2 or x.shape[-1] != weight.shape[1] or weight_scale.shape != weight.shape[:1]:
        raise ValueError(
            f"x {tuple(x.shape)}, weight {tuple(weight.shape)} {weight.dtype}, weight_scale {tuple(weight_scale.shape)} do not fit"
        )
    rows = x.reshape(-1, x.shape[-1])
    y = selected(x.device.type, backend).operator(rows, weight, weight_scale, bias)
    return y.reshape(*x.shape[:-1], weight.shape[0])  # type: ignore[no-any-return, attr-defined]


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric per-channel quantization: (N, K) float -> (N, K) int8 and scales (N,) float32. A channel of zeros gets scale 1."""
    scale = weight.float().abs().amax(dim=1) / 127
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (weight.float() / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale


@cache
def selected(device: str, backend: str | None = None) -> Choice:
    """The implementation for a device type, with what was refused and why (`moworld doctor` prints it)."""
    return choose(IMPLEMENTATIONS, device, backend)


def _module(name: str, function: str = "int8_linear"):  # type: ignore[no-untyped-def]
    def load():  # type: ignore[no-untyped-def]
        from importlib import import_module

        return getattr(import_module(f"kernels.int8_linear.{name}"), function)

    return load


def _no_npu() -> str:
    from importlib.util import find_spec

    return "" if find_spec("torch_npu") else "torch_npu is not installed"


def _no_triton() -> str:
    from importlib.util import find_spec

    return "" if find_spec("triton") else "triton is not installed"


IMPLEMENTATIONS = (
    Implementation("npu", ("npu",), _no_npu, _module("npu_binding")),
    Implementation("triton", ("cuda",), _no_triton, _module("triton_kernel")),
    Implementation(
        "int_mm",
        ("cpu", "cuda"),
        lambda: "" if has_vnni() else "this CPU has no VNNI: int8 products are emulated",
        _module("cpu", "by_int_mm"),
    ),
    Implementation("float_gemm", ("cpu",), lambda: "", _module("cpu", "by_float_gemm")),
    Implementation("reference", ("cpu", "cuda", "npu"), lambda: "", _module("reference")),
)
