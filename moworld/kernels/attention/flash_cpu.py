"""PyTorch's flash attention for CPUs, forward and backward. The public function does not return its log-sum-exp, so it is called by name."""

import torch
from torch import Tensor


def forward(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Implements `attention`."""
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)
    return output, lse.float()


def backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Implements `attention_backward`."""
    operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    return operator(gradient, query, key, value, output, lse, 0.0, False)  # type: ignore[no-any-return]
