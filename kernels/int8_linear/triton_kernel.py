"""The portable kernels: one scales and rounds rows to int8, one multiplies int8 tiles into int32 and dequantizes on the way out.

Between the two lie the int8 rows and their scales alone; the INT32 products are never written down.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.chips import chip, describable

MOST_PROGRAMS = 32768  # a launch on Ascend holds 65,535; a program takes every so-manyth row
MOST_COLUMNS = 4096  # of a row at a time, where it is read twice
ONE_PASS_COLUMNS = 16384  # of a row that stays in registers on NVIDIA
Options = dict[str, Any]

# Tiles by the chip: ROWS by CHANNELS of the output, DEPTH of the sum at a time. GROUP: rows of tiles that are finished together, so that they
# share what the cache holds; DESCRIPTORS: read and written by the copy engine.
PRODUCT: dict[str, Options] = {
    "hopper": {"ROWS": 128, "CHANNELS": 128, "DEPTH": 128, "GROUP": 16, "DESCRIPTORS": True, "num_warps": 8, "num_stages": 3},
    "other": {"ROWS": 128, "CHANNELS": 128, "DEPTH": 128, "GROUP": 8, "DESCRIPTORS": False, "num_warps": 8, "num_stages": 3},
}


@triton.jit
def _scale(largest, PRECISE: tl.constexpr):
    """NVIDIA divides to two units in the last place unless asked, which would turn some ties. Ascend's compiler knows the plain sign alone."""
    top = tl.max(largest, axis=0)
    scale = tl.math.div_rn(top, 127.0) if PRECISE else top / 127.0
    return tl.where(scale > 0.0, scale, 1.0)


@triton.jit
def _round(value, scale, PRECISE: tl.constexpr):
    """Of value / scale, to the nearest, ties to even, as torch rounds. PRECISE: one reciprocal a row, and Markstein's correction of each quotient,
    which is the very one of a division; a tiny scale is lifted by a power of two first, so that no remainder is lost below the least float.
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
def _quantize(x, quantized, scales, M, K, x_row, COLUMNS: tl.constexpr, PRECISE: tl.constexpr, ONE_PASS: tl.constexpr):
    columns = tl.arange(0, COLUMNS)
    for row in range(tl.program_id(0), M, tl.num_programs(0)):
        source, target = x + tl.cast(row, tl.int64) * x_row, quantized + tl.cast(row, tl.int64) * K
        if ONE_PASS:
            value = tl.load(source + columns, mask=columns < K, other=0.0).to(tl.float32)
            scale = _scale(tl.abs(value), PRECISE)
            tl.store(target + columns, _round(value, scale, PRECISE), mask=columns < K)
        else:
            largest = tl.zeros((COLUMNS,), dtype=tl.float32)
            for start in range(0, K, COLUMNS):
                value = tl.load(source + start + columns, mask=start + columns < K, other=0.0).to(tl.float32)
                largest = tl.maximum(largest, tl.abs(value))
            scale = _scale(largest, PRECISE)
            for start in range(0, K, COLUMNS):
                inside = start + columns < K
                value = tl.load(source + start + columns, mask=inside, other=0.0).to(tl.float32)
                tl.store(target + start + columns, _round(value, scale, PRECISE), mask=inside)
        tl.store(scales + row, scale)


@triton.jit
def _product(
    x, weight, x_scale, weight_scale, bias, y, M, N, K, BIAS: tl.constexpr, EVEN: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """One tile of the output. EVEN: DEPTH divides K. Rows and channels outside are read from inside, and not written.

    x, weight and y are descriptors or pointers.
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


INTERPRETED = not isinstance(_product, triton.JITFunction)  # where large tiles take seconds


def int8_linear(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    """See the face. x: (M, K)."""
    quantized, scales = quantize(x)
    return product(quantized, scales, weight, weight_scale, bias, x.dtype)


def quantize(x: Tensor, options: Options | None = None) -> tuple[Tensor, Tensor]:
    """(M, K) float -> (M, K) int8 and scales (M,) float32. options: in place of some of the chip's, as sweeps try them."""
    m, k = x.shape
    x = x if x.stride(1) == 1 else x.contiguous()
    quantized = torch.empty(m, k, dtype=torch.int8, device=x.device)
    scales = torch.empty(m, dtype=torch.float32, device=x.device)
    _quantize[(min(m, MOST_PROGRAMS),)](x, quantized, scales, m, k, x.stride(0), **{**quantize_options(x.device, k), **(options or {})})
    return quantized, scales


def quantize_options(device: torch.device, k: int) -> Options:
    """PRECISE on NVIDIA: the interpreter's plain division is exact, and its multiplication with addition rounds twice."""
    columns, npu = triton.next_power_of_2(k), chip(device) == "npu"
    precise = not npu and not INTERPRETED
    if npu or columns > ONE_PASS_COLUMNS:
        return {"COLUMNS": min(columns, MOST_COLUMNS), "PRECISE": precise, "ONE_PASS": False}
    return {"COLUMNS": columns, "PRECISE": precise, "ONE_PASS": True, "num_warps": 4 if columns <= 4096 else 8}


def product(
    quantized: Tensor,
    scales: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    options: Options | None = None,
) -> Tensor:
    """(M, K) and (N, K) int8 -> (M, N) in dtype. options: in place of those that the table has for the chip, as sweeps try them."""
    (m, k), n, weight = quantized.shape, weight.shape[0], weight.contiguous()
    y = torch.empty(m, n, dtype=dtype, device=quantized.device)
    options = options or product_options(quantized.device, dtype)
    rows, channels, depth = (options[name] for name in ("ROWS", "CHANNELS", "DEPTH"))
    wide = options["DESCRIPTORS"] and all(describable(part) for part in (quantized, weight, y))
    constants = {**options, "DESCRIPTORS": wide, "BIAS": bias is not None, "EVEN": k % depth == 0}
    given: tuple[Any, ...] = (quantized, weight, y)
    if wide:
        given = _described(quantized, [rows, depth]), _described(weight, [channels, depth]), _described(y, [rows, channels])
    tiles = triton.cdiv(m, rows) * triton.cdiv(n, channels)
    _product[(tiles,)](
        given[0], given[1], scales, weight_scale.contiguous(), weight_scale if bias is None else bias.contiguous(), given[2], m, n, k,
        **constants,
    )  # fmt: skip
    return y


def product_options(device: torch.device, dtype: torch.dtype) -> Options:
    """A float32 output takes twice the room of a 16-bit one on its way out: half the channels."""
    options = PRODUCT["hopper" if chip(device) == "hopper" else "other"]
    if INTERPRETED:
        return {**options, "ROWS": 32, "CHANNELS": 32, "DEPTH": 64}
    return {**options, "CHANNELS": options["CHANNELS"] // 2} if dtype == torch.float32 else options


def _described(x: Tensor, tile: list[int]) -> Any:
    """The tensor's descriptor for tiles of such a shape. Ascend's Triton has none, and asks for none."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor.from_tensor(x, tile)
