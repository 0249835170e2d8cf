"""Ascend: PyTorch's layer_norm, which torch_npu documents as the successor of npu_layer_norm_eval. Never run on an NPU.

A sample's scale and shift are passed as the norm's weight and bias: one kernel per sample. torch_npu publishes no norm with weights
per token; there the modulation is a second operation.
"""

import torch
from torch import Tensor


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """Implements `modulated_norm`."""
    norm, width = torch.nn.functional.layer_norm, x.shape[-1:]
    weight, bias = 1 + scale.float(), shift.float()
    if scale.shape[1] == 1:
        samples = zip(x.float(), weight, bias, strict=True)
        return torch.stack([norm(part, width, factor[0], offset[0], eps) for part, factor, offset in samples]).type_as(x)
    return torch.addcmul(bias, norm(x.float(), width, eps=eps), weight).type_as(x)
