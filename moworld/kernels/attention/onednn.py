"""Two products by oneDNN with a softmax between, for CPUs on which PyTorch's MKL is slow. float32 inside, forward only.

PyTorch multiplies float32 by MKL, in its fused attention too. On AMD CPUs with AVX-512 MKL uses its code for AVX2, at half the speed
of oneDNN (111 and 236 GFLOP/s on a core of an EPYC). Logits are stored for one head and as many queries as fit in the cache.
"""

import math

import torch
from torch import Tensor

NUM_LOGITS = 2**19  # stored at a time: 2 MB


def forward(query: Tensor, key: Tensor, value: Tensor, num_logits: int = NUM_LOGITS) -> tuple[Tensor, None]:
    """Implements `attention` without a log-sum-exp. num_logits: at most so many are stored, but at least 32 queries' logits."""
    (batch, heads, rows, dim), keys = query.shape, key.shape[2]
    output = torch.empty(batch, rows, heads, dim, dtype=query.dtype).transpose(1, 2)  # the memory layout of a model's heads
    count = max(32, num_logits // keys)
    for index, head in ((index, head) for index in range(batch) for head in range(heads)):
        q, k, v = query[index, head].float(), key[index, head].float() / math.sqrt(dim), value[index, head].float().T
        k, v = k.contiguous(), v.contiguous()  # the layout of a layer's weight; oneDNN handles others element by element
        for start in range(0, rows, count):
            weights = torch.softmax(_product(q[start : start + count], k), dim=-1)
            output[index, head, start : start + count] = _product(weights, v)
    return output, None


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """Returns x weight^T (N, M) of x (N, K) and weight (M, K).

    Calls oneDNN's operator directly, as PyTorch's compiler does: the switch from MKL to oneDNN is process-wide and affects other threads.
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")  # type: ignore[no-any-return]
