"""Attention over all keys and over parts of them: against SDPA, joined, backward, and the Ascend calls against published schemas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moworld.kernels.attention import OPERATOR, attention, attention_backward, join, npu_binding, onednn, reference
from moworld.kernels.chips import why_no_onednn
from moworld.kernels.dispatch import LOG_SUM_EXP
from moworld.model.attention import attend
from tests.moworld.kernels.npu import CALLS, TORCH_NPU
from tests.tolerances import tolerance

WITH_LSE = ["flash_cpu", "reference"]


def draw(queries: int = 7, keys: int = 11, heads: int = 3, dim: int = 8, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Query, key and value in the memory layout of a model's heads: token by token."""
    return [torch.randn(2, n, heads, dim).to(dtype).transpose(1, 2) for n in (queries, keys, keys)]


@pytest.mark.parametrize("backend", WITH_LSE)
def test_output_log_sum_exp_and_gradients_are_those_of_sdpa(backend):
    leaves = [x.requires_grad_() for x in draw()]
    expected = torch.nn.functional.scaled_dot_product_attention(*leaves)
    gradient = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, leaves, gradient)
    plain = [x.detach() for x in leaves]
    output, lse = attention(*plain, backend=backend, return_lse=True)
    torch.testing.assert_close(output, expected.detach(), **tolerance("attention"))
    torch.testing.assert_close(lse, (plain[0] @ plain[1].transpose(-1, -2) / math.sqrt(8)).logsumexp(-1), **tolerance("attention"))
    by_autograd = torch.autograd.grad(attention(*leaves, backend=backend), leaves, gradient)
    for found in (attention_backward(gradient, *plain, output, lse, backend=backend), by_autograd):
        torch.testing.assert_close(found, wanted, **tolerance("attention gradients"))


@pytest.mark.parametrize("backend", WITH_LSE)
@settings(max_examples=8, deadline=None)
@given(cut=st.integers(1, 10), seed=st.integers(0, 1000))
def test_parts_join_to_the_whole_in_any_order_and_their_gradients_add_up(backend, cut, seed):
    torch.manual_seed(seed)
    query, key, value = draw()
    whole, lse = attention(query, key, value, backend="reference", return_lse=True)
    parts = [(key[:, :, :cut], value[:, :, :cut]), (key[:, :, cut:], value[:, :, cut:])]
    for order in (parts, parts[::-1]):
        one, other = (attention(query, *part, backend=backend, return_lse=True) for part in order)
        torch.testing.assert_close(join(*one, *other), (whole, lse), **tolerance("attention"))
    gradient = torch.randn_like(whole)
    wanted = attention_backward(gradient, query, key, value, whole, lse, backend="reference")
    found = [attention_backward(gradient, query, *part, whole, lse, backend=backend) for part in parts]
    torch.testing.assert_close(found[0][0] + found[1][0], wanted[0], **tolerance("attention gradients"))
    for index in (1, 2):
        torch.testing.assert_close(torch.cat([part[index] for part in found], dim=2), wanted[index], **tolerance("attention gradients"))


def test_a_cpu_chooses_the_flash_kernel_for_a_log_sum_exp_and_says_why_not_the_npu():
    choice = OPERATOR.choose("cpu", requires=(LOG_SUM_EXP,))
    assert choice.name == "flash_cpu" and "serves npu" in choice.refused["npu_binding"]
    assert choice.refused["sdpa"] == "computes no log-sum-exp, which the call requires"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "keys", "num_logits"), [(96, 512, 2**19), (7, 11, 2**19), (200, 300, 64 * 300)])  # in one part, in four
def test_products_by_onednn_are_pytorch_s_attention(rows, keys, num_logits, dtype):
    given = draw(rows, keys, dim=16, dtype=dtype)
    (found, _), exact = onednn.forward(*given, num_logits), attention(*(x.double() for x in given), backend="sdpa")
    assert found.dtype == dtype and found.shape == given[0].shape
    torch.testing.assert_close(found, exact.to(dtype), **tolerance("attention", dtype))


def test_onednn_stores_the_logits_of_a_part_of_the_queries(monkeypatch):
    counts, product = [], onednn._product
    monkeypatch.setattr(onednn, "_product", lambda x, weight: counts.append(len(x)) or product(x, weight))
    onednn.forward(*draw(200, 400, dim=16), num_logits=64 * 400)
    assert counts == [64, 64, 64, 64, 64, 64, 8, 8] * 6  # logits and sums, two samples of three heads


@pytest.mark.parametrize(
    ("flags", "reason"),
    [(("AuthenticAMD", "avx512f"), ""), *(((*flags,), "MKL suits") for flags in (("GenuineIntel", "avx512f"), ("AuthenticAMD", "avx2"), ()))],
)
def test_onednn_runs_on_cpus_that_mkl_does_not_suit(flags, reason):
    assert why_no_onednn(frozenset(flags)).startswith(reason) and bool(why_no_onednn(frozenset(flags))) == bool(reason)


def test_the_model_attends_by_the_operator_with_heads_behind_tokens():
    query, key, value = (torch.randn(2, n, 3, 16) for n in (7, 11, 11))
    assert torch.equal(attend(query, key, value), attention(*(x.transpose(1, 2) for x in (query, key, value))).transpose(1, 2))


def test_the_ascend_binding_calls_published_operators_with_the_same_result():
    CALLS.clear()
    query, key, value = draw()
    whole, lse = reference.forward(query, key, value)
    torch.testing.assert_close(npu_binding.forward(query, key, value, TORCH_NPU), (whole, lse), **tolerance("attention"))
    gradient = torch.randn_like(whole)
    found = npu_binding.backward(gradient, query, key[:, :, :4], value[:, :, :4], whole, lse, TORCH_NPU)
    wanted = reference.backward(gradient, query, key[:, :, :4], value[:, :, :4], whole, lse)
    torch.testing.assert_close(found, wanted, **tolerance("attention gradients"))
    assert CALLS == ["npu_fusion_attention", "npu_fusion_attention_grad"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_ascend_binding_keeps_the_dtype_and_its_statistics_are_float32(dtype):
    given = draw(dtype=dtype)
    (found, found_lse), (output, lse) = npu_binding.forward(*given, TORCH_NPU), reference.forward(*given)
    assert found.dtype == dtype and found_lse.dtype == torch.float32
    torch.testing.assert_close(found, output, **tolerance("attention", dtype))
    torch.testing.assert_close(found_lse, lse, **tolerance("attention"))


@pytest.mark.parametrize("return_lse", [False, True])
@pytest.mark.parametrize(
    ("key", "value"),
    [((2, 3, 4, 9), (2, 3, 4, 8)), ((2, 3, 4, 8), (2, 3, 5, 8)), ((2, 4, 4, 8), (2, 4, 4, 8)), ((2, 3, 0, 8), (2, 3, 0, 8))],
)
def test_shapes_that_do_not_fit_and_no_keys_are_refused(key, value, return_lse):
    query = torch.zeros(2, 3, 4, 8)
    with pytest.raises(ValueError, match="do not fit"):
        attention(query, torch.zeros(key), torch.zeros(value), return_lse=return_lse)
    with pytest.raises(ValueError, match="do not fit"):
        attention(query, query, query.bfloat16(), return_lse=return_lse)
