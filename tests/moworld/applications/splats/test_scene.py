"""Projection and rendering of scenes against points and moments computed by other means, and what must not change a picture."""

import numpy as np
import pytest
import torch

from moworld.applications.splats.scene import C0, C1, Scene, colours, render, render_frames, rotations, view_of
from moworld.camera import se3

LENS, SIZE = np.array([0.6, 0.9, 0.52, 0.47]), (60, 90)


def one(mean: list[float], scales: list[float], quaternion: list[float], opacity: float = 0.9, colour: float = 1.0) -> torch.Tensor:
    logit = float(np.log(opacity / (1 - opacity)))
    return torch.tensor([[*mean, *np.log(scales), *quaternion, logit, *[(colour - 0.5) / C0] * 3]], dtype=torch.float32)


def pose(seed: int = 0) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    rotation = Rotation.from_rotvec(0.3 * np.random.default_rng(seed).standard_normal(3)).as_matrix()
    return se3.rigid(rotation, np.array([0.2, -0.1, 0.3]))


def test_a_small_gaussian_is_where_the_camera_projects_its_mean():
    w2c, mean = pose(), np.array([0.3, 0.2, 2.5])
    found = render(one(mean.tolist(), [0.01] * 3, [1, 0, 0, 0]), view_of(w2c, LENS, SIZE))
    camera = w2c[:3, :3] @ mean + w2c[:3, 3]
    expected = (camera[:2] / camera[2] * LENS[:2] + LENS[2:]) * (SIZE[1], SIZE[0])
    np.testing.assert_allclose(found.means[0].numpy(), expected, atol=1e-3)
    weights = found.picture[..., 0].numpy()
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    np.testing.assert_allclose([(weights * x).sum() / weights.sum(), (weights * y).sum() / weights.sum()], expected, atol=0.05)


def test_the_spread_of_a_gaussian_is_that_of_projected_samples():
    """The moments of a splat are those of points drawn from the gaussian and projected one by one, plus the viewers' 0.3 pixels^2."""
    w2c, mean, scales, quaternion = pose(), torch.tensor([0.1, -0.2, 3.0]), torch.tensor([0.3, 0.08, 0.15]), torch.tensor([[0.8, 0.3, -0.4, 0.33]])
    turn = rotations(quaternion)[0]
    samples = mean + (torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0)) * scales * 0.2) @ turn.T
    camera = samples.numpy() @ w2c[:3, :3].T + w2c[:3, 3]
    at = (camera[:, :2] / camera[:, 2:] * LENS[:2] + LENS[2:]) * (SIZE[1], SIZE[0])
    expected = np.cov(at.T) + 0.3 * np.eye(2)
    rows = one(mean.tolist(), (scales * 0.2).tolist(), quaternion[0].tolist(), opacity=0.5)
    from moworld.applications.splats.scene import _conics

    view = view_of(w2c, LENS, SIZE)
    a, b, c = _conics(rows, torch.tensor(camera.mean(0, keepdims=True), dtype=torch.float32), view.w2c[:3, :3], view)[0].tolist()
    np.testing.assert_allclose(np.linalg.inv([[a, b], [b, c]]), expected, rtol=0.03, atol=0.02)


def test_moving_the_world_and_the_camera_together_changes_nothing():
    generator, motion = torch.Generator().manual_seed(1), pose(3)
    rows = torch.cat([torch.rand(30, 3, generator=generator) * 2 - 1, torch.randn(30, 3, generator=generator) * 0.3 - 2.5,
                      torch.randn(30, 4, generator=generator), torch.randn(30, 4, generator=generator)], dim=1)  # fmt: skip
    rows[:, 2] += 3
    view = view_of(np.eye(4), LENS, SIZE)
    from scipy.spatial.transform import Rotation

    moved = rows.clone()
    moved[:, :3] = rows[:, :3] @ torch.tensor(motion[:3, :3].T, dtype=torch.float32) + torch.tensor(motion[:3, 3], dtype=torch.float32)
    turned = Rotation.from_matrix(motion[:3, :3]) * Rotation.from_quat(rows[:, [7, 8, 9, 6]].numpy())
    moved[:, 6:10] = torch.tensor(turned.as_quat()[:, [3, 0, 1, 2]], dtype=torch.float32)
    found = render(moved, view_of(se3.invert(motion), LENS, SIZE))
    torch.testing.assert_close(found.picture, render(rows, view).picture, rtol=0, atol=2e-4)
    larger = Scene(rows).scaled(7.0)
    far = view_of(np.eye(4), LENS, SIZE)
    torch.testing.assert_close(render(larger.rows, far).picture, render(rows, view).picture, rtol=0, atol=2e-4)


def test_what_is_behind_the_camera_or_beside_the_picture_is_not_rendered():
    rows = torch.cat([one([0, 0, -2], [0.1] * 3, [1, 0, 0, 0]), one([9, 0, 2], [0.1] * 3, [1, 0, 0, 0])])
    found = render(rows, view_of(np.eye(4), LENS, SIZE))
    assert not len(found.seen) and not found.picture.any() and (found.through == 1).all()
    assert not render_frames(Scene(rows), [view_of(np.eye(4), LENS, SIZE)]).any()


def test_degree_one_changes_colour_linearly_with_direction():
    rows = torch.cat([one([0, 0, 2], [0.1] * 3, [1, 0, 0, 0], colour=0.5), torch.zeros(1, 9)], dim=1)
    rows[0, 14 + 6] = 0.3  # red of the third coefficient, which multiplies -x
    along = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    red = colours(rows.expand(3, -1), along)[:, 0]
    torch.testing.assert_close(red, torch.tensor([0.5 - 0.3 * C1, 0.5 + 0.3 * C1, 0.5]))


@pytest.mark.parametrize("degree", [0, 1])
def test_gradients_reach_every_parameter(degree):
    generator = torch.Generator().manual_seed(4)
    rows = torch.cat([torch.rand(20, 3, generator=generator) - 0.5, torch.full((20, 3), -2.5), torch.randn(20, 4, generator=generator),
                      torch.randn(20, 4 + 9 * degree, generator=generator) * 0.3], dim=1).double()  # fmt: skip
    rows[:, 2] += 2
    rows[:, 3:6] += 0.5 * torch.randn(20, 3, generator=generator).double()
    rows.requires_grad_()
    found = render(rows, view_of(pose(5), LENS, (12, 18)))
    weights = torch.rand(12, 18, 3, generator=generator).double()
    (gradient,) = torch.autograd.grad((found.picture * weights).sum(), rows)
    assert (gradient.abs().amax(0) > 0).all()
    column, step = int(gradient.abs().sum(1).argmax()), 1e-6
    for index in range(rows.shape[1]):
        values = []
        for sign in (1, -1):
            moved = rows.detach().clone()
            moved[column, index] += sign * step
            values.append(float((render(moved, view_of(pose(5), LENS, (12, 18))).picture * weights).sum()))
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(gradient[column, index]), rel=2e-3, abs=1e-5), index
