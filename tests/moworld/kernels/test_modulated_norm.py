"""LayerNorm with modulation: equal to Wan's block to the bit, close to float64, and the same on Ascend."""

import pytest
import torch
from diffusers.models.normalization import FP32LayerNorm

from moworld.kernels import NoKernel
from moworld.kernels.dispatch import GRADIENTS
from moworld.kernels.modulated_norm import OPERATOR, modulated_norm, npu_binding
from tests.tolerances import tolerance


def draw(per_token: bool, dtype: torch.dtype = torch.float32, width: int = 24) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Activations off centre, as a transformer's are, and their modulation."""
    x = (3 * torch.randn(2, 5, width) + 2).to(dtype)
    return x, *(torch.randn(2, 5 if per_token else 1, width) for _ in range(2))


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_norm_of_wan_s_block_to_the_bit(per_token, dtype):
    x, scale, shift = draw(per_token, dtype)
    norm = FP32LayerNorm(24, 1e-2, elementwise_affine=False)
    assert torch.equal(modulated_norm(x, scale, shift, 1e-2), (norm(x.float()) * (1 + scale) + shift).type_as(x))


@pytest.mark.parametrize("per_token", [False, True])
def test_it_is_right_by_the_formula_in_float64(per_token):
    x, scale, shift = draw(per_token, width=3000)
    exact = x.double()
    exact = (exact - exact.mean(-1, keepdim=True)) / (exact.var(-1, keepdim=True, correction=0) + 1e-2).sqrt() * (1 + scale) + shift
    torch.testing.assert_close(modulated_norm(x, scale, shift, 1e-2), exact.float(), **tolerance("modulated_norm"))


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_ascend_binding_computes_the_same_and_its_gradients(per_token, dtype):
    inputs = [part.requires_grad_() for part in draw(per_token, dtype)]
    found, expected = npu_binding.modulated_norm(*inputs, 1e-2), modulated_norm(*inputs, 1e-2)
    assert found.dtype == dtype and found.shape == expected.shape
    torch.testing.assert_close(found, expected, **tolerance("modulated_norm", dtype))
    gradient = torch.randn_like(found)
    for one, other in zip(torch.autograd.grad(found, inputs, gradient), torch.autograd.grad(expected, inputs, gradient), strict=True):
        torch.testing.assert_close(one, other, **tolerance("modulated_norm", one.dtype))


def test_where_gradients_are_required_the_forward_only_kernel_is_refused():
    with pytest.raises(NoKernel, match=r"computes no gradients|not installed"):
        OPERATOR.choose("cuda", "triton", requires=(GRADIENTS,))
    assert OPERATOR.choose("cuda", requires=(GRADIENTS,)).name == "reference"


@pytest.mark.parametrize("shape", [(2, 5, 8), (1, 1, 24), (2, 4, 24), (2, 24)])
def test_modulation_that_does_not_fit_is_refused(shape):
    with pytest.raises(ValueError, match="do not fit"):
        modulated_norm(torch.zeros(2, 5, 24), torch.zeros(shape), torch.zeros(shape), 1e-2)


def test_a_backend_that_serves_another_device_is_refused():
    with pytest.raises(NoKernel, match="named triton for cpu: serves cuda"):
        modulated_norm(*draw(False), 1e-2, backend="triton")
