"""RMSNorm and rotary positions of queries and keys: equal to the transformer to the bit, and Ascend calls against published schemas."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moworld.kernels import NoKernel
from moworld.kernels.dispatch import GRADIENTS
from moworld.kernels.qk_norm_rope import OPERATOR, npu_binding, qk_norm_rope
from tests.moworld.kernels.npu import CALLS, TORCH_NPU
from tests.tolerances import INSIDE, tolerance

Inputs = tuple[torch.Tensor, ...]


def draw(batch: int = 2, angles_of: int = 1, heads: int = 3, dim: int = 8, dtype: torch.dtype = torch.float32) -> Inputs:
    query, key = (torch.randn(batch, 5, heads * dim).to(dtype) for _ in range(2))
    weights = [(1 + 0.3 * torch.randn(heads * dim)).to(dtype) for _ in range(2)]
    angles = (10 * torch.rand(angles_of, 5, 1, dim // 2)).repeat_interleave(2, dim=-1)
    return query, key, *weights, angles.cos(), angles.sin()


def rotate(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Pairs one by one, as Wan's attention processor does."""
    turned = torch.empty_like(x)
    turned[..., 0::2] = x[..., 0::2] * cosines[..., 0::2] - x[..., 1::2] * sines[..., 1::2]
    turned[..., 1::2] = x[..., 0::2] * sines[..., 1::2] + x[..., 1::2] * cosines[..., 0::2]
    return turned


@pytest.mark.parametrize("backend", ["pairs", "reference"])
@pytest.mark.parametrize("angles_of", [1, 2])
def test_it_is_rms_norm_and_wans_rotation_to_the_bit(angles_of, backend):
    query, key, query_weight, key_weight, *angles = draw(angles_of=angles_of)
    both = qk_norm_rope(query, key, query_weight, key_weight, *angles, 1e-2, backend=backend)
    for found, x, weight in zip(both, (query, key), (query_weight, key_weight), strict=True):
        norm = torch.nn.RMSNorm(24, 1e-2)
        norm.weight.data = weight
        assert torch.equal(found, rotate(norm(x).unflatten(2, (3, -1)), *angles))


def test_pairs_turned_as_complex_numbers_have_the_gradients_of_pairs():
    found = []
    for backend in ("pairs", "reference"):
        torch.manual_seed(0)
        *inputs, cosines, sines = draw()
        inputs = [x.requires_grad_() for x in inputs]
        q, k = qk_norm_rope(*inputs, cosines, sines, 1e-2, backend=backend)
        found.append(torch.autograd.grad((q * q.detach().sin() + k).sum(), inputs))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(shift=st.floats(-20, 20), seed=st.integers(0, 100))
def test_logits_depend_on_the_distance_of_positions_alone(shift, seed):
    torch.manual_seed(seed)
    query, key, query_weight, key_weight, _, _ = draw(batch=1, heads=1)
    positions, frequencies = torch.arange(5.0)[None, :, None, None], torch.tensor([1.0, 0.3, 0.1, 0.03]).repeat_interleave(2)
    logits = []
    for angles in (positions * frequencies, (positions + shift) * frequencies):
        q, k = qk_norm_rope(query, key, query_weight, key_weight, angles.cos(), angles.sin(), 1e-2)
        logits.append(torch.einsum("bnhd,bmhd->bhnm", q, k))
    torch.testing.assert_close(
        logits[0], logits[1], rtol=1e-4, atol=1e-4
    )  # angles of 25 in float32 are 2e-6 off, over 8 products of up to 9


def test_parts_of_one_projection_need_no_copy_and_all_inputs_get_gradients():
    query, key, query_weight, key_weight, *angles = draw()
    joint = torch.cat([query, key, query], dim=-1)
    parts = joint.chunk(3, dim=-1)
    assert not parts[1].is_contiguous()
    for one, other in zip(
        qk_norm_rope(*parts[:2], query_weight, key_weight, *angles, 1e-2),
        qk_norm_rope(query, key, query_weight, key_weight, *angles, 1e-2),
        strict=True,
    ):
        assert torch.equal(one, other)
    inputs = [x.requires_grad_() for x in (query, key, query_weight, key_weight)]
    found = torch.autograd.grad(sum(x.square().sum() for x in qk_norm_rope(*inputs, *angles, 1e-2)), inputs)
    assert all(bool(gradient.any()) for gradient in found[2:])  # a rotation keeps lengths; the weights change them


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("angles_of", [1, 2])
def test_the_ascend_binding_calls_published_operators_with_the_same_result(dtype, angles_of):
    CALLS.clear()
    inputs = draw(angles_of=angles_of, dtype=dtype)
    found, expected = npu_binding.qk_norm_rope(*inputs, 1e-2, TORCH_NPU), qk_norm_rope(*inputs, 1e-2)
    assert CALLS == ["npu_rms_norm", "npu_rotary_mul"] * 2
    allowed = tolerance("qk_norm_rope", dtype)
    if dtype == torch.bfloat16:
        allowed["atol"] = INSIDE["qk_norm_rope on npu in bfloat16"]
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape == (2, 5, 3, 8) and one.dtype == dtype
        torch.testing.assert_close(one, other, **allowed)


def test_gradients_flow_through_the_ascend_binding():
    *inputs, cosines, sines = draw()
    inputs = [x.requires_grad_() for x in inputs]
    gradients = [
        torch.autograd.grad(sum((x * torch.arange(8.0)).sum() for x in outputs), inputs)
        for outputs in (npu_binding.qk_norm_rope(*inputs, cosines, sines, 1e-2, TORCH_NPU), qk_norm_rope(*inputs, cosines, sines, 1e-2))
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)  # gradients of up to 50, two sums of 24


def test_the_choice_depends_on_sizes_and_gradients():
    assert [entry.name for entry in OPERATOR.table if GRADIENTS in entry.lacks] == ["triton"]
    refused = OPERATOR.choose("npu", head_dim=896).refused["npu"]
    assert "torch_npu is not installed" in refused or "head_dim up to 895" in refused
    with pytest.raises(NoKernel, match="for cpu: serves npu"):
        qk_norm_rope(*draw(), 1e-2, backend="npu")


@pytest.mark.parametrize("which", range(6))
def test_shapes_that_do_not_fit_are_refused(which):
    inputs = list(draw())
    inputs[which] = inputs[which][..., :-2]
    with pytest.raises(ValueError, match="do not fit"):
        qk_norm_rope(*inputs, 1e-2)
