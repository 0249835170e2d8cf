"""Attention over all keys: oneDNN's products against PyTorch's own kernel, and who is taken when."""

import pytest
import torch

import kernels.chips
from kernels.sdpa import onednn, reference, sdpa, selected
from moworld.model.attention import attend
from tests.tolerances import tolerance


def draw(rows: int, keys: int, dim: int = 16, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """Heads as a model's lie: token by token."""
    return tuple(torch.randn(2, n, 3, dim).to(dtype).transpose(1, 2) for n in (rows, keys, keys))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "keys"), [(96, 512), (200, 300), (150, 5000)])  # in one part, in two
def test_products_by_onednn_are_pytorch_s_attention(rows, keys, dtype):
    given = draw(rows, keys, dtype=dtype)
    found, exact = onednn.sdpa(*given), reference.sdpa(*(x.double() for x in given))
    assert found.dtype == dtype and found.shape == given[0].shape
    torch.testing.assert_close(found, exact.to(dtype), **tolerance("attention", dtype))


@pytest.mark.parametrize(("rows", "keys"), [(96, 511), (95, 600), (7, 11)])
def test_small_ones_are_left_to_pytorch(rows, keys):
    given = draw(rows, keys)
    assert torch.equal(onednn.sdpa(*given), reference.sdpa(*given))


def test_many_queries_are_attended_in_parts_and_each_once(monkeypatch):
    given, asked = draw(200, 400), []
    product = onednn._product
    monkeypatch.setattr(onednn, "_product", lambda x, weight: asked.append(len(x)) or product(x, weight))
    monkeypatch.setattr(onednn, "LOGITS", 64 * 400)
    torch.testing.assert_close(onednn.sdpa(*given), reference.sdpa(*given), **tolerance("attention"))
    assert asked == [64, 64, 64, 64, 64, 64, 8, 8] * 6  # logits and sums, two samples of three heads


def test_hopper_s_kernel_is_called_where_there_are_keys_enough(monkeypatch):
    asked = []
    hopper = pytest.importorskip("kernels.sdpa.hopper_kernel")
    monkeypatch.setattr(hopper.hopper_kernel, "forward", lambda *given: asked.append(given[1].shape[2]) or ("attended", None))
    few, many = draw(7, hopper.FEWEST_KEYS - 1), draw(7, hopper.FEWEST_KEYS)
    assert torch.equal(hopper.sdpa(*few), reference.sdpa(*few)) and hopper.sdpa(*many) == "attended"
    assert asked == [hopper.FEWEST_KEYS]


@pytest.fixture
def cpu(monkeypatch):
    def flags(*words: str) -> None:
        kernels.sdpa.OPERATOR._choices.clear()
        monkeypatch.setattr(kernels.chips, "cpu_flags", lambda: frozenset(words))

    yield flags
    kernels.sdpa.OPERATOR._choices.clear()


def test_onednn_is_taken_where_mkl_leaves_the_cpu_unused_and_pytorch_where_gradients_are_asked_for(cpu):
    cpu("AuthenticAMD", "avx512f")
    assert selected("cpu").name == "onednn"
    query, key, value = draw(100, 600)
    torch.testing.assert_close(sdpa(query, key, value), onednn.sdpa(query, key, value), rtol=0, atol=0)
    leaf = query.clone().requires_grad_()
    sdpa(leaf, key, value).sum().backward()
    assert leaf.grad is not None
    for words in (("GenuineIntel", "avx512f"), ("AuthenticAMD", "avx2"), ()):
        cpu(*words)
        assert selected("cpu").name == "reference" and "MKL suits" in selected("cpu").refused["onednn"]


def test_the_model_attends_by_it_with_heads_behind_tokens():
    query, key, value = (torch.randn(2, n, 3, 16) for n in (7, 11, 11))
    wanted = sdpa(*(x.transpose(1, 2) for x in (query, key, value))).transpose(1, 2)
    assert torch.equal(attend(query, key, value), wanted)
