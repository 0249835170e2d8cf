"""The portable kernel: one program quantizes nothing, multiplies int8 tiles into int32 and dequantizes on the way out."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.int8_linear.reference import quantize_rows

BLOCK_M, BLOCK_N, BLOCK_K = 32, 32, 64


@triton.jit
def _product(x, w, xs, ws, y, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    sums = tl.zeros((BM, BN), dtype=tl.int32)
    for start in range(0, K, BK):
        depth = start + tl.arange(0, BK)
        a = tl.load(x + rows[:, None] * K + depth[None, :], mask=(rows[:, None] < M) & (depth[None, :] < K), other=0)
        b = tl.load(w + columns[None, :] * K + depth[:, None], mask=(columns[None, :] < N) & (depth[:, None] < K), other=0)
        sums += tl.dot(a, b, out_dtype=tl.int32)
    scale = tl.load(xs + rows, mask=rows < M, other=0.0)[:, None] * tl.load(ws + columns, mask=columns < N, other=0.0)[None, :]
    tl.store(y + rows[:, None] * N + columns[None, :], sums.to(tl.float32) * scale, mask=(rows[:, None] < M) & (columns[None, :] < N))


def int8_linear(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    """See the face."""
    quantized, scale = quantize_rows(x)
    m, k, n = x.shape[0], x.shape[1], weight.shape[0]
    y = torch.empty(m, n, dtype=torch.float32, device=x.device)
    grid = (triton.cdiv(m, BLOCK_M), triton.cdiv(n, BLOCK_N))
    arguments = (
        quantized.to(torch.int8).contiguous(),
        weight.contiguous(),
        scale.flatten().contiguous(),
        weight_scale.contiguous(),
        y,
        m,
        n,
        k,
    )
    _product[grid](*arguments, BLOCK_M, BLOCK_N, BLOCK_K)
    return (y if bias is None else y + bias).to(x.dtype)
