"""Training of the codec: deterministic, accurate on unseen footage, normalised latents."""

import numpy as np
import pytest
import torch

from moworld.errors import InputError
from moworld.model.codec import group_frames
from moworld.model.settings import CodecSettings
from moworld.training.codec import group_weights, psnr, reconstruction_loss, reconstruction_psnr, to_frames, to_video, train_codec


def footage(seed: int, frames: int = 17) -> np.ndarray:
    """Returns drifting smooth shapes, (T, 32, 48, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:32, 0:48] / 8.0
    waves = [(rng.uniform(0.2, 1.2, 3), rng.uniform(0, 6, 3)) for _ in range(4)]
    picture = [sum(np.sin(a[0] * x + a[1] * y + a[2] * 0.3 * t + p[:, None, None]) for a, p in waves) for t in range(frames)]
    return (127.5 + 30 * np.stack(picture).transpose(0, 2, 3, 1)).clip(0, 255).astype(np.uint8)


CLIPS = [footage(seed) for seed in range(3)]
SMALL = CodecSettings(hidden=8, blocks=1, steps=6, batch=2, groups=2, pca_patches=600)


@pytest.fixture(scope="module")
def trained():
    return train_codec(CLIPS, SMALL, 1)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Uses one thread: on a busy machine two threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_codec_is_a_function_of_the_seed(trained):
    (one, record), (other, again), (third, _) = trained, *(train_codec(CLIPS, SMALL, seed) for seed in (1, 2))
    assert record == again and len(record["losses"]["reconstruction"]) == SMALL.steps
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert any(not torch.equal(value, third.state_dict()[name]) for name, value in one.state_dict().items())


def test_training_does_not_change_the_callers_random_state():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    train_codec(CLIPS, SMALL.model_copy(update={"steps": 1}), 1)
    assert torch.equal(torch.rand(3), expected)


def test_latents_of_the_training_clips_have_zero_mean_and_unit_variance(trained):
    codec, _ = trained
    with torch.no_grad():
        latents = torch.cat([codec.encode(to_video(clip)) for clip in CLIPS])
    torch.testing.assert_close(latents.mean((0, 2, 3, 4)), torch.zeros(16), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.std((0, 2, 3, 4)), torch.ones(16), rtol=0, atol=1e-3)


def test_unseen_footage_is_reconstructed(trained):
    codec, _ = trained
    unseen = footage(9)
    mean_picture = np.stack(CLIPS).mean((0, 1))
    assert reconstruction_psnr(codec, [unseen]) > psnr(float(((unseen - mean_picture) ** 2).mean()), peak=255) + 6


def test_to_frames_inverts_to_video():
    np.testing.assert_array_equal(to_frames(to_video(CLIPS[0])), CLIPS[0])


def test_psnr_weighs_clips_by_their_length(trained):
    codec, _ = trained
    noise = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), np.uint8)
    together = reconstruction_psnr(codec, [CLIPS[0], noise])
    errors = [10 ** (-reconstruction_psnr(codec, [clip]) / 10) for clip in (CLIPS[0], noise)]
    assert together == pytest.approx(psnr((17 * errors[0] + 5 * errors[1]) / 22), abs=1e-3)


def test_flicker_costs_more_than_a_steady_error_of_the_same_size():
    steady = torch.full((1, 3, 16, 16), 0.1)[None].expand(1, 9, 3, 16, 16).transpose(1, 2)
    flicker = steady * torch.tensor([1.0, -1.0] * 4 + [1.0]).view(1, 1, 9, 1, 1)
    weights = group_weights(3, 289)
    assert reconstruction_loss(group_frames(flicker), weights) > 1.5 * reconstruction_loss(group_frames(steady), weights)


def test_short_clips_are_accepted_beside_long_ones_and_refused_alone():
    assert train_codec([*CLIPS, CLIPS[0][:1]], SMALL.model_copy(update={"steps": 1}), 1)[1]["losses"]["reconstruction"]
    with pytest.raises(InputError, match="9 frames"):
        train_codec([CLIPS[0][:5]], CodecSettings(**{**SMALL.model_dump(), "groups": 3}), 1)
