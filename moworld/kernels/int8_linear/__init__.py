"""W8A8 linear (paper 5.4): dynamic per-token int8 activations, per-channel int8 weights, exact INT32 sums, output in the input's dtype."""

import torch
from torch import Tensor

from moworld.kernels.chips import why_no_vnni
from moworld.kernels.dispatch import Implementation, Operator, needs


def int8_linear(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None = None, backend: str | None = None) -> Tensor:
    """Returns y = (q(x) @ weight^T) * scale(x) * weight_scale + bias, (..., N) in x.dtype.

    x:            (..., K) float; each row has its own symmetric scale, max |x| / 127
    weight:       (N, K) int8; weight_scale: (N,) float32; bias: (N,) or None
    backend:      name of an implementation; None: the first that serves the device
    Raises ValueError if shapes or dtypes disagree; NoKernel if the backend cannot run.
    """
    if weight.dtype != torch.int8 or weight.ndim != 2 or x.shape[-1] != weight.shape[1] or weight_scale.shape != weight.shape[:1]:
        shapes = f"x {tuple(x.shape)}, weight {tuple(weight.shape)} {weight.dtype}, weight_scale {tuple(weight_scale.shape)}"
        raise ValueError(f"{shapes} do not fit")
    rows = x.reshape(-1, x.shape[-1])
    y = OPERATOR.choose(x.device.type, backend).implementation(rows, weight, weight_scale, bias)
    return y.reshape(*x.shape[:-1], weight.shape[0])  # type: ignore[no-any-return]


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (N, K) int8 and scales (N,) float32, symmetric per channel, of (N, K) floats. A channel of zeros gets scale 1."""
    scale = weight.float().abs().amax(dim=1) / 127
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (weight.float() / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale


OPERATOR = Operator(
    "int8_linear",
    (
        Implementation("npu", ("npu",), "npu_binding:int8_linear", needs("torch_npu")),
        Implementation("triton", ("cuda",), "triton_kernel:int8_linear", needs("triton")),
        Implementation("int_mm", ("cpu",), "cpu:by_int_mm", why_no_vnni),
        Implementation("float_gemm", ("cpu",), "cpu:by_float_gemm"),
        Implementation("reference", ("cpu", "cuda", "npu"), "reference:int8_linear"),
    ),
)
