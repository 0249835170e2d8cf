"""NVIDIA kernel: a row at a time in registers, mean and centred variance in float32, then the modulation. Forward only."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from moworld.kernels.chips import num_multiprocessors

PROGRAMS_PER_PROCESSOR = 8  # if a program keeps the modulation in registers and takes many rows


@triton.jit
def _norm(
    x, scale, shift, y, rows, tokens, width, x_batch, x_token, m_batch, m_token, eps, COLUMNS: tl.constexpr, SHARED: tl.constexpr
):  # fmt: skip
    """Normalizes rows; a tile holds a whole row. SHARED: all rows have one modulation, which is read once."""
    columns = tl.arange(0, COLUMNS)
    inside = columns < width
    if SHARED:
        factor = 1.0 + tl.load(scale + columns, mask=inside, other=0.0).to(tl.float32)
        offset = tl.load(shift + columns, mask=inside, other=0.0).to(tl.float32)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        batch, token = (row // tokens).to(tl.int64), (row % tokens).to(tl.int64)
        value = tl.load(x + batch * x_batch + token * x_token + columns, mask=inside, other=0.0).to(tl.float32)
        if not SHARED:
            modulation = batch * m_batch + token * m_token
            factor = 1.0 + tl.load(scale + modulation + columns, mask=inside, other=0.0).to(tl.float32)
            offset = tl.load(shift + modulation + columns, mask=inside, other=0.0).to(tl.float32)
        centred = tl.where(inside, value - tl.sum(value, axis=0) / width, 0.0)
        inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=0) / width + eps)
        target = y + (batch * tokens + token) * width
        tl.store(target + columns, (centred * inverse * factor + offset).to(y.dtype.element_ty), mask=inside)


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """Implements `modulated_norm`."""
    batch, tokens, width = x.shape
    x = x if x.stride(2) == 1 else x.contiguous()
    if scale.stride() != shift.stride() or scale.stride(2) != 1:  # a block passes parts of one tensor: no copy
        scale, shift = scale.contiguous(), shift.contiguous()
    y = torch.empty(batch, tokens, width, dtype=x.dtype, device=x.device)
    per_token = scale.stride(1) if scale.shape[1] == tokens and tokens > 1 else 0
    programs, shared = batch * tokens, batch == 1 and per_token == 0
    if shared:
        programs = min(programs, PROGRAMS_PER_PROCESSOR * num_multiprocessors(x.device))
    _norm[(programs,)](
        x, scale, shift, y, batch * tokens, tokens, width, x.stride(0), x.stride(1), scale.stride(0), per_token, eps, **tile(width, shared)
    )  # fmt: skip
    return y


def tile(width: int, shared: bool) -> dict[str, int]:
    """Returns the constants and warps for rows of `width`. shared: all rows have one modulation."""
    columns = triton.next_power_of_2(width)
    return {"COLUMNS": columns, "SHARED": shared, "num_warps": 4 if columns <= 2048 else 8}
