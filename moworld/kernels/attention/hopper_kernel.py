"""Attention kernel for NVIDIA Hopper in Triton's Gluon: one warp loads tiles by the copy engine (TMA), two groups of four warps compute.

Each group has 64 queries. It starts the products for a tile's logits and for the previous tile's values, and computes the softmax of the
former while the tensor cores compute the latter. The two groups drift apart, so that one computes a softmax while the other multiplies.
16-bit inputs. Backward is the portable kernel's.
"""

import math

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from moworld.kernels.attention.triton_kernel import backward
from moworld.kernels.chips import has_descriptor

__all__ = ["backward", "forward"]

LOG2_E = gl.constexpr(math.log2(math.e))
GROUPS, ROWS = 2, 64  # groups of four warps, and the queries of each: the rows of one tensor core instruction
TILES = {"KEYS": 128, "STAGES": 2}  # keys per tile; tiles of keys and of values that are loading or in use
DTYPES = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16}


@gluon.jit
def _load(query, key, value, buffers, batch, head, first, last):
    """Loads queries once, then tiles of keys and values, the last tile first, each into a buffer that both groups have released."""
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
    """Returns the next stage and its phase: a barrier's phase flips after a round of all stages."""
    stage += 1
    return stage % STAGES, phase ^ (stage // STAGES)


@gluon.jit
def _online_softmax(logits, maximum, total, scale):
    """Adds a tile to the online softmax: returns running maximum (log2), sum of weights, the tile's weights, factor for earlier sums."""
    highest = gl.maximum(maximum, gl.max(logits, axis=1) * scale)
    weights = gl.exp2(logits * scale - highest[:, None])
    shrink = gl.exp2(maximum - highest)
    return highest, total * shrink + gl.sum(weights, axis=1), weights, shrink


@gluon.jit
def _attend(output, lse, strides, buffers, batch, head, first, last, H, N, M, D, scale, GROUP: gl.constexpr):
    """Computes one group's queries against all keys. scale: of the logits, times log2(e). The last tile, the only masked one, is first."""
    queries, keys, values, q_full, k_full, k_empty, v_full, v_empty = buffers
    ROWS: gl.constexpr = queries.shape[3]
    DIM: gl.constexpr = queries.shape[4]
    STAGES: gl.constexpr = keys.shape[0]
    KEYS: gl.constexpr = keys.shape[3]
    dtype: gl.constexpr = queries.dtype
    logits_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 16])
    sums_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, DIM, 16])
    weights_layout: gl.constexpr = gl.DotOperandLayout(0, sums_layout, 2)
    rows_layout: gl.constexpr = gl.SliceLayout(1, sums_layout)

    q = queries.index(GROUP).reshape((ROWS, DIM))
    none = gl.zeros((ROWS, KEYS), gl.float32, logits_layout)
    sums = gl.zeros((ROWS, DIM), gl.float32, sums_layout)
    maximum = gl.full((ROWS,), float("-inf"), gl.float32, gl.SliceLayout(1, logits_layout))
    total = gl.zeros((ROWS,), gl.float32, gl.SliceLayout(1, logits_layout))
    mbarrier.wait(q_full, 0)
    mbarrier.wait(k_full.index(0), 0)
    logits = warpgroup_mma(q, keys.index(0).reshape((KEYS, DIM)).permute((1, 0)), none, use_acc=False, is_async=True)
    logits = warpgroup_mma_wait(0, (logits,))
    mbarrier.arrive(k_empty.index(0), count=1)
    columns = last * KEYS + gl.arange(0, KEYS, gl.SliceLayout(0, logits_layout))
    logits = gl.where((columns < M)[None, :], logits, float("-inf"))
    maximum, total, weights, shrink = _online_softmax(logits, maximum, total, scale)
    held = gl.convert_layout(weights.to(dtype), weights_layout)
    before, before_phase = 0, 0
    stage, phase = _next(0, 0, STAGES)
    for _ in range(last):
        mbarrier.wait(k_full.index(stage), phase)
        logits = warpgroup_mma(q, keys.index(stage).reshape((KEYS, DIM)).permute((1, 0)), none, use_acc=False, is_async=True)
        mbarrier.wait(v_full.index(before), before_phase)
        pending = warpgroup_mma(held, values.index(before).reshape((KEYS, DIM)), sums, is_async=True)
        logits = warpgroup_mma_wait(1, (logits,))
        mbarrier.arrive(k_empty.index(stage), count=1)
        maximum, total, weights, shrink = _online_softmax(logits, maximum, total, scale)
        sums = warpgroup_mma_wait(0, (pending,))
        mbarrier.arrive(v_empty.index(before), count=1)
        sums = sums * gl.convert_layout(shrink, rows_layout)[:, None]
        held = gl.convert_layout(weights.to(dtype), weights_layout)
        before, before_phase = stage, phase
        stage, phase = _next(stage, phase, STAGES)
    mbarrier.wait(v_full.index(before), before_phase)
    pending = warpgroup_mma(held, values.index(before).reshape((KEYS, DIM)), sums, is_async=True)
    sums = warpgroup_mma_wait(0, (pending,))

    total, maximum = gl.convert_layout(total, rows_layout), gl.convert_layout(maximum, rows_layout)
    rows = first + GROUP * ROWS + gl.arange(0, ROWS, rows_layout)
    dims = gl.arange(0, DIM, gl.SliceLayout(0, sums_layout))
    batch_stride, head_stride, row_stride = strides
    place = output + batch.to(gl.int64) * batch_stride + head.to(gl.int64) * head_stride + rows[:, None] * row_stride + dims[None, :]
    gl.store(place, (sums / total[:, None]).to(dtype), mask=(rows < N)[:, None] & (dims < D)[None, :])
    gl.store(lse + (batch * H + head).to(gl.int64) * N + rows, (maximum + gl.log2(total)) / LOG2_E, mask=rows < N)


@gluon.jit
def _forward(query, key, value, output, lse, H, N, M, D, o_b, o_h, o_n, scale, STAGES: gl.constexpr):
    """Computes 128 queries of a head. query, key, value: descriptors of (B, H, n, D) by tiles of 64 queries and of KEYS keys."""
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
        mbarrier.init(k_empty.index(stage), count=2)  # both groups release it
        mbarrier.init(v_empty.index(stage), count=2)
    fence_async_shared()
    buffers = (queries, keys, values, q_full, k_full, k_empty, v_full, v_empty)
    first, last = gl.program_id(0) * 2 * ROWS, (M - 1) // KEYS
    strides = (o_b, o_h, o_n)
    gl.warp_specialize(
        [
            (_attend, (output, lse, strides, buffers, batch, head, first, last, H, N, M, D, scale, 0)),
            (_attend, (output, lse, strides, buffers, batch, head, first, last, H, N, M, D, scale, 1)),
            (_load, (query, key, value, buffers, batch, head, first, last)),
        ],
        [4, 1],
        [240, 24],  # registers per thread: sums, logits and weights of a group; few for the loads
    )


def forward(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Implements `attention`."""
    (batch, heads, rows, dim), keys = query.shape, key.shape[2]
    output = torch.empty(batch, rows, heads, dim, dtype=query.dtype, device=query.device).transpose(1, 2)  # the memory layout of a model's heads
    lse = torch.empty(batch, heads, rows, dtype=torch.float32, device=query.device)
    descriptors = [_descriptor(x, tile) for x, tile in ((query, ROWS), (key, TILES["KEYS"]), (value, TILES["KEYS"]))]
    grid = (triton.cdiv(rows, GROUPS * ROWS), batch * heads)
    scale = math.log2(math.e) / math.sqrt(dim)
    _forward[grid](*descriptors, output, lse, heads, rows, keys, dim, *output.stride()[:3], scale, STAGES=TILES["STAGES"], num_warps=4)
    return output, lse


def _descriptor(x: Tensor, tile: int) -> TensorDescriptor:
    """Returns a descriptor of a (B, H, n, D) tensor by tiles of rows, by which the copy engine reads zeros outside."""
    if not has_descriptor(x):
        x = torch.nn.functional.pad(x, (0, -x.shape[3] % 8)).contiguous()  # rows of whole 16 bytes
    block = [1, 1, tile, max(16, triton.next_power_of_2(x.shape[3]))]
    return TensorDescriptor.from_tensor(x, block, gl.NVMMASharedLayout.get_default_for(block, DTYPES[x.dtype]))
