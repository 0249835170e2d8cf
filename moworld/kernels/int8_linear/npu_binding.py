"""Ascend: npu_dynamic_quant and npu_quant_matmul, with the signatures that torch_npu publishes. Never run on an NPU."""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor


def int8_linear(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, torch_npu: Any = None) -> Tensor:
    """Implements `int8_linear`. The operators take bfloat16 or float16; the bias, in float units, is added after the product.

    torch_npu: the module, or a fake that checks calls on machines without it
    """
    torch_npu = torch_npu or import_module("torch_npu")
    dtype = x.dtype if x.dtype in (torch.bfloat16, torch.float16) else torch.bfloat16
    quantized, scale = torch_npu.npu_dynamic_quant(x.to(dtype))
    y = torch_npu.npu_quant_matmul(quantized, weight.T, weight_scale, pertoken_scale=scale, output_dtype=dtype)
    return (y if bias is None else y + bias.to(dtype)).to(x.dtype)  # type: ignore[no-any-return]
