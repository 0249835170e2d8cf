"""Tiled attention, forward and backward, against the reference, SDPA's autograd, and itself in parts."""

import pytest
import torch

from moworld.kernels.attention import join, reference, triton_kernel
from tests.tolerances import tolerance

# queries, keys, head dim: below, at, and between tiles of 16; dims that are no power of two, and the largest
SIZES = [(1, 1, 1), (16, 32, 16), (17, 5, 40), (5, 33, 24), (20, 19, 128)]
CASES = [*((sizes, torch.float32) for sizes in SIZES), ((17, 19, 24), torch.bfloat16), ((17, 19, 24), torch.float16)]


def draw(rows: int, keys: int, dim: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Query, key and value of one sample with two heads; samples and strides are in the test of views."""
    return [torch.randn(1, 2, n, dim).to(dtype) for n in (rows, keys, keys)]


def test_triton_is_interpreted():
    assert triton_kernel.INTERPRETED


@pytest.mark.parametrize(("sizes", "dtype"), CASES)
def test_forward_and_backward_are_the_reference_s(sizes, dtype):
    query, key, value = draw(*sizes, dtype)
    output, lse = triton_kernel.forward(query, key, value)
    wanted, wanted_lse = reference.forward(query, key, value)
    assert output.dtype == dtype and lse.dtype == torch.float32
    torch.testing.assert_close(output, wanted, **tolerance("attention", dtype))
    torch.testing.assert_close(lse, wanted_lse, **tolerance("attention"))
    gradient = torch.randn_like(wanted)
    found = triton_kernel.backward(gradient, query, key, value, wanted, wanted_lse)
    for one, other in zip(found, reference.backward(gradient, query, key, value, wanted, wanted_lse), strict=True):
        assert one.shape == other.shape and one.dtype == dtype
        torch.testing.assert_close(one, other, **tolerance("attention gradients", dtype))


def test_it_is_sdpa_and_its_autograd_on_views_with_tokens_before_heads():
    query, key, value = (torch.randn(2, n, 3, 20).transpose(1, 2).requires_grad_() for n in (18, 21, 21))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    gradient = torch.randn(2, 18, 3, 20).transpose(1, 2)
    wanted = torch.autograd.grad(expected, (query, key, value), gradient)
    plain = [x.detach() for x in (query, key, value)]
    output, lse = triton_kernel.forward(*plain)
    torch.testing.assert_close(output, expected.detach(), **tolerance("attention"))
    for one, other in zip(triton_kernel.backward(gradient, *plain, output, lse), wanted, strict=True):
        torch.testing.assert_close(one, other, **tolerance("attention gradients"))


def test_parts_of_the_keys_join_to_the_whole_and_their_gradients_add_up():
    query, key, value = draw(18, 40, 16)
    parts = [(key[:, :, :23], value[:, :, :23]), (key[:, :, 23:], value[:, :, 23:])]  # views, as the ring cuts them
    output, lse = reference.forward(query, key, value)
    joined, joined_lse = join(*(x for part in parts for x in triton_kernel.forward(query, *part)))
    torch.testing.assert_close(joined, output, **tolerance("attention"))
    torch.testing.assert_close(joined_lse, lse, **tolerance("attention"))
    gradient = torch.randn_like(output)
    wanted = reference.backward(gradient, query, key, value, output, lse)
    found = [triton_kernel.backward(gradient, query, *part, output, lse) for part in parts]
    torch.testing.assert_close(found[0][0] + found[1][0], wanted[0], **tolerance("attention gradients"))
    for index in (1, 2):
        torch.testing.assert_close(torch.cat([part[index] for part in found], dim=2), wanted[index], **tolerance("attention gradients"))


@pytest.mark.parametrize("offset", [-2000.0, 2000.0])
def test_logits_beyond_the_exponent_of_float32_neither_overflow_nor_vanish(offset):
    query, key, value = draw(17, 19, 16)
    query[..., 0], key[..., 0] = 1.0, offset * 4  # 2,000 on every logit of a row: exp alone would be inf or 0
    output, lse = triton_kernel.forward(query, key, value)
    query[..., 0] = 0.0
    wanted, wanted_lse = reference.forward(query, key, value)
    torch.testing.assert_close(output, wanted, rtol=0, atol=4 * 2000 * 2**-24 * 4)  # logits of 2,000 are 2,000 * 2^-24 off; values up to 4
    torch.testing.assert_close(lse, wanted_lse + offset, rtol=2**-22, atol=0)
    query[..., 0] = 1.0
    assert all(bool(x.isfinite().all()) for x in triton_kernel.backward(torch.ones_like(output), query, key, value, output, lse))


# one tile of keys, whole tiles, a rest; head dim as wide as the tile, and padded
@pytest.mark.parametrize(("rows", "keys", "dim"), [(16, 1, 32), (17, 16, 24), (5, 17, 32), (33, 48, 24), (20, 63, 24)])
def test_the_last_tile_of_keys_is_first_and_the_only_masked_one(rows, keys, dim):
    query, key, value = draw(rows, keys, dim)
    output, lse = triton_kernel.forward(query, key, value)  # tiles of 16 where it is interpreted
    wanted, wanted_lse = reference.forward(query, key, value)
    torch.testing.assert_close(output, wanted, **tolerance("attention"))
    torch.testing.assert_close(lse, wanted_lse, **tolerance("attention"))
