"""Ascend: npu_fusion_attention and its gradient, arguments by keyword where the signatures have names. Not run: no NPU here.

The forward signature is torch_npu's documented one; the gradient's is not documented there and was read from the comparison tool that
Ascend ships (msprobe) and from public callers.

The operator hands out each row's maximum and sum, eight times over in the last dimension; max + log(sum) is the log-sum-exp. Backward
weighs with exp(logit - max) / sum, so a log-sum-exp over all keys is passed as the maximum, with sum 1.
"""

import math
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

COPIES = 8


def forward(query: Tensor, key: Tensor, value: Tensor, torch_npu: Any = None) -> tuple[Tensor, Tensor]:
    """See the face. torch_npu: the module, for checks of the calls without it."""
    module = torch_npu or import_module("torch_npu")
    scale = 1 / math.sqrt(query.shape[-1])
    output, maximum, total, *_ = module.npu_fusion_attention(query, key, value, query.shape[1], "BNSD", scale=scale)
    return output, (maximum + total.log())[..., 0].float()


def backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor, torch_npu: Any = None
) -> tuple[Tensor, Tensor, Tensor]:
    """See the face."""
    module = torch_npu or import_module("torch_npu")
    maximum = lse.unsqueeze(-1).expand(*lse.shape, COPIES).contiguous()
    gradients = module.npu_fusion_attention_grad(
        query, key, value, gradient, query.shape[1], "BNSD", softmax_max=maximum, softmax_sum=torch.ones_like(maximum),
        attention_in=output, scale_value=1 / math.sqrt(query.shape[-1]),
    )  # fmt: skip
    return gradients[0], gradients[1], gradients[2]
