"""Rounding to int8 and the int8 product with its scales, against integers and the reference."""

import pytest
import torch

from kernels.int8_linear import quantize_weight, reference, triton_kernel
from tests.tolerances import tolerance


@pytest.mark.parametrize("sizes", [(1, 1, 1), (33, 64, 32), (5, 130, 40), (2, 5000, 3)])
def test_products_of_integers_are_exact(sizes):
    rows, depth, channels = sizes
    x, weight = torch.randint(-127, 128, (rows, depth)), torch.randint(-127, 128, (channels, depth)).to(torch.int8)
    x[:, 0] = 127
    y = triton_kernel.int8_linear(x.float(), weight, torch.ones(channels), None)
    assert torch.equal(y, (x @ weight.long().T).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("with_bias", [False, True])
def test_it_is_the_reference_for_strided_rows_too(dtype, with_bias):
    x = torch.randn(35, 2, 70).to(dtype)[:, 1]
    weight, scale = quantize_weight(torch.randn(37, 70))
    bias = torch.randn(37) if with_bias else None
    y, expected = triton_kernel.int8_linear(x, weight, scale, bias), reference.int8_linear(x, weight, scale, bias)
    assert y.dtype == dtype
    torch.testing.assert_close(y, expected, **tolerance("int8_linear", dtype))


def test_ties_round_to_even_as_torch_rounds_and_rows_of_zeros_stay_zero():
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 126.5, -126.5], [0.0] * 8])
    y = triton_kernel.int8_linear(x, torch.eye(8).to(torch.int8), torch.ones(8), None)
    assert torch.equal(y, torch.stack([x[0].round(), x[1]]))
