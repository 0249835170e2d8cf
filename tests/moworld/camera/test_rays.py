"""Plücker rays: geometry, and consistency with rigid motions, cropping and resizing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from moworld.camera import Cameras, controls_to_c2w, cover_crop, se3
from moworld.camera.rays import pluecker_rays

INTRINSICS = np.array([0.55, 0.8, 0.49, 0.52])
number = st.floats(-3, 3, allow_nan=False)


def rays_of(cameras: Cameras, height: int = 6, width: int = 8) -> torch.Tensor:
    return pluecker_rays(torch.tensor(cameras.intrinsics), torch.tensor(cameras.c2w), height, width)


def walk() -> Cameras:
    return Cameras.from_c2w(INTRINSICS, controls_to_c2w("wl*4,i*2,dj*2", step=0.3, degrees=7))


def test_moment_is_orthogonal_to_the_unit_direction():
    rays = rays_of(walk())
    assert rays.shape == (9, 6, 8, 6)
    moment, direction = rays[..., :3], rays[..., 3:]
    assert (moment * direction).sum(-1).abs().max() < 1e-12
    assert (direction.norm(dim=-1) - 1).abs().max() < 1e-12


def test_rays_equal_an_independent_computation_pixel_by_pixel():
    cameras = walk()
    rays = rays_of(cameras, 4, 5)
    for frame, row, column in [(0, 0, 0), (3, 1, 4), (8, 3, 2)]:
        fx, fy, cx, cy = cameras.intrinsics[frame] * [5, 4, 5, 4]
        k = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        direction = np.linalg.inv(cameras.w2c[frame])[:3, :3] @ np.linalg.inv(k) @ [column + 0.5, row + 0.5, 1]
        direction /= np.linalg.norm(direction)
        moment = np.cross(np.linalg.inv(cameras.w2c[frame])[:3, 3], direction)
        np.testing.assert_allclose(rays[frame, row, column].numpy(), [*moment, *direction], atol=1e-12)


def test_a_world_point_is_on_the_ray_of_the_pixel_it_projects_to():
    cameras = walk()
    point = np.array([0.3, -0.2, 5.0])
    for frame in range(len(cameras)):
        x, y, z = cameras.w2c[frame, :3, :3] @ point + cameras.w2c[frame, :3, 3]
        u, v = INTRINSICS[:2] * [x / z, y / z] + INTRINSICS[2:]
        shifted = Cameras(cameras.intrinsics + np.array([0, 0, 0.5 - u, 0.5 - v]), cameras.w2c)  # the point's pixel is the only one
        ray = rays_of(shifted, 1, 1)[frame, 0, 0].numpy()
        np.testing.assert_allclose(np.cross(point, ray[3:]), ray[:3], atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(st.tuples(number, number, number), st.tuples(number, number, number))
def test_a_rigid_motion_of_the_world_leaves_relative_rays_unchanged(rotation, translation):
    motion = se3.rigid(Rotation.from_rotvec(rotation).as_matrix(), np.array(translation))
    cameras = walk()
    moved = Cameras.from_c2w(cameras.intrinsics, motion @ cameras.c2w)
    assert (rays_of(moved.relative_to(0)) - rays_of(cameras.relative_to(0))).abs().max() < 1e-10


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 3), st.integers(0, 3), st.integers(2, 4), st.integers(2, 4))
def test_cropping_commutes_with_ray_casting(left, top, width, height):
    cameras = walk()
    cropped = cameras.cropped(left / 8, top / 6, (left + width) / 8, (top + min(height, 6 - top)) / 6)
    expected = rays_of(cameras, 6, 8)[:, top : top + height, left : left + width]
    assert (rays_of(cropped, min(height, 6 - top), width) - expected).abs().max() < 1e-12


def test_resizing_leaves_the_rays_of_common_points_unchanged():
    fine = rays_of(walk(), 18, 24)  # pixel centres of the coarse picture are those of every third fine pixel
    assert (fine[:, 1::3, 1::3] - rays_of(walk(), 6, 8)).abs().max() < 1e-12


def test_a_cover_crop_is_central_and_has_the_outputs_aspect():
    for in_hw, out_hw in [((240, 320), (64, 96)), ((100, 300), (64, 96)), ((64, 96), (64, 96))]:
        x0, y0, x1, y1 = cover_crop(in_hw, out_hw)
        assert (x1 - x0) * in_hw[1] / ((y1 - y0) * in_hw[0]) == pytest.approx(out_hw[1] / out_hw[0])
        assert max(x1 - x0, y1 - y0) == 1.0 and x0 + x1 == pytest.approx(1) and y0 + y1 == pytest.approx(1)


def test_leading_dims_are_batch_dims():
    cameras = walk()
    k, c2w = torch.tensor(cameras.intrinsics), torch.tensor(cameras.c2w)
    batched = pluecker_rays(k.expand(2, 3, -1, -1), c2w.expand(2, 3, -1, -1, -1), 4, 6)
    single = pluecker_rays(k, c2w, 4, 6)
    assert torch.equal(batched[1, 2], single)


def test_different_lengths_are_rejected():
    with pytest.raises(ValueError, match="not"):
        pluecker_rays(torch.rand(4, 4), torch.rand(5, 4, 4), 2, 2)
