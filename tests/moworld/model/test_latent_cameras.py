"""Rays in factors against rays pixel by pixel, and what the camera adapter makes of either."""

import pytest
import torch

from moworld.camera.rays import group_rays, pluecker_rays
from moworld.model.camera_adapter import CameraAdapter, factors_are_smaller
from moworld.model.latent_cameras import LatentCameras

BATCH, FRAMES, SIZE = 2, 13, (32, 48)


def cameras(share: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Random poses, and intrinsics that `share` (of B sequences, of T frames) of them have for themselves."""
    torch.manual_seed(0)
    c2w = torch.eye(4, dtype=torch.float64).repeat(BATCH, FRAMES, 1, 1)
    c2w[..., :3, :3] = torch.linalg.qr(torch.randn(BATCH, FRAMES, 3, 3, dtype=torch.float64))[0]
    c2w[..., :3, 3] = torch.randn(BATCH, FRAMES, 3)
    return (0.5 + torch.rand(*share, 4, dtype=torch.float64)).expand(BATCH, FRAMES, 4), c2w


@pytest.mark.parametrize(("share", "lenses"), [((1, 1), 1), ((BATCH, 1), BATCH), ((BATCH, FRAMES), None)])
def test_rays_in_factors_are_the_rays_of_every_pixel(share, lenses):
    intrinsics, c2w = cameras(share)
    rays = LatentCameras.from_frames(intrinsics, c2w).rays(*SIZE)
    assert rays.lenses == lenses and len(rays) == 4
    torch.testing.assert_close(rays.maps(), group_rays(pluecker_rays(intrinsics, c2w, *SIZE)), rtol=0, atol=1e-12)
    torch.testing.assert_close(rays[1:3].maps(), rays.maps()[:, :, 1:3], rtol=0, atol=0)
    absent = rays.without(torch.tensor([True, False])).maps()
    assert not absent[0].any() and torch.equal(absent[1], rays.maps()[1])


@pytest.mark.parametrize("share", [(1, 1), (BATCH, 1), (BATCH, FRAMES)])
def test_the_adapter_makes_the_same_of_factors_and_of_maps(share):
    rays = LatentCameras.from_frames(*cameras(share)).rays(*SIZE)
    adapter = CameraAdapter(32, 2, gate=1.0).double()
    weight, outputs, gradients = torch.randn(BATCH, 4 * 6, 32, dtype=torch.float64), [], []
    for given in (rays, rays.maps()):
        adapter.zero_grad()
        outputs.append(adapter(given))
        (outputs[-1] * weight).sum().backward()
        gradients.append([p.grad.clone() for p in adapter.parameters()])
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-11)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_factors_are_taken_where_they_are_smaller():
    assert factors_are_smaller(192)
    assert not factors_are_smaller(5120)  # the convolved directions of a wide model outweigh the rays of a window


@torch.no_grad()
def test_rays_like_earlier_ones_share_what_was_made_of_their_directions():
    intrinsics, c2w = cameras((1, 1))
    first, adapter = LatentCameras.from_frames(intrinsics, c2w).rays(*SIZE), CameraAdapter(32, 2, gate=1.0).double()
    adapter(first)
    moved = LatentCameras.from_frames(intrinsics, c2w.flip(1))
    again = moved.rays(*SIZE, like=first)
    assert again.directions is first.directions and adapter in again.products
    assert torch.equal(adapter(again), adapter(moved.rays(*SIZE)))
    zoomed = LatentCameras.from_frames(intrinsics * 1.1, c2w)
    other = zoomed.rays(*SIZE, like=first)
    assert adapter not in other.products and torch.equal(adapter(other), adapter(zoomed.rays(*SIZE)))
    del adapter
    assert not first.products  # an adapter that was released leaves nothing behind
