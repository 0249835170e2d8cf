"""The closed-form initialisation on a rotating camera: a lookup by ray must beat repeating the known frame."""

import math

import pytest
import torch

from moworld.model.initialization import initialize_from_scratch
from moworld.model.latent_cameras import LatentCameras
from moworld.model.transformer import MoWorldTransformer3DModel
from moworld.model.window import make_window, predict_velocity

SIZE = (64, 96)
INTRINSICS = (0.5, 0.75, 0.5, 0.5)


def expert(gate):
    torch.manual_seed(0)
    transformer = MoWorldTransformer3DModel(
        num_attention_heads=4, attention_head_dim=48, text_dim=32, ffn_dim=256, num_layers=2, camera_gate=gate
    )
    initialize_from_scratch(transformer)
    return transformer.eval()


def turning_cameras(degrees_per_frame, latents=4):
    """Returns a camera that rotates about its centre."""
    frames = 4 * (latents - 1) + 1
    angles = torch.arange(frames) * math.radians(degrees_per_frame)
    c2w = torch.eye(4).repeat(frames, 1, 1)
    c2w[:, 0, 0], c2w[:, 0, 2], c2w[:, 2, 0], c2w[:, 2, 2] = angles.cos(), angles.sin(), -angles.sin(), angles.cos()
    return LatentCameras.from_frames(torch.tensor(INTRINSICS).expand(1, frames, 4), c2w[None])


def panorama(cameras):
    """Returns latents (1, 16, F, 8, 12) of a distant scene: a smooth random function of ray direction."""
    rays = cameras.rays(*SIZE).maps().view(1, 4, 6, -1, *SIZE)[:, :, 3:].mean(1)  # (1, 3, F, H, W)
    direction = torch.nn.functional.avg_pool3d(rays, (1, 8, 8))
    generator = torch.Generator().manual_seed(1)
    waves = torch.randn(64, 3, generator=generator) * 3
    phases = torch.rand(64, generator=generator) * 2 * math.pi
    features = torch.cos(torch.einsum("nc,bcfhw->bnfhw", waves, direction) + phases[:, None, None, None])
    return torch.einsum("kn,bnfhw->bkfhw", torch.randn(16, 64, generator=generator) / 32**0.5, features)


@torch.no_grad()
def clean_error(transformer, degrees, camera=True):
    cameras = turning_cameras(degrees)
    clean = panorama(cameras)
    window = make_window(clean[:, :, :1], cameras, torch.zeros(1, dtype=torch.long), torch.zeros(1, 8, 32))
    if not camera:
        window = window.without(camera=torch.ones(1, dtype=torch.bool))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    predicted = noise - predict_velocity(transformer, noise, torch.tensor([1.0]), window)
    future = slice(1, None)
    return tuple(float((guess - clean)[:, :, future].square().mean()) for guess in (predicted, clean[:, :, :1].expand_as(clean)))


@pytest.mark.parametrize("degrees", [2.0, -2.0, 3.0])
def test_the_initial_model_follows_a_rotating_camera(degrees):
    transformer = expert(gate=0.2)
    found, repeated = clean_error(transformer, degrees)
    blind, _ = clean_error(transformer, degrees, camera=False)
    assert found < 0.85 * repeated
    assert found < 0.75 * blind


def test_with_gate_0_the_camera_has_no_effect():
    transformer = expert(gate=0.0)
    assert clean_error(transformer, 3.0) == clean_error(transformer, 3.0, camera=False)
