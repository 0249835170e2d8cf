"""Ascend: PyTorch's own layer_norm, which torch_npu serves with its kernel and names as the successor of npu_layer_norm_eval. Not run: no NPU here.

A sample's scale and shift are handed over as the norm's own weight and bias: one kernel a sample, nothing between read or written.
torch_npu publishes no norm whose weights differ by token; there the modulation is a second operation.
"""

import torch
from torch import Tensor


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """See the face."""
    norm, width = torch.nn.functional.layer_norm, x.shape[-1:]
    weight, bias = 1 + scale.float(), shift.float()
    if scale.shape[1] == 1:
        normed = [
            norm(part, width, part_weight[0], part_bias[0], eps)
            for part, part_weight, part_bias in zip(x.float(), weight, bias, strict=True)
        ]
        return torch.stack(normed).type_as(x)
    return torch.addcmul(bias, norm(x.float(), width, eps=eps), weight).type_as(x)
