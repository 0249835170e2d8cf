"""Rounding to int8 and the int8 product with its scales, against integers and the reference."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from moworld.kernels.int8_linear import quantize_weight, reference, triton_kernel
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


@pytest.mark.parametrize("descriptors", [False, True])
@pytest.mark.parametrize("group", [1, 3, 8])
@pytest.mark.parametrize(("rows", "depth", "channels"), [(68, 64, 40), (32, 48, 32), (7, 80, 16)])
def test_tiles_in_any_order_and_by_any_loads_give_the_same(rows, depth, channels, group, descriptors):
    x, weight = (torch.randint(-127, 128, (n, depth), dtype=torch.int8) for n in (rows, channels))
    options = {"ROWS": 16, "CHANNELS": 16, "DEPTH": 32, "GROUP": group, "DESCRIPTORS": descriptors}
    scales, weight_scales, bias = torch.rand(rows), torch.rand(channels), torch.randn(channels)
    y = triton_kernel.product(x, scales, weight, weight_scales, bias, torch.float32, options)
    expected = (x.double() @ weight.double().T * scales[:, None] * weight_scales + bias).float()
    torch.testing.assert_close(y, expected, rtol=2**-21, atol=1e-3)  # products of up to 80 * 127^2, rounded three times


def rounded_once(builder, x, y, z):
    """Returns x * y + z in float32 with one rounding, as hardware does: to odd in float64, then to nearest. The interpreter rounds twice."""
    product, addend = x.data.astype(np.float64) * y.data, z.data.astype(np.float64)  # 48 bits: exact
    total = product + addend
    part = total - product
    lost = (product - (total - part)) + (addend - part)
    even = total.view(np.int64) % 2 == 0
    odd = np.where((lost != 0) & even, np.nextafter(total, np.copysign(np.inf, lost)), total)
    return TensorHandle(odd.astype(np.float32), z.dtype.scalar)


@settings(max_examples=30, deadline=None)
@given(st.floats(2**-130, 2**127, width=32))
@example(127.0)  # the ties themselves
@example(127 * 2**-64)  # the smallest scale that is used as it is, and the largest that is multiplied
@example(127 * (2**-64 - 2**-88))
@example(2**-125)  # the scale has lost bits
def test_on_nvidia_a_corrected_reciprocal_rounds_as_a_division_at_all_ties_and_beside_them(largest):
    scale = torch.tensor([largest]) / torch.tensor([127.0])
    ties = ((torch.arange(-127, 127).double() + 0.5) * scale.double()).float()
    bits = ties.view(torch.int32)[:, None] + torch.arange(-2, 3, dtype=torch.int32)  # with the two floats on each side
    x = torch.cat([torch.tensor([largest]), bits.view(torch.float32).flatten().clamp(-largest, largest)])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(InterpreterBuilder, "create_fma", rounded_once)
        found, found_scale = triton_kernel.quantize(x[None], precise=True)
    assert torch.equal(found_scale, scale)
    assert torch.equal(found[0].float(), (x / scale).round())
