"""Compositing of gaussians: the CPU's implementation against the reference, gradients against differences, and what must not change a picture."""

import math

import pytest
import torch
from torch import Tensor

from moworld.kernels import NoKernel
from moworld.kernels.dispatch import named
from moworld.kernels.gaussians import ALPHA_LEAST, ALPHA_MOST, composite
from moworld.kernels.gaussians.spans import stable_order
from tests.tolerances import INSIDE

SIZE = (23, 31)
Gaussians = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def gaussians(count: int, seed: int = 0, dtype: torch.dtype = torch.float32, size: tuple[int, int] = SIZE) -> Gaussians:
    """Gaussians of all shapes, in the picture, across its edges and outside; some opaque, some too faint to count."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    means = rand(count, 2) * torch.tensor([size[1] + 12.0, size[0] + 12.0]) - 6
    angle, widths = math.pi * rand(count), 0.5 + 4 * rand(count, 2) ** 2
    turn = torch.stack([torch.cos(angle), -torch.sin(angle), torch.sin(angle), torch.cos(angle)], dim=1).reshape(-1, 2, 2)
    inverse = turn @ torch.diag_embed(widths**-2) @ turn.mT
    conics = torch.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], dim=1)
    opacities = rand(count) ** 2
    opacities[::7] = 1.0
    return tuple(each.to(dtype) for each in (means, conics, opacities, rand(count, 3), rand(count)))  # type: ignore[return-value]


def loss_gradients(inputs: Gaussians, size: tuple[int, int], backend: str) -> list[Tensor]:
    leaves = [each.clone().requires_grad_() for each in inputs[:4]]
    picture, through = composite(*leaves, inputs[4], size, backend=backend)
    generator = torch.Generator().manual_seed(9)
    wanted = torch.rand(*picture.shape[:2], 4, generator=generator, dtype=torch.float64).to(picture.dtype)
    ((picture * wanted[..., :3]).sum() + (through * wanted[..., 3]).sum()).backward()
    return [picture.detach(), through.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize(("count", "size"), [(1, SIZE), (60, SIZE), (400, (40, 17)), (300, (270, 250))])
def test_spans_equal_the_reference_in_pictures_and_gradients(count, size):
    for dtype, allowed in ((torch.float64, 1e-9), (torch.float32, INSIDE["gaussians"])):
        inputs = gaussians(count, seed=count, dtype=dtype, size=size)
        found, exact = loss_gradients(inputs, size, "spans"), loss_gradients(inputs, size, "reference")
        assert len(found) == 6
        for name, one, other in zip(("picture", "through", "means", "conics", "opacities", "colours"), found, exact, strict=True):
            torch.testing.assert_close(one, other, rtol=allowed, atol=allowed * float(other.abs().max().clamp(min=1)), msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("backend", ["spans", "reference"])
def test_gradients_are_those_of_differences(backend):
    means, conics, opacities, colours, depths = gaussians(9, seed=3, dtype=torch.float64, size=(6, 7))
    conics, opacities = conics * 0.02, 0.2 + 0.5 * opacities  # wide and clear of both limits: differentiable at every pixel

    def picture(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        return composite(*leaves, depths, (6, 7), backend=backend)

    leaves = [each.clone().requires_grad_() for each in (means, conics, opacities, colours)]
    assert torch.autograd.gradcheck(picture, leaves, eps=1e-6, atol=1e-6)


def test_one_gaussian_is_the_equation():
    means, conics = torch.tensor([[4.5, 3.5]]), torch.tensor([[0.5, 0.1, 0.25]])
    picture, through = composite(means, conics, torch.tensor([0.8]), torch.tensor([[1.0, 0.5, 0.0]]), torch.zeros(1), (8, 9))
    dx, dy = torch.arange(9.0)[None] - 4, torch.arange(8.0)[:, None] - 3
    alpha = 0.8 * torch.exp(-0.5 * (0.5 * dx**2 + 0.2 * dx * dy + 0.25 * dy**2))
    alpha = torch.where(alpha >= ALPHA_LEAST, alpha, 0)
    assert 0 < (alpha == 0).sum() < alpha.numel()
    torch.testing.assert_close(through, 1 - alpha)
    torch.testing.assert_close(picture, alpha[..., None] * torch.tensor([1.0, 0.5, 0.0]))


def test_the_nearest_gaussian_covers_the_others_whatever_their_order_in_memory():
    means, conics = torch.tensor([[2.5, 2.5]]).expand(3, 2), torch.tensor([[1e-4, 0.0, 1e-4]]).expand(3, 3)
    colours, depths = torch.eye(3), torch.tensor([3.0, 1.0, 2.0])
    picture, through = composite(means, conics, torch.ones(3), colours, depths, (5, 5))
    torch.testing.assert_close(picture[2, 2], torch.tensor([1e-6, ALPHA_MOST, ALPHA_MOST * (1 - ALPHA_MOST)]), atol=1e-6, rtol=1e-3)
    assert through[2, 2] == pytest.approx((1 - ALPHA_MOST) ** 3, rel=1e-3)


def test_a_shuffle_changes_nothing_and_a_shift_moves_the_picture():
    inputs = gaussians(80, seed=5)
    picture, through = composite(*inputs, SIZE)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    again, _ = composite(*(each[order] for each in inputs), SIZE)
    torch.testing.assert_close(again, picture, rtol=0, atol=1e-6)
    moved, moved_through = composite(inputs[0] + torch.tensor([3.0, 2.0]), *inputs[1:], SIZE)
    torch.testing.assert_close(moved[2:, 3:], picture[:-2, :-3], rtol=0, atol=1e-5)
    torch.testing.assert_close(moved_through[2:, 3:], through[:-2, :-3], rtol=0, atol=1e-5)


def test_gaussians_without_a_pixel_give_an_empty_picture_and_no_gradient():
    means, conics, opacities, colours, depths = gaussians(5)
    for unseen in ((means + 1000, opacities), (means, opacities * 0 + ALPHA_LEAST / 2), (means[:0], opacities[:0])):
        count = len(unseen[0])
        leaves = [unseen[0].clone().requires_grad_(), conics[:count], unseen[1], colours[:count]]
        picture, through = composite(*leaves, depths[:count], SIZE)
        assert not picture.any() and (through == 1).all()
        picture.sum().backward()
        assert leaves[0].grad is not None and not leaves[0].grad.any()


def test_colours_can_have_any_number_of_channels():
    inputs = gaussians(40, seed=6)
    alone, _ = composite(*inputs, SIZE)
    both, _ = composite(*inputs[:3], torch.cat([inputs[3], inputs[4][:, None], inputs[3]], dim=1), inputs[4], SIZE)
    torch.testing.assert_close(both[..., :3], alone)
    torch.testing.assert_close(both[..., 4:], alone)


def test_keys_above_sixteen_bits_are_sorted_stably():
    keys = torch.randint(0, 200_000, (5000,), generator=torch.Generator().manual_seed(2))
    keys[::3] = keys[1000]
    assert torch.equal(stable_order(keys, 200_000), torch.argsort(keys, stable=True))


def test_shapes_that_disagree_and_a_backend_that_cannot_run_are_refused():
    inputs = gaussians(4)
    with pytest.raises(ValueError, match=r"not \(N, 2\), \(N, 3\), \(N,\), \(N,\)"):
        composite(inputs[0], inputs[1][:3], *inputs[2:], SIZE)
    with pytest.raises(ValueError, match="colours"):
        composite(*inputs[:3], inputs[3][:2], inputs[4], SIZE)
    with named(gaussians="gsplat"), pytest.raises(NoKernel, match="serves cuda"):
        composite(*inputs, SIZE)
