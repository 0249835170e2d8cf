"""NVIDIA kernel: one program computes a token's query and key in registers, in float32. Forward only."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _halves(x, HEADS: tl.constexpr, DIM: tl.constexpr):
    """Returns even and odd columns of (HEADS, DIM), (HEADS, DIM / 2) each."""
    return tl.split(tl.reshape(x, (HEADS, DIM // 2, 2)))


@triton.jit
def _norm_and_rotate(x, weight, y, cosine, sine, heads, dim, eps, HEADS: tl.constexpr, DIM: tl.constexpr):
    """Computes one row of `heads` times `dim`, which a tile holds. cosine, sine: (1, DIM / 2)."""
    head, columns = tl.arange(0, HEADS)[:, None], tl.arange(0, DIM)[None, :]
    inside = (head < heads) & (columns < dim)
    value = tl.load(x + head * dim + columns, mask=inside, other=0.0).to(tl.float32)
    inverse = 1.0 / tl.sqrt(tl.sum(tl.sum(value * value, axis=1), axis=0) / (heads * dim) + eps)
    value = value * inverse * tl.load(weight + head * dim + columns, mask=inside, other=0.0).to(tl.float32)
    even, odd = _halves(value, HEADS, DIM)
    rotated = tl.reshape(tl.join(even * cosine - odd * sine, even * sine + odd * cosine), (HEADS, DIM))
    tl.store(y + head * dim + columns, rotated.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _both(
    query, key, query_weight, key_weight, query_out, key_out, cosines, sines, tokens, heads, dim,
    query_batch, query_token, key_batch, key_token, angle_batch, eps, HEADS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    columns = tl.arange(0, DIM)[None, :]
    batch, token = (tl.program_id(0) // tokens).to(tl.int64), (tl.program_id(0) % tokens).to(tl.int64)
    angle = batch * angle_batch + token * dim
    cosine, _ = _halves(tl.load(cosines + angle + columns, mask=columns < dim, other=0.0).to(tl.float32), 1, DIM)
    _, sine = _halves(tl.load(sines + angle + columns, mask=columns < dim, other=0.0).to(tl.float32), 1, DIM)
    out = (batch * tokens + token) * heads * dim
    source = batch * query_batch + token * query_token
    _norm_and_rotate(query + source, query_weight, query_out + out, cosine, sine, heads, dim, eps, HEADS, DIM)
    source = batch * key_batch + token * key_token
    _norm_and_rotate(key + source, key_weight, key_out + out, cosine, sine, heads, dim, eps, HEADS, DIM)


def qk_norm_rope(
    query: Tensor, key: Tensor, query_weight: Tensor, key_weight: Tensor, cosines: Tensor, sines: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Implements `qk_norm_rope`."""
    (batch, tokens, width), dim = query.shape, cosines.shape[3]
    query, key = (x if x.stride(2) == 1 else x.contiguous() for x in (query, key))
    cosines, sines = cosines.contiguous(), sines.contiguous()
    outputs = [torch.empty(batch, tokens, width // dim, dim, dtype=query.dtype, device=query.device) for _ in range(2)]
    angle_batch = 0 if cosines.shape[0] == 1 else tokens * dim
    _both[(batch * tokens,)](
        query, key, query_weight.contiguous(), key_weight.contiguous(), *outputs, cosines, sines, tokens, width // dim, dim,
        query.stride(0), query.stride(1), key.stride(0), key.stride(1), angle_batch, eps,
        **_tile(width // dim, dim),
    )  # fmt: skip
    return outputs[0], outputs[1]


def _tile(heads: int, dim: int) -> dict[str, int]:
    """Returns the constants and warps for rows of `heads` times `dim`."""
    columns, rows = triton.next_power_of_2(dim), triton.next_power_of_2(heads)
    return {"HEADS": rows, "DIM": columns, "num_warps": 4 if rows * columns <= 2048 else 8}
