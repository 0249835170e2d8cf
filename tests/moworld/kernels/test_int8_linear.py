"""The INT8 linear operator: every CPU implementation is exact against integers, and the choice reports its reasons."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moworld.kernels.chips import why_no_vnni
from moworld.kernels.int8_linear import OPERATOR, int8_linear, npu_binding, quantize_weight
from moworld.kernels.int8_linear.cpu import EXACT_K
from tests.moworld.kernels.npu import CALLS, TORCH_NPU
from tests.tolerances import INSIDE, tolerance

CPU = ["reference", "float_gemm", *([] if why_no_vnni() else ["int_mm"])]


def integers(rows: int, depth: int, columns: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations whose quantization is the identity (each row has a 127), and int8 weights."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-127, 128, (rows, depth), generator=generator)
    x[:, 0] = 127
    return x, torch.randint(-127, 128, (columns, depth), generator=generator).to(torch.int8)


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(1, 5), depth=st.sampled_from([1, 3, 64, EXACT_K, EXACT_K + 1, 2 * EXACT_K + 7]), columns=st.integers(1, 6), seed=st.integers(0, 99)
)  # fmt: skip
def test_products_of_integers_are_exact(rows, depth, columns, seed):
    x, weight = integers(rows, depth, columns, seed)
    exact = (x.long() @ weight.long().T).double()
    for backend in CPU:
        y = int8_linear(x.float(), weight, torch.ones(columns), backend=backend)
        assert torch.equal(y, exact.float()), backend


def test_the_largest_sums_stay_exact():
    depth = 4 * EXACT_K
    x, weight = torch.full((2, depth), 127.0), torch.full((3, depth), -127, dtype=torch.int8)
    x[:, -1] = 126  # an odd sum: float32 would round it away
    exact = -127 * (127 * (depth - 1) + 126)
    for backend in CPU:
        assert (int8_linear(x, weight, torch.ones(3), backend=backend).double() - exact).abs().max() <= abs(exact) * 2**-24


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([torch.float32, torch.bfloat16]), st.booleans())
def test_all_implementations_agree_and_keep_shape_and_dtype(seed, dtype, with_bias):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, 40, generator=generator).to(dtype)
    weight, scale = quantize_weight(torch.randn(7, 40, generator=generator))
    bias = torch.randn(7, generator=generator) if with_bias else None
    expected = int8_linear(x, weight, scale, bias, backend="reference")
    for backend in CPU:
        y = int8_linear(x, weight, scale, bias, backend=backend)
        assert y.shape == (2, 3, 7) and y.dtype == dtype
        torch.testing.assert_close(y, expected, **tolerance("int8_linear", dtype))


def test_the_error_is_that_of_eight_bits():
    generator = torch.Generator().manual_seed(0)
    x, linear = torch.randn(64, 192, generator=generator), torch.randn(96, 192, generator=generator)
    exact = x @ linear.T
    y = int8_linear(x, *quantize_weight(linear))
    assert 0.001 < float((y - exact).norm() / exact.norm()) < 0.02


def test_rows_and_channels_of_zeros_give_zeros():
    weight, scale = quantize_weight(torch.zeros(3, 8))
    assert torch.equal(scale, torch.ones(3)) and not weight.any()
    for backend in CPU:
        y = int8_linear(torch.zeros(2, 8), weight, scale, torch.tensor([1.0, 2.0, 3.0]), backend=backend)
        assert torch.equal(y, torch.tensor([[1.0, 2.0, 3.0]] * 2))


def test_dequantized_weights_are_within_half_a_step():
    linear = torch.randn(5, 30, generator=torch.Generator().manual_seed(1)) * torch.tensor([[1e-6], [1.0], [1e6], [3.0], [0.1]])
    weight, scale = quantize_weight(linear)
    assert weight.abs().max() == 127
    assert ((weight.float() * scale[:, None] - linear).abs() <= scale[:, None] * 0.5001).all()


def test_the_choice_reports_what_was_refused_and_why():
    choice = OPERATOR.choose("cpu")
    assert choice.name == ("float_gemm" if why_no_vnni() else "int_mm")
    assert choice.refused["npu"] == "serves npu" and choice.refused["triton"] == "serves cuda"
    with pytest.raises(ValueError, match="is named warp"):
        OPERATOR.choose("cpu", "warp")
    with pytest.raises(ValueError, match="torch_npu is not installed"):
        OPERATOR.choose("npu", "npu")


@pytest.mark.parametrize(
    ("x", "weight", "scale"),
    [((2, 8), (3, 9), 3), ((2, 8), (3, 8), 4)],
)
def test_shapes_that_do_not_fit_are_refused(x, weight, scale):
    with pytest.raises(ValueError, match="do not fit"):
        int8_linear(torch.zeros(x), torch.zeros(weight, dtype=torch.int8), torch.ones(scale))
    with pytest.raises(ValueError, match="do not fit"):
        int8_linear(torch.zeros(2, 8), torch.zeros(3, 8), torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_npu_binding_calls_the_published_signatures_and_agrees(dtype):
    CALLS.clear()
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(6, 32, generator=generator).to(torch.bfloat16).to(dtype)
    weight, scale = quantize_weight(torch.randn(5, 32, generator=generator))
    bias = torch.randn(5, generator=generator)
    y = npu_binding.int8_linear(x, weight, scale, bias, torch_npu=TORCH_NPU)
    assert CALLS == ["npu_dynamic_quant", "npu_quant_matmul"] and y.dtype == dtype
    expected = int8_linear(x, weight, scale, bias, backend="reference")
    torch.testing.assert_close(y, expected, **{**tolerance("int8_linear", dtype), "atol": INSIDE["int8_linear on npu"]})


@pytest.mark.parametrize("backend", CPU)
def test_one_linear_in_place_of_three_gives_the_same_numbers_to_the_bit(backend):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 40, generator=generator)
    layers = [
        (*quantize_weight(torch.randn(n, 40, generator=generator)), bias)
        for n, bias in ((6, torch.ones(6)), (3, torch.randn(3, generator=generator)), (5, torch.zeros(5)))
    ]
    joined = (torch.cat(parts) for parts in zip(*layers, strict=True))
    parts = int8_linear(x, *joined, backend=backend).split([6, 3, 5], dim=1)
    for part, layer in zip(parts, layers, strict=True):
        assert torch.equal(part, int8_linear(x, *layer, backend=backend))
