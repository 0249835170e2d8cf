"""Rays as two factors against rays per pixel, and the camera adapter's output for both."""

import pytest
import torch

from moworld.camera.rays import pluecker_rays
from moworld.model.camera_adapter import CameraAdapter, factors_are_smaller
from moworld.model.latent_cameras import LatentCameras, RayCache

BATCH, FRAMES, SIZE = 2, 13, (32, 48)


def cameras(share: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns intrinsics and random poses; `share` is the number of different intrinsics (of B sequences, of T frames)."""
    torch.manual_seed(0)
    c2w = torch.eye(4, dtype=torch.float64).repeat(BATCH, FRAMES, 1, 1)
    c2w[..., :3, :3] = torch.linalg.qr(torch.randn(BATCH, FRAMES, 3, 3, dtype=torch.float64))[0]
    c2w[..., :3, 3] = torch.randn(BATCH, FRAMES, 3)
    return (0.5 + torch.rand(*share, 4, dtype=torch.float64)).expand(BATCH, FRAMES, 4), c2w


def group_rays(rays: torch.Tensor) -> torch.Tensor:
    """Reference: (B, T, H, W, 6), T = 4k + 1 -> (B, 24, F, H, W); the first frame four times, then groups of four, frame before coordinate."""
    groups = [
        torch.cat([rays[:, frame] for frame in frames], dim=-1)
        for frames in ([0] * 4, *(range(i, i + 4) for i in range(1, rays.shape[1], 4)))
    ]
    return torch.stack(groups, dim=1).movedim(-1, 1)


@pytest.mark.parametrize(("share", "num_lenses"), [((1, 1), 1), ((BATCH, 1), BATCH), ((BATCH, FRAMES), None)])
def test_rays_as_factors_equal_the_rays_of_every_pixel(share, num_lenses):
    intrinsics, c2w = cameras(share)
    rays = LatentCameras.from_frames(intrinsics, c2w).rays(*SIZE)
    assert rays.num_lenses == num_lenses and len(rays) == 4
    torch.testing.assert_close(rays.maps(), group_rays(pluecker_rays(intrinsics, c2w, *SIZE)), rtol=0, atol=1e-12)
    torch.testing.assert_close(rays[1:3].maps(), rays.maps()[:, :, 1:3], rtol=0, atol=0)
    absent = rays.without(torch.tensor([True, False])).maps()
    assert not absent[0].any() and torch.equal(absent[1], rays.maps()[1])


@pytest.mark.parametrize("share", [(1, 1), (BATCH, 1), (BATCH, FRAMES)])
def test_the_adapter_gives_the_same_for_factors_and_maps(share):
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


def test_factors_are_used_for_narrow_models():
    assert factors_are_smaller(192, rays_per_token=24 * 16 * 16) and factors_are_smaller(160, rays_per_token=24 * 8 * 8)
    assert not factors_are_smaller(192, rays_per_token=24 * 8 * 8)  # a token of patch 1 has a quarter of the rays
    assert not factors_are_smaller(5120, rays_per_token=24 * 16 * 16)  # the convolved directions of a wide model outweigh the rays of a window


@torch.no_grad()
def test_a_cache_serves_rays_of_the_same_intrinsics_and_starts_again_with_others():
    intrinsics, c2w = cameras((1, 1))
    cache, adapter = RayCache(), CameraAdapter(32, 2, gate=1.0).double()
    first = LatentCameras.from_frames(intrinsics, c2w).rays(*SIZE, cache)
    adapter(first)
    moved = LatentCameras.from_frames(intrinsics, c2w.flip(1))
    again = moved.rays(*SIZE, cache)
    assert again.directions is first.directions and adapter in cache.products
    assert torch.equal(adapter(again), adapter(moved.rays(*SIZE)))
    zoomed = LatentCameras.from_frames(intrinsics * 1.1, c2w)
    other = zoomed.rays(*SIZE, cache)
    assert not cache.products and torch.equal(adapter(other), adapter(zoomed.rays(*SIZE)))
    assert torch.equal(other.directions, zoomed.rays(*SIZE).directions)
