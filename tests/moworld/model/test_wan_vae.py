"""Wan's VAE with the codec's interface against Diffusers' own encode and decode, whole and in chunks."""

import pytest
import torch
from diffusers import AutoencoderKLWan

from moworld.errors import InputError
from moworld.model.codec import StreamingCodec
from moworld.model.wan_vae import WanCodec, load_codec


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a narrow VAE with Wan's layout and random weights."""
    path = tmp_path_factory.mktemp("vae")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoencoderKLWan(base_dim=8, num_res_blocks=1).save_pretrained(path)
    return path


@torch.no_grad()
def test_whole_videos_equal_diffusers_and_latents_are_normalised(folder):
    codec, theirs = load_codec(folder), AutoencoderKLWan.from_pretrained(folder, low_cpu_mem_usage=False).eval()
    assert isinstance(codec, WanCodec)
    video = torch.rand(1, 3, 9, 16, 32) * 2 - 1
    mean, std = (torch.tensor(values).view(1, 16, 1, 1, 1) for values in (theirs.config.latents_mean, theirs.config.latents_std))
    latents = codec.encode(video)
    assert latents.shape == (1, 16, 3, 2, 4)
    torch.testing.assert_close(latents, (theirs.encode(video).latent_dist.mode() - mean) / std)
    torch.testing.assert_close(codec.decode(latents), theirs.decode(latents * std + mean).sample)


@torch.no_grad()
def test_chunks_equal_the_whole_and_a_cache_can_be_reused(folder):
    codec, latents = load_codec(folder), torch.randn(1, 16, 7, 2, 4)
    whole = codec.decode(latents)
    assert whole.shape == (1, 3, 25, 16, 32)
    first, cache = codec.decode_chunk(latents[:, :, :1], None)
    second, after = codec.decode_chunk(latents[:, :, 1:4], cache)
    third, _ = codec.decode_chunk(latents[:, :, 4:], after)
    assert [part.shape[2] for part in (first, second, third)] == [1, 12, 12]
    torch.testing.assert_close(torch.cat([first, second, third], dim=2), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(codec.decode_chunk(latents[:, :, 1:4], cache)[0], second)


def test_an_autoencoder_is_selected_by_its_config_and_others_are_rejected(folder, tmp_path):
    StreamingCodec(16, hidden=8, blocks=1).save_pretrained(tmp_path / "own")
    assert isinstance(load_codec(tmp_path / "own"), StreamingCodec)
    (tmp_path / "own" / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(InputError, match="another autoencoder"):
        load_codec(tmp_path / "own")
    with pytest.raises(InputError, match="no such file"):
        load_codec(tmp_path / "none")
    (tmp_path / "own" / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(InputError, match="fetch the whole folder again"):
        load_codec(tmp_path / "own")
