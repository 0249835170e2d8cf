"""The portable kernel: a token's query and key in one program, some heads at a time; norm, weight and rotation in float32. Forward only.

Rows are read and written as they lie; pairs part and meet again in registers, since Ascend's compiler takes no masked access to every other column.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.chips import chip

MOST_PROGRAMS = 32768  # a launch on Ascend holds 65,535; a program takes every so-manyth token
MOST_COLUMNS = 2048  # of a row at a time: what Ascend's buffer of 192 KiB holds several times over
ONE_PASS_COLUMNS = 8192  # of a row that stays in registers on NVIDIA, which is then read once


@triton.jit
def _halves(x, HEADS: tl.constexpr, DIM: tl.constexpr):
    """(HEADS, DIM) -> even and odd columns, (HEADS, DIM / 2) each."""
    return tl.split(tl.reshape(x, (HEADS, DIM // 2, 2)))


@triton.jit
def _norm_and_turn(x, weight, y, cosine, sine, heads, dim, eps, HEADS: tl.constexpr, DIM: tl.constexpr, ONE_PASS: tl.constexpr):
    """One row of `heads` times `dim`. cosine, sine: (1, DIM / 2). ONE_PASS: a tile holds the whole row."""
    columns = tl.arange(0, DIM)[None, :]
    if ONE_PASS:
        head = tl.arange(0, HEADS)[:, None]
        inside = (head < heads) & (columns < dim)
        value = tl.load(x + head * dim + columns, mask=inside, other=0.0).to(tl.float32)
        inverse = 1.0 / tl.sqrt(tl.sum(tl.sum(value * value, axis=1), axis=0) / (heads * dim) + eps)
        value = value * inverse * tl.load(weight + head * dim + columns, mask=inside, other=0.0).to(tl.float32)
        even, odd = _halves(value, HEADS, DIM)
        turned = tl.reshape(tl.join(even * cosine - odd * sine, even * sine + odd * cosine), (HEADS, DIM))
        tl.store(y + head * dim + columns, turned.to(y.dtype.element_ty), mask=inside)
    else:
        _in_parts(x, weight, y, cosine, sine, heads, dim, eps, HEADS, DIM)


@triton.jit
def _in_parts(x, weight, y, cosine, sine, heads, dim, eps, HEADS: tl.constexpr, DIM: tl.constexpr):
    """The same, HEADS at a time: the row is read twice."""
    columns = tl.arange(0, DIM)[None, :]
    squares = tl.zeros((HEADS, DIM), dtype=tl.float32)
    for start in range(0, heads, HEADS):
        head = start + tl.arange(0, HEADS)[:, None]
        value = tl.load(x + head * dim + columns, mask=(head < heads) & (columns < dim), other=0.0).to(tl.float32)
        squares += value * value
    inverse = 1.0 / tl.sqrt(tl.sum(tl.sum(squares, axis=1), axis=0) / (heads * dim) + eps)
    for start in range(0, heads, HEADS):
        head = start + tl.arange(0, HEADS)[:, None]
        inside = (head < heads) & (columns < dim)
        value = tl.load(x + head * dim + columns, mask=inside, other=0.0).to(tl.float32) * inverse
        value = value * tl.load(weight + head * dim + columns, mask=inside, other=0.0).to(tl.float32)
        even, odd = _halves(value, HEADS, DIM)
        turned = tl.reshape(tl.join(even * cosine - odd * sine, even * sine + odd * cosine), (HEADS, DIM))
        tl.store(y + head * dim + columns, turned.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _both(
    query, key, query_weight, key_weight, query_out, key_out, cosines, sines, rows, tokens, heads, dim,
    query_batch, query_token, key_batch, key_token, angle_batch, eps, HEADS: tl.constexpr, DIM: tl.constexpr, ONE_PASS: tl.constexpr,
):  # fmt: skip
    columns = tl.arange(0, DIM)[None, :]
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        batch, token = (row // tokens).to(tl.int64), (row % tokens).to(tl.int64)
        angle = batch * angle_batch + token * dim
        cosine, _ = _halves(tl.load(cosines + angle + columns, mask=columns < dim, other=0.0).to(tl.float32), 1, DIM)
        _, sine = _halves(tl.load(sines + angle + columns, mask=columns < dim, other=0.0).to(tl.float32), 1, DIM)
        out = (batch * tokens + token) * heads * dim
        source = batch * query_batch + token * query_token
        _norm_and_turn(query + source, query_weight, query_out + out, cosine, sine, heads, dim, eps, HEADS, DIM, ONE_PASS)
        source = batch * key_batch + token * key_token
        _norm_and_turn(key + source, key_weight, key_out + out, cosine, sine, heads, dim, eps, HEADS, DIM, ONE_PASS)


def qk_norm_rope(
    query: Tensor,
    key: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    cosines: Tensor,
    sines: Tensor,
    eps: float,
    options: dict[str, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """See the face. options: in place of some of the chip's, as sweeps try them."""
    (batch, tokens, width), dim = query.shape, cosines.shape[3]
    query, key = (x if x.stride(2) == 1 else x.contiguous() for x in (query, key))
    cosines, sines = cosines.contiguous(), sines.contiguous()
    outputs = [torch.empty(batch, tokens, width // dim, dim, dtype=query.dtype, device=query.device) for _ in range(2)]
    angle_batch = 0 if cosines.shape[0] == 1 else tokens * dim
    _both[(min(batch * tokens, MOST_PROGRAMS),)](
        query, key, query_weight.contiguous(), key_weight.contiguous(), *outputs, cosines, sines, batch * tokens, tokens, width // dim, dim,
        query.stride(0), query.stride(1), key.stride(0), key.stride(1), angle_batch, eps,
        **{**_tile(query.device, width // dim, dim), **(options or {})},
    )  # fmt: skip
    return outputs[0], outputs[1]


def _tile(device: torch.device, heads: int, dim: int) -> dict[str, int]:
    """How a row of `heads` times `dim` is taken on a device: whole, or some heads at a time."""
    columns, rows = triton.next_power_of_2(dim), triton.next_power_of_2(heads)
    if chip(device) != "npu" and rows * columns <= ONE_PASS_COLUMNS:
        return {"HEADS": rows, "DIM": columns, "ONE_PASS": True, "num_warps": 4 if rows * columns <= 2048 else 8}
    return {"HEADS": min(rows, max(MOST_COLUMNS // columns, 1)), "DIM": columns, "ONE_PASS": False}
