"""The grid's arithmetic against the shapes that codecs and patch embedding give, and its errors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moworld.errors import InputError
from moworld.model.codec import StreamingCodec
from moworld.model.latent_grid import CODEC_GRID, LatentGrid
from moworld.model.rope import GlobalRotaryPosEmbed
from moworld.training.settings import Stage


@torch.no_grad()
@pytest.mark.parametrize(("frames", "height", "width"), [(1, 8, 24), (5, 16, 8), (13, 24, 16)])
def test_sizes_are_those_of_the_codec(frames, height, width):
    latents = StreamingCodec(16, hidden=4, blocks=0).encode(torch.zeros(1, 3, frames, height, width))
    assert latents.shape[2:] == (CODEC_GRID.num_latents(frames), *CODEC_GRID.latent_size(height, width))
    assert CODEC_GRID.num_frames(latents.shape[2]) == frames == 1 + CODEC_GRID.frames_after_first(latents.shape[2] - 1)
    assert CODEC_GRID.pixel_size(*latents.shape[3:]) == (height, width)


@pytest.mark.parametrize("patch", [(1, 1, 1), (1, 2, 2), (1, 2, 4)])
def test_tokens_are_those_of_the_rotary_positions_and_of_the_patch_embedding(patch):
    grid = LatentGrid(patch)
    embedding = torch.nn.Conv3d(1, 1, kernel_size=patch, stride=patch)(torch.zeros(1, 1, 1, 8, 12))
    assert grid.tokens_per_frame(64, 96) == embedding.numel()
    assert grid.token_size(8, 12) == embedding.shape[3:]
    assert GlobalRotaryPosEmbed(24, patch, 16)(torch.arange(3), 8, 12)[0].shape[1] == 3 * embedding.numel()
    assert grid.pixels_per_token * grid.tokens_per_frame(64, 96) == 64 * 96


@given(st.integers(1, 10**6))
def test_whole_frames_are_the_longest_video_that_fits(frames):
    whole = CODEC_GRID.whole_frames(frames)
    assert whole <= frames < whole + 4 and CODEC_GRID.num_frames(CODEC_GRID.num_latents(whole)) == whole


def test_sizes_that_do_not_divide_are_one_line():
    with pytest.raises(InputError, match=r"^clip.mp4: frames: found 12, expected 4k \+ 1; use 9 or 13 frames$"):
        CODEC_GRID.num_latents(12, "clip.mp4")
    with pytest.raises(InputError, match=r"^video: frames: found 0, .* use 1 or 1 frames$"):
        CODEC_GRID.num_latents(0)
    with pytest.raises(InputError, match=r"^video: size: found 60 x 96, expected height a multiple of 8, width of 8 pixels; use 56 x 96$"):
        CODEC_GRID.latent_size(60, 96)
    with pytest.raises(InputError, match=r"^video: size: found 64 x 88, expected height a multiple of 16, width of 16 pixels; use 64 x 80$"):
        LatentGrid((1, 2, 2)).tokens_per_frame(64, 88)
    with pytest.raises(InputError, match=r"^latents: size: found 1 x 4, .* use 2 x 4$"):
        LatentGrid((1, 2, 2)).token_size(1, 4)
    with pytest.raises(ValueError, match=r"4k \+ 1 video frames, such as 9"):
        Stage(frames=12, batch=1, steps=1, optimizer={"lr": 1e-3})
