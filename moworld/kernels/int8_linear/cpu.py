"""Two exact int8 products for CPUs: in hardware where there is VNNI, and by float32 GEMM everywhere.

A float32 GEMM of int8 values is exact while every partial sum is below 2^24, that is for K <= 2^24 / 127^2 = 1040; longer rows are
split. Without VNNI `torch._int_mm` is a scalar loop, fifty times slower.
"""

import torch
from torch import Tensor

from moworld.kernels.int8_linear.reference import quantize_rows

EXACT_K = 2**24 // 127**2  # 1040


def by_float_gemm(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    """Implements `int8_linear`. The weight is converted to float32 for the product only: memory between calls stays int8."""
    quantized, scale = quantize_rows(x)
    depth = weight.shape[1]
    if depth <= EXACT_K:
        product = quantized @ weight.float().T
    else:  # exact partial sums, added in float64
        blocks = [(quantized[:, i : i + EXACT_K] @ weight[:, i : i + EXACT_K].float().T).double() for i in range(0, depth, EXACT_K)]
        product = torch.stack(blocks).sum(0).float()
    return _dequantize(product, scale, weight_scale, bias, x.dtype)


def by_int_mm(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    """Implements `int8_linear` by INT8 x INT8 -> INT32 in hardware."""
    if weight.shape[1] == 1:  # oneDNN 3 with VNNI reads a transposed column as a row and returns wrong numbers
        return by_float_gemm(x, weight, weight_scale, bias)
    quantized, scale = quantize_rows(x)
    return _dequantize(torch._int_mm(quantized.to(torch.int8), weight.T).float(), scale, weight_scale, bias, x.dtype)


def _dequantize(product: Tensor, scale: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Returns (M, N) integer products times the row's and the channel's scale, plus bias."""
    y = product.mul_(scale)
    return (y.mul_(weight_scale) if bias is None else torch.addcmul(bias.float(), y, weight_scale, out=y)).to(dtype)
