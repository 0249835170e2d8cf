"""The portable kernels: one scales and rounds rows to int8, one multiplies int8 tiles into int32 and dequantizes on the way out.

Between the two lie the int8 rows and their scales alone; the INT32 products are never written down.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_PROGRAMS = 32768  # a launch on Ascend holds 65,535; a program takes every so-manyth row
MOST_COLUMNS = 4096


@triton.jit
def _divide(x, y, PRECISE: tl.constexpr):
    """NVIDIA divides to two units in the last place unless asked, which would turn some ties; Ascend's compiler knows the plain sign alone."""
    return tl.math.div_rn(x, y) if PRECISE else x / y


@triton.jit
def _quantize(x, quantized, scales, M, K, x_row, COLUMNS: tl.constexpr, PRECISE: tl.constexpr):
    columns = tl.arange(0, COLUMNS)
    for row in range(tl.program_id(0), M, tl.num_programs(0)):
        source, target = x + tl.cast(row, tl.int64) * x_row, quantized + tl.cast(row, tl.int64) * K
        largest = tl.zeros((COLUMNS,), dtype=tl.float32)
        for start in range(0, K, COLUMNS):
            value = tl.load(source + start + columns, mask=start + columns < K, other=0.0).to(tl.float32)
            largest = tl.maximum(largest, tl.abs(value))
        scale = _divide(tl.max(largest, axis=0), 127.0, PRECISE)
        scale = tl.where(scale > 0.0, scale, 1.0)
        tl.store(scales + row, scale)
        for start in range(0, K, COLUMNS):
            inside = start + columns < K
            value = tl.load(source + start + columns, mask=inside, other=0.0).to(tl.float32)
            steps = _divide(value, scale, PRECISE)
            rounded = (steps + 12582912.0) - 12582912.0  # 1.5 * 2^23: to the nearest, ties to even, as torch rounds
            tl.store(target + start + columns, rounded.to(tl.int8), mask=inside)


@triton.jit
def _product(
    x, weight, x_scale, weight_scale, bias, y, M, N, K, BIAS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, DEPTH: tl.constexpr
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channels = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    x_rows = x + rows[:, None].to(tl.int64) * K
    weight_rows = weight + channels[None, :].to(tl.int64) * K
    sums = tl.zeros((ROWS, CHANNELS), dtype=tl.int32)
    for start in range(0, K, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        a = tl.load(x_rows + depth[None, :], mask=(rows[:, None] < M) & (depth[None, :] < K), other=0)
        b = tl.load(weight_rows + depth[:, None], mask=(channels[None, :] < N) & (depth[:, None] < K), other=0)
        sums += tl.dot(a, b, out_dtype=tl.int32)
    result = sums.to(tl.float32) * tl.load(x_scale + rows, mask=rows < M, other=0.0)[:, None]
    result = result * tl.load(weight_scale + channels, mask=channels < N, other=0.0)[None, :]
    if BIAS:
        result += tl.load(bias + channels, mask=channels < N, other=0.0).to(tl.float32)[None, :]
    inside = (rows[:, None] < M) & (channels[None, :] < N)
    tl.store(y + rows[:, None].to(tl.int64) * N + channels[None, :], result.to(y.dtype.element_ty), mask=inside)


INTERPRETED = not isinstance(_product, triton.JITFunction)  # where large tiles take seconds
TILES = {"ROWS": 32, "CHANNELS": 32, "DEPTH": 64} if INTERPRETED else {"ROWS": 128, "CHANNELS": 128, "DEPTH": 128, "num_warps": 8}


def int8_linear(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    """See the face. x: (M, K)."""
    (m, k), n = x.shape, weight.shape[0]
    x = x if x.stride(1) == 1 else x.contiguous()
    quantized = torch.empty(m, k, dtype=torch.int8, device=x.device)
    scales = torch.empty(m, dtype=torch.float32, device=x.device)
    columns, precise = min(triton.next_power_of_2(k), MOST_COLUMNS), x.device.type != "npu"
    _quantize[(min(m, MOST_PROGRAMS),)](x, quantized, scales, m, k, x.stride(0), columns, precise)
    y = torch.empty(m, n, dtype=x.dtype, device=x.device)
    _product[(triton.cdiv(m, TILES["ROWS"]), triton.cdiv(n, TILES["CHANNELS"]))](
        quantized, weight.contiguous(), scales, weight_scale.contiguous(), weight_scale if bias is None else bias.contiguous(), y, m, n, k,
        bias is not None, **TILES,
    )  # fmt: skip
    return y
