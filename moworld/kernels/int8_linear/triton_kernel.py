"""NVIDIA kernels: one quantizes rows to int8, one multiplies int8 tiles into int32 sums and stores them dequantized.

Only int8 rows and their scales are stored between the two, never the INT32 products.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from moworld.kernels.chips import has_descriptor, is_hopper

Options = dict[str, Any]

# Tiles by chip: ROWS by CHANNELS of the output, DEPTH terms of the sum at a time. GROUP: rows of tiles computed together, so that they
# share the cache. DESCRIPTORS: loads and stores by the copy engine (TMA).
PRODUCT: dict[str, Options] = {
    "hopper": {"ROWS": 128, "CHANNELS": 128, "DEPTH": 128, "GROUP": 16, "DESCRIPTORS": True, "num_warps": 8, "num_stages": 3},
    "other": {"ROWS": 128, "CHANNELS": 128, "DEPTH": 128, "GROUP": 8, "DESCRIPTORS": False, "num_warps": 8, "num_stages": 3},
}


@triton.jit
def _scale(largest, PRECISE: tl.constexpr):
    """Returns the scale of a row. PRECISE: NVIDIA's plain division is not exact, which would change ties."""
    top = tl.max(largest, axis=0)
    scale = tl.math.div_rn(top, 127.0) if PRECISE else top / 127.0
    return tl.where(scale > 0.0, scale, 1.0)


@triton.jit
def _round(value, scale, PRECISE: tl.constexpr):
    """Rounds value / scale to the nearest integer, ties to even, as torch does.

    PRECISE: one reciprocal per row, and Markstein's correction of each quotient, which then equals that of a division. A tiny scale is
    multiplied by a power of two first, so that no remainder underflows.
    """
    if PRECISE:
        lift = tl.where(scale < 5.421010862427522e-20, 1.2089258196146292e24, 1.0)  # 2^-64, 2^80
        divisor, value = scale * lift, value * lift
        inverse = tl.math.div_rn(1.0, divisor)
        steps = value * inverse
        steps = tl.fma(tl.fma(-steps, divisor, value), inverse, steps)
        return (steps + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)  # 1.5 * 2^23 leaves the integer in the low bits
    return ((value / scale + 12582912.0) - 12582912.0).to(tl.int8)


@triton.jit
def _quantize(x, quantized, scales, K, x_row, COLUMNS: tl.constexpr, PRECISE: tl.constexpr):
    """Quantizes one row, which a tile holds."""
    row, columns = tl.program_id(0).to(tl.int64), tl.arange(0, COLUMNS)
    value = tl.load(x + row * x_row + columns, mask=columns < K, other=0.0).to(tl.float32)
    scale = _scale(tl.abs(value), PRECISE)
    tl.store(quantized + row * K + columns, _round(value, scale, PRECISE), mask=columns < K)
    tl.store(scales + row, scale)


@triton.jit
def _product(
    x, weight, x_scale, weight_scale, bias, y, M, N, K, BIAS: tl.constexpr, EVEN: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """Computes one tile of the output. x, weight, y: descriptors or pointers. EVEN: DEPTH divides K.

    Rows and channels outside are read from inside and not stored.
    """
    tile = tl.program_id(0)
    down, across = tl.cdiv(M, ROWS), tl.cdiv(N, CHANNELS)
    in_group = GROUP * across
    top = tile // in_group * GROUP
    height = tl.minimum(down - top, GROUP)
    row, channel = (top + tile % in_group % height) * ROWS, tile % in_group // height * CHANNELS
    rows, channels, depths = row + tl.arange(0, ROWS), channel + tl.arange(0, CHANNELS), tl.arange(0, DEPTH)
    sums = tl.zeros((ROWS, CHANNELS), dtype=tl.int32)
    if DESCRIPTORS:
        for start in range(0, K, DEPTH):
            a, b = x.load([row, start]), weight.load([channel, start])
            sums = tl.dot(a, tl.trans(b), acc=sums, out_dtype=tl.int32)
    else:
        x_rows = x + (rows % M)[:, None].to(tl.int64) * K + depths[None, :]
        weight_rows = weight + (channels % N)[None, :].to(tl.int64) * K + depths[:, None]
        for start in range(0, K, DEPTH):
            if EVEN:
                a, b = tl.load(x_rows + start), tl.load(weight_rows + start)
            else:
                a = tl.load(x_rows + start, mask=(start + depths)[None, :] < K, other=0)
                b = tl.load(weight_rows + start, mask=(start + depths)[:, None] < K, other=0)
            sums = tl.dot(a, b, acc=sums, out_dtype=tl.int32)
    result = sums.to(tl.float32) * tl.load(x_scale + rows, mask=rows < M, other=0.0)[:, None]
    result = result * tl.load(weight_scale + channels, mask=channels < N, other=0.0)[None, :]
    if BIAS:
        result += tl.load(bias + channels, mask=channels < N, other=0.0).to(tl.float32)[None, :]
    if DESCRIPTORS:
        y.store([row, channel], result.to(y.dtype))
    else:
        inside = (rows[:, None] < M) & (channels[None, :] < N)
        tl.store(y + rows[:, None].to(tl.int64) * N + channels[None, :], result.to(y.dtype.element_ty), mask=inside)


INTERPRETED = not isinstance(_product, triton.JITFunction)  # Triton's interpreter takes seconds for large tiles


def int8_linear(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    """Implements `int8_linear`. x: (M, K)."""
    quantized, scales = quantize(x)
    return product(quantized, scales, weight, weight_scale, bias, x.dtype)


def quantize(x: Tensor, precise: bool = not INTERPRETED) -> tuple[Tensor, Tensor]:
    """Returns (M, K) int8 and scales (M,) float32 of (M, K) floats.

    precise: see `_round`; not where it is interpreted, since the interpreter divides exactly and its fused multiply-add rounds twice
    """
    m, k = x.shape
    x = x if x.stride(1) == 1 else x.contiguous()
    quantized = torch.empty(m, k, dtype=torch.int8, device=x.device)
    scales = torch.empty(m, dtype=torch.float32, device=x.device)
    _quantize[(m,)](x, quantized, scales, k, x.stride(0), PRECISE=precise, **quantize_options(k))
    return quantized, scales


def quantize_options(k: int) -> Options:
    """Returns the tile and warps for rows of k."""
    columns = triton.next_power_of_2(k)
    return {"COLUMNS": columns, "num_warps": 4 if columns <= 4096 else 8}


def product(
    quantized: Tensor, scales: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None,
    dtype: torch.dtype, options: Options | None = None,
) -> Tensor:  # fmt: skip
    """Returns (M, N) in dtype of (M, K) and (N, K) int8. options: instead of the chip's tile, for tests."""
    (m, k), n, weight = quantized.shape, weight.shape[0], weight.contiguous()
    y = torch.empty(m, n, dtype=dtype, device=quantized.device)
    options = options or product_options(quantized.device, dtype)
    rows, channels, depth = (options[name] for name in ("ROWS", "CHANNELS", "DEPTH"))
    wide = options["DESCRIPTORS"] and all(has_descriptor(part) for part in (quantized, weight, y))
    constants = {**options, "DESCRIPTORS": wide, "BIAS": bias is not None, "EVEN": k % depth == 0}
    operands: tuple[Any, ...] = (quantized, weight, y)
    if wide:
        shapes = [rows, depth], [channels, depth], [rows, channels]
        operands = tuple(TensorDescriptor.from_tensor(x, shape) for x, shape in zip(operands, shapes, strict=True))
    tiles = triton.cdiv(m, rows) * triton.cdiv(n, channels)
    _product[(tiles,)](
        operands[0], operands[1], scales, weight_scale.contiguous(), weight_scale if bias is None else bias.contiguous(), operands[2], m, n, k,
        **constants,
    )  # fmt: skip
    return y


def product_options(device: torch.device, dtype: torch.dtype) -> Options:
    """Returns a device's tile: half the channels for float32, whose output needs twice the shared memory."""
    options = PRODUCT["hopper" if is_hopper(device) else "other"]
    if INTERPRETED:
        return {**options, "ROWS": 32, "CHANNELS": 32, "DEPTH": 64}
    return {**options, "CHANNELS": options["CHANNELS"] // 2} if dtype == torch.float32 else options
