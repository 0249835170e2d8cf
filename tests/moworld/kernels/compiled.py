"""Compiles the Triton kernels for an absent GPU, with the tiles for the A14B's sizes."""

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource, GluonJITFunction

from moworld.kernels.attention import hopper_kernel as hopper
from moworld.kernels.attention import triton_kernel as attention
from moworld.kernels.int8_linear import triton_kernel as int8_linear
from moworld.kernels.modulated_norm import triton_kernel as modulated_norm
from moworld.kernels.qk_norm_rope import triton_kernel as qk_norm_rope

HALF, FLOAT, INT, ALIGNED = "*bf16", "*fp32", "i32", "i32 of whole 16"


def kernels(chip: str) -> dict[str, tuple[Any, list[str], dict[str, Any]]]:
    """Returns each kernel with its argument types, constants and launch options, for the tiles of a kind of chip."""
    product = int8_linear.PRODUCT[chip]
    return {
        **({"attention forward, Hopper's": attention_on_hopper(hopper.TILES)} if chip == "hopper" else {}),
        "attention forward": (
            attention._forward,
            [HALF] * 4 + [FLOAT] + [INT] * 4 + [ALIGNED] * 9 + ["fp32"],
            {"DIM": 128, "PADDED": False, "UPCAST": False, **attention.FORWARD},
        ),
        "attention backward_keys": attention_backward(attention.BACKWARD, keys=True),
        "attention backward_queries": attention_backward(attention.BACKWARD, keys=False),
        "int8_quantize": (int8_linear._quantize, [HALF, "*i8", FLOAT, INT, INT], {"PRECISE": True, **int8_linear.quantize_options(13824)}),
        "int8_product": int8_product(product),
        "modulated_norm": (modulated_norm._norm, [HALF, FLOAT, FLOAT, HALF] + [INT] * 7 + ["fp32"], modulated_norm.tile(5120, True)),
        "qk_norm_rope": (qk_norm_rope._both, [HALF] * 6 + [FLOAT] * 2 + [INT] * 8 + ["fp32"], qk_norm_rope._tile(40, 128)),
    }


def attention_on_hopper(options: dict[str, Any]) -> tuple[Any, list[str], dict[str, Any]]:
    tiles = []
    for rows in (hopper.ROWS, options["KEYS"], options["KEYS"]):
        layout = gl.NVMMASharedLayout.get_default_for([1, 1, rows, 128], gl.bfloat16)
        tiles.append(f"tensordesc<bf16[1,1,{rows},128],{layout!r}>")
    return hopper._forward, [*tiles, HALF, FLOAT] + [INT] * 4 + [ALIGNED] * 3 + ["fp32"], {"STAGES": options["STAGES"], "num_warps": 4}


def attention_backward(options: dict[str, Any], keys: bool) -> tuple[Any, list[str], dict[str, Any]]:
    kernel = attention._backward_keys if keys else attention._backward_queries
    types = [HALF] * 4 + [FLOAT] * 2 + [HALF] * (2 if keys else 1) + [INT] * 4 + [ALIGNED] * 12 + ["fp32"]
    return kernel, types, {"DIM": 128, "UPCAST": False, **options}


def int8_product(options: dict[str, Any]) -> tuple[Any, list[str], dict[str, Any]]:
    rows, channels, depth = (options[name] for name in ("ROWS", "CHANNELS", "DEPTH"))
    types = ["*i8", "*i8", FLOAT, FLOAT, FLOAT, HALF, INT, ALIGNED, ALIGNED]
    if options["DESCRIPTORS"]:
        types[:2], types[5] = [f"tensordesc<i8[{n},{depth}]>" for n in (rows, channels)], f"tensordesc<bf16[{rows},{channels}]>"
    return int8_linear._product, types, {"BIAS": True, "EVEN": True, **options}


def compiled(kernel: Any, types: list[str], constants: dict[str, Any], capability: int) -> Any:
    """Returns the kernel's machine code and metadata for an NVIDIA compute capability (90: Hopper)."""
    options = {key: value for key, value in constants.items() if key.startswith("num_")}
    constants = {key: value for key, value in constants.items() if key not in options}
    assert len(types) + len(constants) == len(kernel.arg_names)
    known = dict(zip(kernel.arg_names, types, strict=False)) | dict.fromkeys(constants, "constexpr")
    signature = {name: known[name].removesuffix(ALIGNED.removeprefix(INT)) for name in kernel.arg_names}
    aligned = {(index,): [["tt.divisibility", 16]] for index, kind in enumerate(types) if kind.startswith("*") or kind == ALIGNED}
    source = GluonASTSource if isinstance(kernel, GluonJITFunction) else ASTSource
    return triton.compile(source(kernel, signature, constants, aligned), target=GPUTarget("cuda", capability, 32), options=options)
