"""Ascend: npu_rms_norm and npu_rotary_mul, with the signatures that torch_npu 2.12 publishes. Never run on an NPU.

npu_rotary_mul rotates halves by default; Wan's pairing is its mode "interleave". That mode takes one row of angles for all samples, so
the samples are concatenated into one. Its inputs share a dtype: the rotation runs in float32, as Wan's does, since cosines in bfloat16
would rotate late frames by a wrong angle. The norm takes its weight in the input's dtype and sums in float32.
"""

from importlib import import_module
from typing import Any

from torch import Tensor


def qk_norm_rope(
    query: Tensor, key: Tensor, query_weight: Tensor, key_weight: Tensor, cosines: Tensor, sines: Tensor, eps: float, torch_npu: Any = None
) -> tuple[Tensor, Tensor]:
    """Implements `qk_norm_rope`. torch_npu: the module, or a fake that checks calls on machines without it."""
    torch_npu = torch_npu or import_module("torch_npu")
    batch, tokens, _ = query.shape
    one_sample = (1, batch * tokens, -1, cosines.shape[3])  # layout BSND
    cosines, sines = (x.float().expand(batch, -1, -1, -1).reshape(1, batch * tokens, 1, -1) for x in (cosines, sines))

    def one(x: Tensor, weight: Tensor) -> Tensor:
        normed, _ = torch_npu.npu_rms_norm(x, weight.to(x.dtype), epsilon=eps)
        rotated = torch_npu.npu_rotary_mul(normed.float().reshape(one_sample), cosines, sines, rotary_mode="interleave")
        return rotated.to(x.dtype).reshape(batch, tokens, -1, one_sample[-1])  # type: ignore[no-any-return]

    return one(query, query_weight), one(key, key_weight)
