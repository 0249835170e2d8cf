"""The kernel of NVIDIA's Hopper chips, in Triton's Gluon: one warp brings tiles by the copy engine, two groups of four warps attend.

Each group has 64 queries. It starts a tile's logits, and the values of the tile before, and computes the softmax of the former while the tensor
cores are at the latter; the two groups fall out of step by themselves, so that one weighs while the other multiplies.
Forward alone, 16-bit inputs; backward is the portable kernel's.
"""

import math
from typing import Any

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from kernels.attention.triton_kernel import backward
from kernels.chips import describable

__all__ = ["backward", "forward"]

LOG2_E = gl.constexpr(math.log2(math.e))
GROUPS, ROWS = 2, 64  # groups of four warps, and the queries of each: what one instruction of the tensor cores takes
Options = dict[str, Any]
TILES: Options = {"KEYS": 128, "STAGES": 2}  # keys of a tile, and how many tiles of keys and of values are on their way or in use
DTYPES = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16}


@gluon.jit
def _bring(query, key, value, buffers, batch, head, first, last):
    """Queries once, then keys and values tile by tile, the last tile first, each into room that both groups have left."""
    queries, keys, values, q_full, k_full, k_empty, v_full, v_empty = buffers
    GROUPS: gl.constexpr = queries.shape[0]
    ROWS: gl.constexpr = queries.shape[3]
    STAGES: gl.constexpr = keys.shape[0]
    KEYS: gl.constexpr = keys.shape[3]
    mbarrier.expect(q_full, GROUPS * query.block_type.nbytes)
    for group in gl.static_range(GROUPS):
        tma.async_copy_global_to_shared(query, [batch, head, first + group * ROWS, 0], q_full, queries.index(group))
    stage, phase = 0, 1
    for tile in range(last, -1, -1):
        mbarrier.wait(k_empty.index(stage), phase)
        mbarrier.expect(k_full.index(stage), key.block_type.nbytes)
        tma.async_copy_global_to_shared(key, [batch, head, tile * KEYS, 0], k_full.index(stage), keys.index(stage))
        mbarrier.wait(v_empty.index(stage), phase)
        mbarrier.expect(v_full.index(stage), value.block_type.nbytes)
        tma.async_copy_global_to_shared(value, [batch, head, tile * KEYS, 0], v_full.index(stage), values.index(stage))
        stage, phase = _next(stage, phase, STAGES)


@gluon.jit
def _next(stage, phase, STAGES: gl.constexpr):
    """The stage after this one; a barrier's phase turns when all stages had their turn."""
    stage += 1
    return stage % STAGES, phase ^ (stage // STAGES)


@gluon.jit
def _weigh(logits, maximum, total, scale):
    """The softmax so far, and a tile more: running maximum (in powers of two), sum of weights, the tile's weights, and what shrinks the sums before."""
    highest = gl.maximum(maximum, gl.max(logits, axis=1) * scale)
    weights = gl.exp2(logits * scale - highest[:, None])
    shrink = gl.exp2(maximum - highest)
    return highest, total * shrink + gl.sum(weights, axis=1), weights, shrink


@gluon.jit
def _attend(output, lse, strides, buffers, batch, head, first, last, H, N, M, D, scale, GROUP: gl.constexpr):
    """One group's queries against all keys. scale: of the logits, times log2(e). The last tile of keys, which alone is masked, comes first."""
    queries, keys, values, q_full, k_full, k_empty, v_full, v_empty = buffers
    ROWS: gl.constexpr = queries.shape[3]
    DIM: gl.constexpr = queries.shape[4]
    STAGES: gl.constexpr = keys.shape[0]
    KEYS: gl.constexpr = keys.shape[3]
    dtype: gl.constexpr = queries.dtype
    of_logits: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 16])
    of_sums: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, DIM, 16])
    of_held: gl.constexpr = gl.DotOperandLayout(0, of_sums, 2)
    of_rows: gl.constexpr = gl.SliceLayout(1, of_sums)

    q = queries.index(GROUP).reshape((ROWS, DIM))
    none = gl.zeros((ROWS, KEYS), gl.float32, of_logits)
    sums = gl.zeros((ROWS, DIM), gl.float32, of_sums)
    maximum = gl.full((ROWS,), float("-inf"), gl.float32, gl.SliceLayout(1, of_logits))
    total = gl.zeros((ROWS,), gl.float32, gl.SliceLayout(1, of_logits))
    mbarrier.wait(q_full, 0)
    mbarrier.wait(k_full.index(0), 0)
    logits = warpgroup_mma(q, keys.index(0).reshape((KEYS, DIM)).permute((1, 0)), none, use_acc=False, is_async=True)
    logits = warpgroup_mma_wait(0, (logits,))
    mbarrier.arrive(k_empty.index(0), count=1)
    columns = last * KEYS + gl.arange(0, KEYS, gl.SliceLayout(0, of_logits))
    logits = gl.where((columns < M)[None, :], logits, float("-inf"))
    maximum, total, weights, shrink = _weigh(logits, maximum, total, scale)
    held = gl.convert_layout(weights.to(dtype), of_held)
    before, before_phase = 0, 0
    stage, phase = _next(0, 0, STAGES)
    for _ in range(last):
        mbarrier.wait(k_full.index(stage), phase)
        logits = warpgroup_mma(q, keys.index(stage).reshape((KEYS, DIM)).permute((1, 0)), none, use_acc=False, is_async=True)
        mbarrier.wait(v_full.index(before), before_phase)
        pending = warpgroup_mma(held, values.index(before).reshape((KEYS, DIM)), sums, is_async=True)
        logits = warpgroup_mma_wait(1, (logits,))
        mbarrier.arrive(k_empty.index(stage), count=1)
        maximum, total, weights, shrink = _weigh(logits, maximum, total, scale)
        sums = warpgroup_mma_wait(0, (pending,))
        mbarrier.arrive(v_empty.index(before), count=1)
        sums = sums * gl.convert_layout(shrink, of_rows)[:, None]
        held = gl.convert_layout(weights.to(dtype), of_held)
        before, before_phase = stage, phase
        stage, phase = _next(stage, phase, STAGES)
    mbarrier.wait(v_full.index(before), before_phase)
    pending = warpgroup_mma(held, values.index(before).reshape((KEYS, DIM)), sums, is_async=True)
    sums = warpgroup_mma_wait(0, (pending,))

    total, maximum = gl.convert_layout(total, of_rows), gl.convert_layout(maximum, of_rows)
    rows = first + GROUP * ROWS + gl.arange(0, ROWS, of_rows)
    dims = gl.arange(0, DIM, gl.SliceLayout(0, of_sums))
    of_batch, of_head, of_row = strides
    place = output + batch.to(gl.int64) * of_batch + head.to(gl.int64) * of_head + rows[:, None] * of_row + dims[None, :]
    gl.store(place, (sums / total[:, None]).to(dtype), mask=(rows < N)[:, None] & (dims < D)[None, :])
    gl.store(lse + (batch * H + head).to(gl.int64) * N + rows, (maximum + gl.log2(total)) / LOG2_E, mask=rows < N)


@gluon.jit
def _forward(
    query, key, value, output, lse, H, N, M, D, o_b, o_h, o_n, scale, STAGES: gl.constexpr,
):  # fmt: skip
    """128 queries of a head. query, key, value: descriptors of (B, H, n, D) by tiles of 64 queries and of KEYS keys."""
    ROWS: gl.constexpr = query.block_type.shape[2]
    KEYS: gl.constexpr = key.block_type.shape[2]
    DIM: gl.constexpr = query.block_type.shape[3]
    batch, head = gl.program_id(1) // H, gl.program_id(1) % H
    queries = gl.allocate_shared_memory(query.dtype, [2, 1, 1, ROWS, DIM], query.layout)
    keys = gl.allocate_shared_memory(key.dtype, [STAGES, 1, 1, KEYS, DIM], key.layout)
    values = gl.allocate_shared_memory(value.dtype, [STAGES, 1, 1, KEYS, DIM], value.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_full, count=1)
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_full.index(stage), count=1)
        mbarrier.init(v_full.index(stage), count=1)
        mbarrier.init(k_empty.index(stage), count=2)  # both groups leave it
        mbarrier.init(v_empty.index(stage), count=2)
    fence_async_shared()
    buffers = (queries, keys, values, q_full, k_full, k_empty, v_full, v_empty)
    first, last = gl.program_id(0) * 2 * ROWS, (M - 1) // KEYS
    strides = (o_b, o_h, o_n)
    gl.warp_specialize(
        [
            (_attend, (output, lse, strides, buffers, batch, head, first, last, H, N, M, D, scale, 0)),
            (_attend, (output, lse, strides, buffers, batch, head, first, last, H, N, M, D, scale, 1)),
            (_bring, (query, key, value, buffers, batch, head, first, last)),
        ],
        [4, 1],
        [240, 24],  # registers a thread: sums, logits and weights of a group; next to none for the copies
    )


def forward(query: Tensor, key: Tensor, value: Tensor, options: Options | None = None) -> tuple[Tensor, Tensor]:
    """See the face. options: in place of TILES, as sweeps try them."""
    (batch, heads, rows, dim), keys = query.shape, key.shape[2]
    options = options or TILES
    output = torch.empty(batch, rows, heads, dim, dtype=query.dtype, device=query.device).transpose(1, 2)  # as a model's heads lie
    lse = torch.empty(batch, heads, rows, dtype=torch.float32, device=query.device)
    given = [_described(x, tile) for x, tile in ((query, ROWS), (key, options["KEYS"]), (value, options["KEYS"]))]
    grid = (triton.cdiv(rows, GROUPS * ROWS), batch * heads)
    scale = math.log2(math.e) / math.sqrt(dim)
    _forward[grid](*given, output, lse, heads, rows, keys, dim, *output.stride()[:3], scale, STAGES=options["STAGES"], num_warps=4)
    return output, lse


def _described(x: Tensor, tile: int) -> TensorDescriptor:
    """A (B, H, n, D) tensor by tiles of rows, as the copy engine reads it: zeros outside, in rows and in columns."""
    if not describable(x):
        x = torch.nn.functional.pad(x, (0, -x.shape[3] % 8)).contiguous()  # whole 16 bytes a row
    block = [1, 1, tile, max(16, triton.next_power_of_2(x.shape[3]))]
    return TensorDescriptor.from_tensor(x, block, gl.NVMMASharedLayout.get_default_for(block, DTYPES[x.dtype]))
