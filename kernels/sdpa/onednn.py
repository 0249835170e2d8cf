"""Two products by oneDNN and a softmax between, for CPUs that PyTorch's other library leaves half unused.

PyTorch multiplies float32 by MKL, its fused attention too. On AMD's CPUs with AVX-512 MKL takes its code for AVX2, at half the speed of oneDNN
(111 and 236 GFLOP/s on a core of an EPYC). The logits are written down, of one head and as many queries as stay in the cache.
"""

import math

import torch
from torch import Tensor

from kernels.sdpa import reference

LOGITS = 2**19  # written down at a time: 2 MB
FEWEST_ROWS, FEWEST_LOGITS = 96, 3 * 2**14  # of a head: below them PyTorch's one kernel is sooner done than ours are started


def sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """See the face. float32 inside, whatever the inputs' dtype."""
    (batch, heads, rows, dim), keys = query.shape, key.shape[2]
    if rows < FEWEST_ROWS or rows * keys < FEWEST_LOGITS or query.dtype == torch.float64:
        return reference.sdpa(query, key, value)
    output = torch.empty(batch, rows, heads, dim, dtype=query.dtype).transpose(1, 2)  # as a model's heads lie
    count = max(32, LOGITS // keys)
    for index, head in ((index, head) for index in range(batch) for head in range(heads)):
        q, k, v = query[index, head].float(), key[index, head].float() / math.sqrt(dim), value[index, head].float().T
        k, v = k.contiguous(), v.contiguous()  # what oneDNN takes for a layer's weight; laid otherwise it goes element by element
        for start in range(0, rows, count):
            weights = torch.softmax(_product(q[start : start + count], k), dim=-1)
            output[index, head, start : start + count] = _product(weights, v)
    return output


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """x (N, K) and weight (M, K) -> x weight^T (N, M).

    Called outright, as PyTorch's compiler calls it: its switch from MKL to oneDNN is the whole process's, and other threads multiply, too.
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")  # type: ignore[no-any-return]
