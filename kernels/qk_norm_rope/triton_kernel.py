"""The portable kernel: a token's query and key in one program, read in tiles; norm, weight and rotation in float32. Forward only.

Pairs are read as even and odd columns, which every Triton back end takes, rather than split in registers.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_PROGRAMS = 32768  # a launch on Ascend holds 65,535; a program takes every so-manyth token
MOST_PAIRS = 1024  # of a row at a time: what Ascend's buffer of 192 KiB holds several times over


@triton.jit
def _norm_and_turn(x, weight, y, cosines, sines, pairs, dim, eps, PAIRS: tl.constexpr):
    squares = tl.zeros((PAIRS,), dtype=tl.float32)
    for start in range(0, pairs, PAIRS):
        pair = start + tl.arange(0, PAIRS)
        even = tl.load(x + 2 * pair, mask=pair < pairs, other=0.0).to(tl.float32)
        odd = tl.load(x + 2 * pair + 1, mask=pair < pairs, other=0.0).to(tl.float32)
        squares += even * even + odd * odd
    inverse = 1.0 / tl.sqrt(tl.sum(squares, axis=0) / (2 * pairs) + eps)
    for start in range(0, pairs, PAIRS):
        pair = start + tl.arange(0, PAIRS)
        inside = pair < pairs
        even = tl.load(x + 2 * pair, mask=inside, other=0.0).to(tl.float32)
        odd = tl.load(x + 2 * pair + 1, mask=inside, other=0.0).to(tl.float32)
        even = even * inverse * tl.load(weight + 2 * pair, mask=inside, other=0.0).to(tl.float32)
        odd = odd * inverse * tl.load(weight + 2 * pair + 1, mask=inside, other=0.0).to(tl.float32)
        place = (2 * pair) % dim
        cosine = tl.load(cosines + place, mask=inside, other=0.0).to(tl.float32)
        sine = tl.load(sines + place + 1, mask=inside, other=0.0).to(tl.float32)
        tl.store(y + 2 * pair, (even * cosine - odd * sine).to(y.dtype.element_ty), mask=inside)
        tl.store(y + 2 * pair + 1, (even * sine + odd * cosine).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _both(
    query, key, query_weight, key_weight, query_out, key_out, cosines, sines, rows, tokens, width, dim,
    query_batch, query_token, key_batch, key_token, angle_batch, eps, PAIRS: tl.constexpr,
):  # fmt: skip
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        batch, token = (row // tokens).to(tl.int64), (row % tokens).to(tl.int64)
        angle = batch * angle_batch + token * dim
        out = (batch * tokens + token) * width
        source = batch * query_batch + token * query_token
        _norm_and_turn(query + source, query_weight, query_out + out, cosines + angle, sines + angle, width // 2, dim, eps, PAIRS)
        source = batch * key_batch + token * key_token
        _norm_and_turn(key + source, key_weight, key_out + out, cosines + angle, sines + angle, width // 2, dim, eps, PAIRS)


def qk_norm_rope(
    query: Tensor, key: Tensor, query_weight: Tensor, key_weight: Tensor, cosines: Tensor, sines: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """See the face."""
    batch, tokens, width = query.shape
    query, key = (x if x.stride(2) == 1 else x.contiguous() for x in (query, key))
    cosines, sines, dim = cosines.contiguous(), sines.contiguous(), cosines.shape[3]
    outputs = [torch.empty(batch, tokens, width // dim, dim, dtype=query.dtype, device=query.device) for _ in range(2)]
    angle_batch = 0 if cosines.shape[0] == 1 else tokens * dim
    _both[(min(batch * tokens, MOST_PROGRAMS),)](
        query, key, query_weight.contiguous(), key_weight.contiguous(), *outputs, cosines, sines, batch * tokens, tokens, width, dim,
        query.stride(0), query.stride(1), key.stride(0), key.stride(1), angle_batch, eps,
        min(triton.next_power_of_2(width // 2), MOST_PAIRS),
    )  # fmt: skip
    return outputs[0], outputs[1]
