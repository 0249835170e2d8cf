"""Ascend: npu_rms_norm and npu_rotary_mul as torch_npu 2.12 publishes them. Not run: no NPU here.

npu_rotary_mul turns halves unless told "interleave", which is Wan's pairing; in that mode the positions may not differ by sample, so the
samples are laid end to end as one long sequence. Its inputs share a dtype: the rotation runs in float32, as Wan's does, since cosines in
bfloat16 would turn late frames by the wrong angle. The norm takes its weight in the input's dtype and sums in float32 by itself.
"""

from importlib import import_module
from typing import Any

from torch import Tensor


def qk_norm_rope(
    query: Tensor, key: Tensor, query_weight: Tensor, key_weight: Tensor, cosines: Tensor, sines: Tensor, eps: float, torch_npu: Any = None
) -> tuple[Tensor, Tensor]:
    """See the face. torch_npu: the module, for checks of the calls without it."""
    torch_npu = torch_npu or import_module("torch_npu")
    batch, tokens, _ = query.shape
    heads_of = (1, batch * tokens, -1, cosines.shape[3])  # BSND with one sample
    cosines, sines = (x.float().expand(batch, -1, -1, -1).reshape(1, batch * tokens, 1, -1) for x in (cosines, sines))

    def one(x: Tensor, weight: Tensor) -> Tensor:
        normed, _ = torch_npu.npu_rms_norm(x, weight.to(x.dtype), epsilon=eps)
        turned = torch_npu.npu_rotary_mul(normed.float().reshape(heads_of), cosines, sines, rotary_mode="interleave")
        return turned.to(x.dtype).reshape(batch, tokens, -1, heads_of[-1])  # type: ignore[no-any-return]

    return one(query, query_weight), one(key, key_weight)
