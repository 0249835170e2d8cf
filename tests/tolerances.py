"""Tolerances of operators against their references, derived, in one table.

Kernels and references compute in float32 and round the result to the inputs' dtype. `rtol` is the largest difference of two such
roundings of the same value, `atol` the error of float32 inside the operator.
"""

import torch

# Half a unit in the last place for each side; in bfloat16 a full one for the kernel, because Triton's interpreter truncates.
ROUNDING = {torch.float32: 2**-23, torch.bfloat16: 2**-8 + 2**-7, torch.float16: 2**-10}

INSIDE = {
    # Products summed over at most 128 dims and 64 keys, values up to 4: at most 192 * 4 * 2^-24 = 5e-5; measured: a fifth.
    "attention": 2e-5,
    # Twice the sums, over logits' gradients of the same size.
    "attention gradients": 1e-4,
    # Up to 400 gaussians in a pixel: sums of 400 terms up to 1, and exponents up to 6 of products of 30 pixels; measured: a third.
    "gaussians": 2e-5,
    # The integer product is exact; two scalings and a bias, of values up to 40: 3 * 40 * 2^-24.
    "int8_linear": 1e-5,
    # A mean of up to 3,000 squares summed in 2,048 lanes and a tree of 11 sums (12 roundings), a square root, four products; values up to 30.
    "modulated_norm": 3e-5,
    "qk_norm_rope": 3e-5,
    # The Ascend norm rounds its result to the inputs' dtype before the rotation: one more rounding of pairs of values up to 16.
    "qk_norm_rope on npu in bfloat16": 16 * 2**-8,
    # The Ascend product has bfloat16 inputs and output: a rounding of values up to 40, before the bias and after it.
    "int8_linear on npu": 2 * 40 * 2**-8,
}


def tolerance(operator: str, dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """The arguments rtol and atol of `torch.testing.assert_close`."""
    return {"rtol": ROUNDING[dtype] + INSIDE[operator], "atol": INSIDE[operator]}
