"""The one attention function: SDPA, or the kernel where it is faster and nobody asks for gradients."""

import torch

from moworld.model import attention
from tests.tolerances import tolerance


def test_where_the_kernel_is_faster_it_gives_what_sdpa_gives_and_gradients_still_flow(monkeypatch):
    query, key, value = (torch.randn(2, n, 3, 16) for n in (7, 11, 11))
    wanted = attention.attend(query, key, value)
    heads_first = (x.transpose(1, 2) for x in (query, key, value))
    assert torch.equal(wanted, torch.nn.functional.scaled_dot_product_attention(*heads_first).transpose(1, 2))

    asked = []
    monkeypatch.setattr(attention, "faster_than_sdpa", lambda query: True)
    kernel = attention.partial_attention
    monkeypatch.setattr(attention, "partial_attention", lambda *given: asked.append(given[0].shape) or kernel(*given))
    torch.testing.assert_close(attention.attend(query, key, value), wanted, **tolerance("attention"))
    assert asked == [(2, 3, 7, 16)]

    leaf = query.clone().requires_grad_()
    attention.attend(leaf, key, value).sum().backward()
    assert leaf.grad is not None and len(asked) == 1
    with torch.no_grad():
        attention.attend(leaf, key, value)
    assert len(asked) == 2
