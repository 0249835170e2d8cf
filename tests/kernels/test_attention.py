"""Attention over parts of the keys: against SDPA, joined, backward, and the Ascend calls against the published schemas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.attention import join, npu_binding, partial_attention, partial_attention_backward, reference, selected
from tests.kernels.npu import CALLS, TORCH_NPU
from tests.tolerances import tolerance

BACKENDS = ["flash_cpu", "reference"]


def draw(queries: int = 7, keys: int = 11, heads: int = 3, dim: int = 8) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(2, heads, n, dim, requires_grad=True) for n in (queries, keys, keys))


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_keys_at_once_are_sdpa_forward_and_backward(backend):
    query, key, value = draw()
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    gradient = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, (query, key, value), gradient)
    plain = [x.detach() for x in (query, key, value)]
    output, lse = partial_attention(*plain, backend=backend)
    torch.testing.assert_close(output, expected.detach(), **tolerance("attention"))
    torch.testing.assert_close(lse, (plain[0] @ plain[1].transpose(-1, -2) / math.sqrt(8)).logsumexp(-1), **tolerance("attention"))
    for found, want in zip(partial_attention_backward(gradient, *plain, output, lse, backend=backend), wanted, strict=True):
        torch.testing.assert_close(found, want, **tolerance("attention gradients"))


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=20, deadline=None)
@given(cut=st.integers(1, 10), seed=st.integers(0, 1000))
def test_parts_join_to_the_whole_in_any_order_and_their_gradients_add_up(backend, cut, seed):
    torch.manual_seed(seed)
    query, key, value = (x.detach() for x in draw())
    whole, lse = partial_attention(query, key, value, backend="reference")
    parts = [(key[:, :, :cut], value[:, :, :cut]), (key[:, :, cut:], value[:, :, cut:])]
    for order in (parts, parts[::-1]):
        (one, other) = (partial_attention(query, *part, backend=backend) for part in order)
        joined, joined_lse = join(*one, *other)
        torch.testing.assert_close(joined, whole, **tolerance("attention"))
        torch.testing.assert_close(joined_lse, lse, **tolerance("attention"))
    gradient = torch.randn_like(whole)
    wanted = partial_attention_backward(gradient, query, key, value, whole, lse, backend="reference")
    found = [partial_attention_backward(gradient, query, *part, whole, lse, backend=backend) for part in parts]
    torch.testing.assert_close(found[0][0] + found[1][0], wanted[0], **tolerance("attention gradients"))
    for index in (1, 2):
        torch.testing.assert_close(torch.cat([part[index] for part in found], dim=2), wanted[index], **tolerance("attention gradients"))


def test_a_cpu_takes_the_flash_operator_and_says_why_not_the_npu():
    choice = selected("cpu")
    assert choice.name == "flash_cpu" and "serves npu" in choice.refused["npu_binding"]


def test_the_ascend_binding_calls_what_is_published_and_means_the_same():
    CALLS.clear()
    query, key, value = (x.detach() for x in draw())
    whole, lse = partial_attention(query, key, value, backend="reference")
    torch.testing.assert_close(npu_binding.forward(query, key, value, TORCH_NPU), (whole, lse), **tolerance("attention"))
    gradient = torch.randn_like(whole)
    found = npu_binding.backward(gradient, query, key[:, :, :4], value[:, :, :4], whole, lse, TORCH_NPU)
    wanted = partial_attention_backward(gradient, query, key[:, :, :4], value[:, :, :4], whole, lse, backend="reference")
    torch.testing.assert_close(found, wanted, **tolerance("attention gradients"))
    assert CALLS == ["npu_fusion_attention", "npu_fusion_attention_grad"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_ascend_binding_keeps_the_dtype_and_its_statistics_are_float32(dtype):
    query, key, value = (x.detach().to(dtype) for x in draw())
    (found, found_lse), (output, lse) = npu_binding.forward(query, key, value, TORCH_NPU), reference.forward(query, key, value)
    assert found.dtype == dtype and found_lse.dtype == torch.float32
    torch.testing.assert_close(found, output, **tolerance("attention", dtype))
    torch.testing.assert_close(found_lse, lse, **tolerance("attention"))


@pytest.mark.parametrize(
    ("key", "value"),
    [((2, 3, 4, 9), (2, 3, 4, 8)), ((2, 3, 4, 8), (2, 3, 5, 8)), ((2, 4, 4, 8), (2, 4, 4, 8)), ((2, 3, 0, 8), (2, 3, 0, 8))],
)
def test_shapes_that_do_not_fit_and_no_keys_are_refused(key, value):
    with pytest.raises(ValueError, match="do not fit"):
        partial_attention(torch.zeros(2, 3, 4, 8), torch.zeros(key), torch.zeros(value))
    with pytest.raises(ValueError, match="do not fit"):
        partial_attention(torch.zeros(2, 3, 4, 8), torch.zeros(2, 3, 4, 8), torch.zeros(2, 3, 4, 8, dtype=torch.bfloat16))
