"""The portable kernel: softmax over tiles of keys with a running maximum and sum, so that no row of the matrix is ever written down.

Forward keeps each row's log-sum-exp; backward computes the weights again from it, once by tiles of keys and once by tiles of queries.
Any number of queries and keys, any head dim up to 128 (padded with zeros to a power of two). Logits, sums and gradients are float32; tiles
are multiplied in the inputs' dtype, float32 without TF32.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.chips import chip

LOG2_E = tl.constexpr(math.log2(math.e))
Options = dict[str, Any]

# Tiles of 16-bit inputs: ROWS queries by KEYS keys, warps and stages of the pipeline.
FORWARD: Options = {"ROWS": 128, "KEYS": 64, "num_warps": 8, "num_stages": 2}
BACKWARD: Options = {"ROWS": 64, "KEYS": 64, "num_warps": 4, "num_stages": 2}


@triton.jit
def _tile(x, offset, rows, columns, stride, num_rows, num_columns, UPCAST: tl.constexpr):
    """Rows of a (n, D) matrix, zeros outside."""
    inside = (rows[:, None] < num_rows) & (columns[None, :] < num_columns)
    tile = tl.load(x + offset + rows[:, None] * stride + columns[None, :], mask=inside, other=0.0)
    return tile.to(tl.float32) if UPCAST else tile


@triton.jit
def _read(
    x,
    offset,
    start,
    num_rows,
    D,
    stride,
    ROWS: tl.constexpr,
    DIM: tl.constexpr,
    MASKED: tl.constexpr,
    PADDED: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """A tile of rows, as `_tile`, that asks only for what may lie outside: rows where MASKED, columns where PADDED."""
    rows, columns = start + tl.arange(0, ROWS), tl.arange(0, DIM)
    if MASKED:
        return _tile(x, offset, rows, columns, stride, num_rows, D, UPCAST)
    place = x + offset + rows[:, None] * stride + columns[None, :]
    tile = tl.load(place, mask=columns[None, :] < D, other=0.0) if PADDED else tl.load(place)
    return tile.to(tl.float32) if UPCAST else tile


@triton.jit
def _weigh(logits, maximum, total, scale):
    """The softmax so far, and a tile more: running maximum (in powers of two), sum of weights, the tile's weights, and what shrinks the sums before."""
    highest = tl.maximum(maximum, tl.max(logits, axis=1) * scale)
    weights = tl.exp2(logits * scale - highest[:, None])
    shrink = tl.exp2(maximum - highest)
    return highest, total * shrink + tl.sum(weights, axis=1), weights, shrink


@triton.jit
def _forward(
    query, key, value, output, lse, H, N, M, D, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, scale,
    DIM: tl.constexpr, PADDED: tl.constexpr, UPCAST: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """A tile of queries against all keys. scale: of the logits, times log2(e). The last tile of keys, which alone is masked, goes first."""
    pair, first = tl.program_id(1), tl.program_id(0) * ROWS
    batch, head = (pair // H).to(tl.int64), (pair % H).to(tl.int64)
    key_at, value_at = batch * k_b + head * k_h, batch * v_b + head * v_h
    last = (M - 1) // KEYS * KEYS
    q = _read(query, batch * q_b + head * q_h, first, N, D, q_n, ROWS, DIM, True, PADDED, UPCAST)
    k = _read(key, key_at, last, M, D, k_n, KEYS, DIM, True, PADDED, UPCAST)
    logits = tl.dot(q, tl.trans(k), input_precision="ieee")
    logits = tl.where((last + tl.arange(0, KEYS))[None, :] < M, logits, float("-inf"))
    maximum, total = tl.full((ROWS,), float("-inf"), dtype=tl.float32), tl.zeros((ROWS,), dtype=tl.float32)
    maximum, total, weights, shrink = _weigh(logits, maximum, total, scale)
    v = _read(value, value_at, last, M, D, v_n, KEYS, DIM, True, PADDED, UPCAST)
    sums = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    for start in range(0, last, KEYS):
        k = _read(key, key_at, start, M, D, k_n, KEYS, DIM, False, PADDED, UPCAST)
        logits = tl.dot(q, tl.trans(k), input_precision="ieee")
        maximum, total, weights, shrink = _weigh(logits, maximum, total, scale)
        v = _read(value, value_at, start, M, D, v_n, KEYS, DIM, False, PADDED, UPCAST)
        sums = tl.dot(weights.to(v.dtype), v, acc=sums * shrink[:, None], input_precision="ieee")
    sums = sums / total[:, None]
    rows, dims, out = first + tl.arange(0, ROWS), tl.arange(0, DIM), pair.to(tl.int64) * N
    inside = (rows[:, None] < N) & (dims[None, :] < D)
    tl.store(output + out * D + rows[:, None] * D + dims[None, :], sums.to(output.dtype.element_ty), mask=inside)
    tl.store(lse + out + rows, (maximum + tl.log2(total)) / LOG2_E, mask=rows < N)


@triton.jit
def _backward_keys(
    query, key, value, gradient, lse, delta, of_key, of_value, H, N, M, D, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, g_b, g_h, g_n, scale,
    DIM: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """A tile of keys against all queries: the gradients of keys and values. scale: of the logits."""
    pair = tl.program_id(1)
    batch, head = (pair // H).to(tl.int64), (pair % H).to(tl.int64)
    keys, dims = tl.program_id(0) * KEYS + tl.arange(0, KEYS), tl.arange(0, DIM)
    k = _tile(key, batch * k_b + head * k_h, keys, dims, k_n, M, D, UPCAST)
    v = _tile(value, batch * v_b + head * v_h, keys, dims, v_n, M, D, UPCAST)
    k_sums = tl.zeros((KEYS, DIM), dtype=tl.float32)
    v_sums = tl.zeros((KEYS, DIM), dtype=tl.float32)
    row_of = (batch * H + head) * N
    for start in range(0, N, ROWS):
        rows = start + tl.arange(0, ROWS)
        q = _tile(query, batch * q_b + head * q_h, rows, dims, q_n, N, D, UPCAST)
        g = _tile(gradient, batch * g_b + head * g_h, rows, dims, g_n, N, D, UPCAST)
        log_sum = tl.load(lse + row_of + rows, mask=rows < N, other=0.0)  # absent rows have no query and no gradient, so they add nothing
        dot = tl.load(delta + row_of + rows, mask=rows < N, other=0.0)
        logits = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        logits = tl.where(keys[None, :] < M, logits, float("-inf"))
        weights = tl.exp2((logits - log_sum[:, None]) * LOG2_E)
        v_sums += tl.dot(tl.trans(weights.to(g.dtype)), g, input_precision="ieee")
        of_weights = tl.dot(g, tl.trans(v), input_precision="ieee")
        of_logits = weights * (of_weights - dot[:, None]) * scale
        k_sums += tl.dot(tl.trans(of_logits.to(q.dtype)), q, input_precision="ieee")
    place = (batch * H + head) * M * D + keys[:, None] * D + dims[None, :]
    inside = (keys[:, None] < M) & (dims[None, :] < D)
    tl.store(of_key + place, k_sums.to(of_key.dtype.element_ty), mask=inside)
    tl.store(of_value + place, v_sums.to(of_value.dtype.element_ty), mask=inside)


@triton.jit
def _backward_queries(
    query, key, value, gradient, lse, delta, of_query, H, N, M, D, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, g_b, g_h, g_n, scale,
    DIM: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """A tile of queries against all keys: the gradient of the queries. scale: of the logits."""
    pair = tl.program_id(1)
    batch, head = (pair // H).to(tl.int64), (pair % H).to(tl.int64)
    rows, dims = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, DIM)
    q = _tile(query, batch * q_b + head * q_h, rows, dims, q_n, N, D, UPCAST)
    g = _tile(gradient, batch * g_b + head * g_h, rows, dims, g_n, N, D, UPCAST)
    row_of = (batch * H + head) * N
    log_sum = tl.load(lse + row_of + rows, mask=rows < N, other=0.0)
    dot = tl.load(delta + row_of + rows, mask=rows < N, other=0.0)
    sums = tl.zeros((ROWS, DIM), dtype=tl.float32)
    for start in range(0, M, KEYS):
        keys = start + tl.arange(0, KEYS)
        k = _tile(key, batch * k_b + head * k_h, keys, dims, k_n, M, D, UPCAST)
        v = _tile(value, batch * v_b + head * v_h, keys, dims, v_n, M, D, UPCAST)
        logits = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        logits = tl.where(keys[None, :] < M, logits, float("-inf"))
        weights = tl.exp2((logits - log_sum[:, None]) * LOG2_E)
        of_logits = weights * (tl.dot(g, tl.trans(v), input_precision="ieee") - dot[:, None]) * scale
        sums += tl.dot(of_logits.to(k.dtype), k, input_precision="ieee")
    inside = (rows[:, None] < N) & (dims[None, :] < D)
    tl.store(of_query + row_of * D + rows[:, None] * D + dims[None, :], sums.to(of_query.dtype.element_ty), mask=inside)


# The interpreter multiplies bfloat16 tiles wrongly, and takes seconds for large ones.
INTERPRETED = not isinstance(_forward, triton.JITFunction)


def forward(query: Tensor, key: Tensor, value: Tensor, options: Options | None = None) -> tuple[Tensor, Tensor]:
    """See the face. options: in place of those that the table has for the chip, as sweeps try them."""
    (batch, heads, rows, dim), keys = query.shape, key.shape[2]
    query, key, value = (_rows(x) for x in (query, key, value))
    output = torch.empty(batch, heads, rows, dim, dtype=query.dtype, device=query.device)
    lse = torch.empty(batch, heads, rows, dtype=torch.float32, device=query.device)
    options = options or _options(FORWARD, chip(query.device), query.dtype)
    strides = [stride for x in (query, key, value) for stride in x.stride()[:3]]
    scale = math.log2(math.e) / math.sqrt(dim)
    grid = (triton.cdiv(rows, options["ROWS"]), batch * heads)
    _forward[grid](query, key, value, output, lse, heads, rows, keys, dim, *strides, scale, **_constants(dim), **options)
    return output, lse


def backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor, options: Options | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """See the face. options: see `forward`."""
    (batch, heads, rows, dim), keys = query.shape, key.shape[2]
    gradient, query, key, value = (_rows(x) for x in (gradient, query, key, value))
    delta = (gradient.float() * output.float()).sum(-1).contiguous()  # each row's sum of weights times their gradients
    of_query, of_key, of_value = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (query, key, value))
    tiles = options or _options(BACKWARD, chip(query.device), query.dtype)
    constants = {**_constants(dim), **tiles}
    del constants["PADDED"]
    sizes = (heads, rows, keys, dim, *(stride for x in (query, key, value, gradient) for stride in x.stride()[:3]), 1 / math.sqrt(dim))
    given = (query, key, value, gradient, lse.contiguous(), delta)
    _backward_keys[(triton.cdiv(keys, tiles["KEYS"]), batch * heads)](*given, of_key, of_value, *sizes, **constants)
    _backward_queries[(triton.cdiv(rows, tiles["ROWS"]), batch * heads)](*given, of_query, *sizes, **constants)
    return of_query, of_key, of_value


def _rows(x: Tensor) -> Tensor:
    """Rows may lie anywhere; a row's columns lie side by side."""
    return x if x.stride(3) == 1 else x.contiguous()


def _constants(dim: int) -> Options:
    padded = max(16, triton.next_power_of_2(dim))
    return {"DIM": padded, "PADDED": padded != dim, "UPCAST": INTERPRETED}


def _options(tiles: Options, kind: str, dtype: torch.dtype) -> Options:
    """Tiles of 16-bit inputs on NVIDIA; half as many in float32, and on Ascend, whose buffers are smaller."""
    if INTERPRETED:
        return {**tiles, "ROWS": 16, "KEYS": 16}
    if dtype == torch.float32 or kind == "npu":
        rows, keys = max(tiles["ROWS"] // 2, 32), max(tiles["KEYS"] // 2, 32)
        return {**tiles, "ROWS": rows, "KEYS": keys, "num_warps": 4}
    return tiles
