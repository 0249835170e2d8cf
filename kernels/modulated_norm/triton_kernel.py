"""The portable kernel: a row at a time in tiles, mean and centred variance in float32, modulation on the way out. Forward only."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.chips import chip, processors

MOST_PROGRAMS = 32768  # a launch on Ascend holds 65,535; a program takes every so-manyth row
MOST_COLUMNS = 2048  # of a row at a time: what Ascend's buffer of 192 KiB holds several times over
ONE_PASS_COLUMNS = 16384  # of a row that stays in registers on NVIDIA, which is then read once
PROGRAMS_PER_PROCESSOR = 8  # of those that keep the modulation in registers, and take many rows each


@triton.jit
def _norm(
    x, scale, shift, y, rows, tokens, width, x_batch, x_token, m_batch, m_token, eps,
    COLUMNS: tl.constexpr, ONE_PASS: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    """ONE_PASS: a tile holds a whole row. SHARED: one modulation for all rows, which is then read once."""
    columns = tl.arange(0, COLUMNS)
    if SHARED:
        factor = 1.0 + tl.load(scale + columns, mask=columns < width, other=0.0).to(tl.float32)
        offset = tl.load(shift + columns, mask=columns < width, other=0.0).to(tl.float32)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        batch, token = (row // tokens).to(tl.int64), (row % tokens).to(tl.int64)
        source, target = x + batch * x_batch + token * x_token, y + (batch * tokens + token) * width
        modulation = batch * m_batch + token * m_token
        if ONE_PASS:
            value = tl.load(source + columns, mask=columns < width, other=0.0).to(tl.float32)
            if not SHARED:
                factor = 1.0 + tl.load(scale + modulation + columns, mask=columns < width, other=0.0).to(tl.float32)
                offset = tl.load(shift + modulation + columns, mask=columns < width, other=0.0).to(tl.float32)
            centred = tl.where(columns < width, value - tl.sum(value, axis=0) / width, 0.0)
            inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=0) / width + eps)
            tl.store(target + columns, (centred * inverse * factor + offset).to(y.dtype.element_ty), mask=columns < width)
        else:
            total = tl.zeros((COLUMNS,), dtype=tl.float32)
            for start in range(0, width, COLUMNS):
                total += tl.load(source + start + columns, mask=start + columns < width, other=0.0).to(tl.float32)
            mean = tl.sum(total, axis=0) / width
            squares = tl.zeros((COLUMNS,), dtype=tl.float32)
            for start in range(0, width, COLUMNS):
                value = tl.load(source + start + columns, mask=start + columns < width, other=0.0).to(tl.float32)
                centred = tl.where(start + columns < width, value - mean, 0.0)
                squares += centred * centred
            inverse = 1.0 / tl.sqrt(tl.sum(squares, axis=0) / width + eps)
            for start in range(0, width, COLUMNS):
                inside = start + columns < width
                value = tl.load(source + start + columns, mask=inside, other=0.0).to(tl.float32)
                times = 1.0 + tl.load(scale + modulation + start + columns, mask=inside, other=0.0).to(tl.float32)
                plus = tl.load(shift + modulation + start + columns, mask=inside, other=0.0).to(tl.float32)
                tl.store(target + start + columns, ((value - mean) * inverse * times + plus).to(y.dtype.element_ty), mask=inside)


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float, options: dict[str, int] | None = None) -> Tensor:
    """See the face. options: in place of some of the chip's, as sweeps try them."""
    batch, tokens, width = x.shape
    x = x if x.stride(2) == 1 else x.contiguous()
    if scale.stride() != shift.stride() or scale.stride(2) != 1:  # of parts of one tensor, as a block has them, there is no copy
        scale, shift = scale.contiguous(), shift.contiguous()
    y = torch.empty(batch, tokens, width, dtype=x.dtype, device=x.device)
    per_token = scale.stride(1) if scale.shape[1] == tokens and tokens > 1 else 0
    shared, programs = batch == 1 and per_token == 0, MOST_PROGRAMS
    constants = {**tile(x.device, width, shared), **(options or {})}
    if constants["SHARED"]:
        programs = min(programs, PROGRAMS_PER_PROCESSOR * processors(x.device))
    _norm[(min(batch * tokens, programs),)](
        x, scale, shift, y, batch * tokens, tokens, width, x.stride(0), x.stride(1), scale.stride(0), per_token, eps, **constants,
    )  # fmt: skip
    return y


def tile(device: torch.device, width: int, shared: bool) -> dict[str, int]:
    """How a row of `width` is taken on a device. shared: one modulation serves all rows."""
    columns = triton.next_power_of_2(width)
    if chip(device) == "npu" or columns > ONE_PASS_COLUMNS:
        return {"COLUMNS": min(columns, MOST_COLUMNS), "ONE_PASS": False, "SHARED": False}
    return {"COLUMNS": columns, "ONE_PASS": True, "SHARED": shared, "num_warps": 4 if columns <= 2048 else 8}
