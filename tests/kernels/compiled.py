"""Compiles the Triton kernels for a GPU that need not be there, at the tiles they take for the A14B's sizes."""

from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.attention import triton_kernel as attention
from kernels.int8_linear import triton_kernel as int8_linear
from kernels.modulated_norm import triton_kernel as modulated_norm
from kernels.qk_norm_rope import triton_kernel as qk_norm_rope

HALF, FLOAT, INT = "*bf16", "*fp32", "i32"
QUERY = torch.empty(1, 40, 4096, 128, dtype=torch.bfloat16, device="meta")
FORWARD, BACKWARD = (attention._tiles(QUERY, wide) for wide in (attention.FORWARD, attention.BACKWARD))
# name: kernel, types of its arguments, constants and launch options
KERNELS: dict[str, tuple[Any, list[str], dict[str, Any]]] = {
    "attention forward": (attention._forward, [HALF] * 4 + [FLOAT] + [INT] * 13 + ["fp32"], FORWARD),
    "attention backward_keys": (attention._backward_keys, [HALF] * 4 + [FLOAT] * 2 + [HALF] * 2 + [INT] * 16 + ["fp32"], BACKWARD),
    "attention backward_queries": (attention._backward_queries, [HALF] * 4 + [FLOAT] * 2 + [HALF] + [INT] * 16 + ["fp32"], BACKWARD),
    "int8_quantize": (int8_linear._quantize, [HALF, "*i8", FLOAT, INT, INT, INT], {"COLUMNS": int8_linear.MOST_COLUMNS, "PRECISE": True}),
    "int8_product": (int8_linear._product, ["*i8", "*i8", FLOAT, FLOAT, FLOAT, HALF, INT, INT, INT], {"BIAS": True, **int8_linear.TILES}),
    "modulated_norm": (modulated_norm._norm, [HALF, FLOAT, FLOAT, HALF] + [INT] * 7 + ["fp32"], {"COLUMNS": modulated_norm.MOST_COLUMNS}),
    "qk_norm_rope": (qk_norm_rope._both, [HALF] * 6 + [FLOAT] * 2 + [INT] * 9 + ["fp32"], qk_norm_rope._tile(40, 128)),
}


def compiled(name: str, capability: int) -> Any:
    """The kernel's machine code and metadata for an NVIDIA compute capability, 90 being Hopper."""
    kernel, types, constants = KERNELS[name]
    options = {key: value for key, value in constants.items() if key.startswith("num_")}
    constants = {key: value for key, value in constants.items() if key not in options}
    assert len(types) + len(constants) == len(kernel.arg_names), name
    signature = dict(zip(kernel.arg_names, [*types, *("constexpr" for _ in constants)], strict=True))
    aligned = {(index,): [["tt.divisibility", 16]] for index, kind in enumerate(types) if kind.startswith("*")}
    return triton.compile(ASTSource(kernel, signature, constants, aligned), target=GPUTarget("cuda", capability, 32), options=options)
