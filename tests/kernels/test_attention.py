"""Attention over parts of the keys: against SDPA, joined, backward, and the Ascend calls against the published signatures."""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.attention import join, npu_binding, partial_attention, partial_attention_backward, selected

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
    torch.testing.assert_close(output, expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(lse, (plain[0] @ plain[1].transpose(-1, -2) / math.sqrt(8)).logsumexp(-1), rtol=1e-5, atol=1e-5)
    for found, want in zip(partial_attention_backward(gradient, *plain, output, lse, backend=backend), wanted, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)


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
        torch.testing.assert_close(joined, whole, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(joined_lse, lse, rtol=1e-5, atol=1e-5)
    gradient = torch.randn_like(whole)
    wanted = partial_attention_backward(gradient, query, key, value, whole, lse, backend="reference")
    found = [partial_attention_backward(gradient, query, *part, whole, lse, backend=backend) for part in parts]
    torch.testing.assert_close(found[0][0] + found[1][0], wanted[0], rtol=1e-4, atol=1e-5)
    for index in (1, 2):
        torch.testing.assert_close(torch.cat([part[index] for part in found], dim=2), wanted[index], rtol=1e-4, atol=1e-5)


def test_a_cpu_takes_the_flash_operator_and_says_why_not_the_npu():
    choice = selected("cpu")
    assert choice.name == "flash_cpu" and "serves npu" in choice.refused["npu_binding"]


class TorchNpu:
    """The two operators with the parameters that torch_npu publishes, computed by the reference."""

    def npu_fusion_attention(
        self, query, key, value, head_num, input_layout, *, pse=None, padding_mask=None, atten_mask=None, scale=1.0, keep_prob=1.0,
        pre_tockens=2147483647, next_tockens=2147483647, inner_precise=0, prefix=None, actual_seq_qlen=None, actual_seq_kvlen=None,
        sparse_mode=0, gen_mask_parallel=True, sync=False,
    ):  # fmt: skip
        assert input_layout == "BNSD" and head_num == query.shape[1]
        logits = query @ key.transpose(-1, -2) * scale
        maximum = logits.amax(-1, keepdim=True)
        total = (logits - maximum).exp().sum(-1, keepdim=True)
        output = ((logits - maximum).exp() / total) @ value
        empty = torch.empty(0)
        return output, maximum.expand(*maximum.shape[:-1], 8), total.expand(*total.shape[:-1], 8), empty, 0, 0, 0

    def npu_fusion_attention_grad(
        self, query, key, value, dy, head_num, input_layout, *, pse=None, padding_mask=None, atten_mask=None, softmax_max=None,
        softmax_sum=None, softmax_in=None, attention_in=None, scale_value=1.0, keep_prob=1.0, pre_tockens=2147483647, next_tockens=2147483647,
    ):  # fmt: skip
        weights = (query @ key.transpose(-1, -2) * scale_value - softmax_max[..., :1]).exp() / softmax_sum[..., :1]
        of_logits = weights * (dy @ value.transpose(-1, -2) - (dy * attention_in).sum(-1, keepdim=True)) * scale_value
        return of_logits @ key, of_logits.transpose(-1, -2) @ query, weights.transpose(-1, -2) @ dy, None


def test_the_ascend_binding_calls_what_is_published_and_means_the_same():
    query, key, value = (x.detach() for x in draw())
    whole, lse = partial_attention(query, key, value, backend="reference")
    torch.testing.assert_close(npu_binding.forward(query, key, value, TorchNpu()), (whole, lse), rtol=1e-5, atol=1e-5)
    gradient = torch.randn_like(whole)
    found = npu_binding.backward(gradient, query, key[:, :, :4], value[:, :, :4], whole, lse, TorchNpu())
    wanted = partial_attention_backward(gradient, query, key[:, :, :4], value[:, :, :4], whole, lse, backend="reference")
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert "torch_npu" in inspect.signature(npu_binding.forward).parameters
