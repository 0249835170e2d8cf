"""How far an implementation of an operator may be from its reference: one table, derived, the same everywhere.

A value is rounded where it is computed and where it is handed over. Kernels and references compute in float32 and hand over in the inputs'
dtype; so `rtol` is what two roundings of the same value to that dtype may differ by, and `atol` what float32 loses inside.
"""

import torch

# Half a unit in the last place for the reference; for the other side as much, save bfloat16, which Triton's interpreter cuts off: a whole one.
HANDED_OVER = {torch.float32: 2**-23, torch.bfloat16: 2**-8 + 2**-7, torch.float16: 2**-10}

INSIDE = {
    # Products summed over at most 128 dims and 64 keys, values up to 4 or so: 192 * 4 * 2^-24 = 5e-5 at the very worst, a fifth of it seen.
    "attention": 2e-5,
    # Twice the sums, over logits' gradients of the same size.
    "attention gradients": 1e-4,
    # The integer product is exact; two scalings and a bias, of values up to 40: 3 * 40 * 2^-24.
    "int8_linear": 1e-5,
    # A mean of up to 3,000 squares summed in 2,048 lanes and a tree of 11 sums (12 roundings), a square root, four products; values up to 30.
    "modulated_norm": 3e-5,
    "qk_norm_rope": 3e-5,
    # The Ascend norm hands its result to the rotation in the inputs' dtype: a rounding more, of pairs of values up to 16.
    "qk_norm_rope on npu in bfloat16": 16 * 2**-8,
    # The Ascend product takes bfloat16 and hands over bfloat16, in place of float32: a rounding of values up to 40, before the bias and after.
    "int8_linear on npu": 2 * 40 * 2**-8,
}


def tolerance(operator: str, dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """The arguments rtol and atol of `torch.testing.assert_close`."""
    return {"rtol": HANDED_OVER[dtype] + INSIDE[operator], "atol": INSIDE[operator]}
