"""Portable attention kernel: online softmax over tiles of keys with a running maximum and sum, so that no row of logits is stored.

Forward stores each row's log-sum-exp; backward recomputes the weights from it, once by tiles of keys and once by tiles of queries.
Any number of queries and keys, any head dim up to 128 (padded with zeros to a power of two). Logits, sums and gradients are float32;
tiles are multiplied in the inputs' dtype, float32 without TF32.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = tl.constexpr(math.log2(math.e))
Options = dict[str, Any]

# Tiles for 16-bit inputs: ROWS queries by KEYS keys, warps and pipeline stages.
FORWARD: Options = {"ROWS": 128, "KEYS": 64, "num_warps": 8, "num_stages": 2}
BACKWARD: Options = {"ROWS": 64, "KEYS": 64, "num_warps": 4, "num_stages": 2}


@triton.jit
def _tile(
    x, offset, rows, columns, stride, num_rows, num_columns,
    UPCAST: tl.constexpr, MASKED: tl.constexpr = True, PADDED: tl.constexpr = True,
):  # fmt: skip
    """Loads rows of a (n, D) matrix, zeros outside. Not MASKED: all rows are inside; and not PADDED: all columns, too."""
    place = x + offset + rows[:, None] * stride + columns[None, :]
    if MASKED:
        tile = tl.load(place, mask=(rows[:, None] < num_rows) & (columns[None, :] < num_columns), other=0.0)
    else:
        tile = tl.load(place, mask=columns[None, :] < num_columns, other=0.0) if PADDED else tl.load(place)
    return tile.to(tl.float32) if UPCAST else tile


@triton.jit
def _online_softmax(logits, maximum, total, scale):
    """Adds a tile to the online softmax: returns running maximum (log2), sum of weights, the tile's weights, factor for earlier sums."""
    highest = tl.maximum(maximum, tl.max(logits, axis=1) * scale)
    weights = tl.exp2(logits * scale - highest[:, None])
    shrink = tl.exp2(maximum - highest)
    return highest, total * shrink + tl.sum(weights, axis=1), weights, shrink


@triton.jit
def _forward(
    query, key, value, output, lse, H, N, M, D, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, scale,
    DIM: tl.constexpr, PADDED: tl.constexpr, UPCAST: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Computes a tile of queries against all keys. scale: of the logits, times log2(e). The last tile, the only masked one, is first."""
    pair, first = tl.program_id(1), tl.program_id(0) * ROWS
    batch, head = (pair // H).to(tl.int64), (pair % H).to(tl.int64)
    key_at, value_at = batch * k_b + head * k_h, batch * v_b + head * v_h
    last = (M - 1) // KEYS * KEYS
    rows, keys, dims = first + tl.arange(0, ROWS), tl.arange(0, KEYS), tl.arange(0, DIM)
    q = _tile(query, batch * q_b + head * q_h, rows, dims, q_n, N, D, UPCAST)
    k = _tile(key, key_at, last + keys, dims, k_n, M, D, UPCAST)
    logits = tl.dot(q, tl.trans(k), input_precision="ieee")
    logits = tl.where((last + keys)[None, :] < M, logits, float("-inf"))
    maximum, total = tl.full((ROWS,), float("-inf"), dtype=tl.float32), tl.zeros((ROWS,), dtype=tl.float32)
    maximum, total, weights, shrink = _online_softmax(logits, maximum, total, scale)
    v = _tile(value, value_at, last + keys, dims, v_n, M, D, UPCAST)
    sums = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    for start in range(0, last, KEYS):
        k = _tile(key, key_at, start + keys, dims, k_n, M, D, UPCAST, False, PADDED)
        logits = tl.dot(q, tl.trans(k), input_precision="ieee")
        maximum, total, weights, shrink = _online_softmax(logits, maximum, total, scale)
        v = _tile(value, value_at, start + keys, dims, v_n, M, D, UPCAST, False, PADDED)
        sums = tl.dot(weights.to(v.dtype), v, acc=sums * shrink[:, None], input_precision="ieee")
    sums = sums / total[:, None]
    out = pair.to(tl.int64) * N
    inside = (rows[:, None] < N) & (dims[None, :] < D)
    tl.store(output + out * D + rows[:, None] * D + dims[None, :], sums.to(output.dtype.element_ty), mask=inside)
    tl.store(lse + out + rows, (maximum + tl.log2(total)) / LOG2_E, mask=rows < N)


@triton.jit
def _logit_gradients(q, k, v, g, log_sum, dot, keys, M, scale):
    """Returns a tile's weights and the gradients of its logits. log_sum, dot: of the queries; keys: their numbers, valid below M."""
    logits = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    logits = tl.where(keys[None, :] < M, logits, float("-inf"))
    weights = tl.exp2((logits - log_sum[:, None]) * LOG2_E)
    return weights, weights * (tl.dot(g, tl.trans(v), input_precision="ieee") - dot[:, None]) * scale


@triton.jit
def _backward_keys(
    query, key, value, gradient, lse, delta, d_key, d_value, H, N, M, D, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, g_b, g_h, g_n, scale,
    DIM: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Computes the gradients of a tile of keys and values, over all queries. scale: of the logits."""
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
        log_sum = tl.load(lse + row_of + rows, mask=rows < N, other=0.0)  # rows outside have zero query and gradient, so they add nothing
        dot = tl.load(delta + row_of + rows, mask=rows < N, other=0.0)
        weights, d_logits = _logit_gradients(q, k, v, g, log_sum, dot, keys, M, scale)
        v_sums += tl.dot(tl.trans(weights.to(g.dtype)), g, input_precision="ieee")
        k_sums += tl.dot(tl.trans(d_logits.to(q.dtype)), q, input_precision="ieee")
    place = (batch * H + head) * M * D + keys[:, None] * D + dims[None, :]
    inside = (keys[:, None] < M) & (dims[None, :] < D)
    tl.store(d_key + place, k_sums.to(d_key.dtype.element_ty), mask=inside)
    tl.store(d_value + place, v_sums.to(d_value.dtype.element_ty), mask=inside)


@triton.jit
def _backward_queries(
    query, key, value, gradient, lse, delta, d_query, H, N, M, D, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, g_b, g_h, g_n, scale,
    DIM: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Computes the gradient of a tile of queries, over all keys. scale: of the logits."""
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
        _, d_logits = _logit_gradients(q, k, v, g, log_sum, dot, keys, M, scale)
        sums += tl.dot(d_logits.to(k.dtype), k, input_precision="ieee")
    inside = (rows[:, None] < N) & (dims[None, :] < D)
    tl.store(d_query + row_of * D + rows[:, None] * D + dims[None, :], sums.to(d_query.dtype.element_ty), mask=inside)


# Triton's interpreter multiplies bfloat16 tiles wrongly, and takes seconds for large ones.
INTERPRETED = not isinstance(_forward, triton.JITFunction)


def forward(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Implements `attention`."""
    (batch, heads, rows, dim), keys = query.shape, key.shape[2]
    query, key, value = (_rows(x) for x in (query, key, value))
    output = torch.empty(batch, heads, rows, dim, dtype=query.dtype, device=query.device)
    lse = torch.empty(batch, heads, rows, dtype=torch.float32, device=query.device)
    constants = _constants(FORWARD, query)
    strides = [stride for x in (query, key, value) for stride in x.stride()[:3]]
    scale = math.log2(math.e) / math.sqrt(dim)
    grid = (triton.cdiv(rows, constants["ROWS"]), batch * heads)
    _forward[grid](query, key, value, output, lse, heads, rows, keys, dim, *strides, scale, PADDED=constants["DIM"] != dim, **constants)
    return output, lse


def backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Implements `attention_backward`."""
    (batch, heads, rows, dim), keys = query.shape, key.shape[2]
    gradient, query, key, value = (_rows(x) for x in (gradient, query, key, value))
    delta = (gradient.float() * output.float()).sum(-1).contiguous()  # each row's sum of weights times their gradients
    d_query, d_key, d_value = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (query, key, value))
    constants = _constants(BACKWARD, query)
    sizes = (heads, rows, keys, dim, *(stride for x in (query, key, value, gradient) for stride in x.stride()[:3]), 1 / math.sqrt(dim))
    given = (query, key, value, gradient, lse.contiguous(), delta)
    _backward_keys[(triton.cdiv(keys, constants["KEYS"]), batch * heads)](*given, d_key, d_value, *sizes, **constants)
    _backward_queries[(triton.cdiv(rows, constants["ROWS"]), batch * heads)](*given, d_query, *sizes, **constants)
    return d_query, d_key, d_value


def _rows(x: Tensor) -> Tensor:
    """Returns x with contiguous columns; rows may have any stride."""
    return x if x.stride(3) == 1 else x.contiguous()


def _constants(tiles: Options, x: Tensor) -> Options:
    """Returns the constants and launch options for heads like those of x (B, H, n, D). Tiles are half as large for float32."""
    constants = {**tiles, "DIM": max(16, triton.next_power_of_2(x.shape[3])), "UPCAST": INTERPRETED}
    if INTERPRETED:
        return {**constants, "ROWS": 16, "KEYS": 16}
    if x.dtype == torch.float32:
        return {**constants, "ROWS": tiles["ROWS"] // 2, "KEYS": tiles["KEYS"] // 2, "num_warps": 4}
    return constants
