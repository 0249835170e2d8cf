"""The portable kernel: a row at a time in tiles, mean and centred variance in float32, modulation on the way out. Forward only."""

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_PROGRAMS = 32768  # a launch on Ascend holds 65,535; a program takes every so-manyth row
MOST_COLUMNS = 2048  # of a row at a time: what Ascend's buffer of 192 KiB holds several times over


@triton.jit
def _norm(x, scale, shift, y, rows, tokens, width, x_batch, x_token, m_batch, m_token, eps, COLUMNS: tl.constexpr):
    columns = tl.arange(0, COLUMNS)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        batch, token = (row // tokens).to(tl.int64), (row % tokens).to(tl.int64)
        source = x + batch * x_batch + token * x_token
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
        modulation = batch * m_batch + token * m_token
        for start in range(0, width, COLUMNS):
            inside = start + columns < width
            value = tl.load(source + start + columns, mask=inside, other=0.0).to(tl.float32)
            factor = 1.0 + tl.load(scale + modulation + start + columns, mask=inside, other=0.0).to(tl.float32)
            offset = tl.load(shift + modulation + start + columns, mask=inside, other=0.0).to(tl.float32)
            result = (value - mean) * inverse * factor + offset
            tl.store(y + (batch * tokens + token) * width + start + columns, result.to(y.dtype.element_ty), mask=inside)


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """See the face."""
    batch, tokens, width = x.shape
    x = x if x.stride(2) == 1 else x.contiguous()
    scale, shift = scale.contiguous(), shift.contiguous()
    y = torch.empty(batch, tokens, width, dtype=x.dtype, device=x.device)
    per_token = width if scale.shape[1] == tokens and tokens > 1 else 0
    columns = min(triton.next_power_of_2(width), MOST_COLUMNS)
    _norm[(min(batch * tokens, MOST_PROGRAMS),)](
        x, scale, shift, y, batch * tokens, tokens, width, x.stride(0), x.stride(1), scale.stride(0), per_token, eps, columns,
    )  # fmt: skip
    return y
