"""Ascend: npu_fusion_attention and its gradient, with the signatures of torch_npu 2.12's library. Never run on an NPU.

The documentation omits the gradient; its signature is from the library and from Ascend's comparison tool (msprobe).

The operator returns each row's maximum and sum, repeated eight times in the last dim: max + log(sum) is the log-sum-exp. Its backward
computes weights as exp(logit - max) / sum, so a log-sum-exp over all keys is passed as the maximum, with sum 1.
"""

import math
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

NUM_COPIES = 8


def forward(query: Tensor, key: Tensor, value: Tensor, torch_npu: Any = None) -> tuple[Tensor, Tensor]:
    """Implements `attention`. torch_npu: the module, or a fake that checks calls on machines without it."""
    module = torch_npu or import_module("torch_npu")
    scale = 1 / math.sqrt(query.shape[-1])
    output, maximum, total, *_ = module.npu_fusion_attention(query, key, value, query.shape[1], "BNSD", scale=scale)
    return output, (maximum + total.log())[..., 0].float()


def backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor, torch_npu: Any = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Implements `attention_backward`. torch_npu: see `forward`."""
    module = torch_npu or import_module("torch_npu")
    maximum = lse.unsqueeze(-1).expand(*lse.shape, NUM_COPIES).contiguous()
    gradients = module.npu_fusion_attention_grad(
        query, key, value, gradient, query.shape[1], "BNSD", softmax_max=maximum, softmax_sum=torch.ones_like(maximum),
        attention_in=output, scale_value=1 / math.sqrt(query.shape[-1]),
    )  # fmt: skip
    return gradients[0], gradients[1], gradients[2]
