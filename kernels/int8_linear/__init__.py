"""W8A8 linear: dynamic per-token int8 activations, per-channel int8 weights, exact INT32 accumulation, output in the input's dtype (paper 5.4)."""

import torch
from torch import Tensor

from kernels.dispatch import Choice, Implementation, Operator, always, has_vnni, module, needs


def int8_linear(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None = None, backend: str | None = None) -> Tensor:
    """y = (q(x) @ weight^T) * scale(x) * weight_scale + bias.

    x:            (..., K) float32 or bfloat16; each row gets its own symmetric scale, max |x| / 127
    weight:       (N, K) int8
    weight_scale: (N,) float32
    bias:         (N,) or None
    backend:      an implementation by name; None takes the first that serves the device
    returns:      (..., N) in x.dtype
    Raises ValueError for shapes or dtypes that do not fit, NoKernel for a backend that cannot run.
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


def join_channels(*layers: tuple[Tensor, Tensor, Tensor | None], out: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Weight, scale and bias of one linear in place of several of the same input, as of queries, keys and values: x is quantized once.

    Channels know nothing of each other, so the numbers are the same, to the bit where the products are exact; `chunk` parts the output again.
    out: memory for the weight
    """
    weights, scales, biases = zip(*layers, strict=True)
    none = all(bias is None for bias in biases)
    filled = [torch.zeros_like(scale) if bias is None else bias for bias, scale in zip(biases, scales, strict=True)]
    return torch.cat(weights, out=out), torch.cat(scales), None if none else torch.cat(filled)


def selected(device: str, backend: str | None = None) -> Choice:
    """The implementation for a device type, with what was refused and why (`moworld doctor` prints it)."""
    return OPERATOR.choose(device, backend)


IMPLEMENTATIONS = (
    Implementation("npu", ("npu",), needs("torch_npu"), module("kernels.int8_linear.npu_binding", "int8_linear")),
    Implementation("triton", ("cuda", "npu"), needs("triton"), module("kernels.int8_linear.triton_kernel", "int8_linear")),
    Implementation(
        "int_mm",
        ("cpu",),
        lambda: "" if has_vnni() else "this CPU has no VNNI: int8 products are emulated",
        module("kernels.int8_linear.cpu", "by_int_mm"),
    ),
    Implementation("float_gemm", ("cpu",), always, module("kernels.int8_linear.cpu", "by_float_gemm")),
    Implementation("reference", ("cpu", "cuda", "npu"), always, module("kernels.int8_linear.reference", "int8_linear")),
)
OPERATOR = Operator("int8_linear", IMPLEMENTATIONS)
