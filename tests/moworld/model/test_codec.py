"""The small codec: whole clips and chunks give the same result; causality, normalisation, linear initialisation."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from moworld.errors import InputError
from moworld.files import write_json
from moworld.model.codec import FLOW_PIXELS, PATCH, StreamingCodec, group_frames, hadamard, initialize_from_patches, ungroup_frames, warped

BOTH = pytest.mark.parametrize("warp", [False, True])


def busy_codec(warp: bool = True) -> StreamingCodec:
    """Returns a codec with random residual branches and normalisation."""
    torch.manual_seed(3)
    codec = StreamingCodec(latent_channels=16, hidden=8, blocks=2, warp=warp).eval()
    ends = [codec.encoder_out, codec.decoder_out, *([codec.moved_out] if warp else [])]
    for layer in (*ends, *(block.conv2 for block in (*codec.encoder_blocks, *codec.decoder_blocks))):
        torch.nn.init.normal_(layer.weight, std=0.3)
    codec.latents_mean.copy_(torch.randn(16))
    codec.latents_std.copy_(torch.rand(16) + 0.5)
    return codec


def test_groups_repeat_the_first_frame_four_times_and_are_inverted():
    video = torch.randn(2, 3, 9, 16, 24)
    patches = group_frames(video)
    assert patches.shape == (2, 3, PATCH, 2, 3)
    frames = ungroup_frames(patches)
    assert torch.equal(frames[:, :, 3:], video)
    assert torch.equal(frames[:, :, :3], video[:, :, :1].expand(-1, -1, 3, -1, -1))


def test_a_length_that_is_not_4k_plus_1_is_rejected():
    with pytest.raises(ValueError, match=r"found 8, expected 4k \+ 1"):
        group_frames(torch.zeros(1, 3, 8, 16, 16))


@torch.no_grad()
def test_shapes_are_those_of_wans_vae():
    codec = busy_codec()
    latents = codec.encode(torch.rand(2, 3, 13, 16, 24) * 2 - 1)
    assert latents.shape == (2, 16, 4, 2, 3)
    assert codec.decode(latents).shape == (2, 3, 13, 16, 24)


@torch.no_grad()
@BOTH
@pytest.mark.parametrize("sizes", [(1, 3, 3), (3, 1, 2, 1), (1, 1, 1, 1, 1, 1, 1)])
def test_chunked_decode_equals_full_decode(sizes: tuple[int, ...], warp: bool):
    codec, latents = busy_codec(warp), 0.3 * torch.randn(2, 16, 7, 2, 3)
    chunks, cache = [], None
    for chunk in latents.split(sizes, dim=2):
        frames, cache = codec.decode_chunk(chunk, cache)
        chunks.append(frames)
    torch.testing.assert_close(torch.cat(chunks, dim=2), codec.decode(latents), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_chunk_decoded_without_its_cache_differs():
    codec, latents = busy_codec(), 0.3 * torch.randn(1, 16, 4, 2, 3)
    _, cache = codec.decode_chunk(latents[:, :, :2], None)
    zeros = [torch.zeros_like(entry) for entry in cache]
    kept, lost = codec.decode_chunk(latents[:, :, 2:], cache)[0], codec.decode_chunk(latents[:, :, 2:], zeros)[0]
    assert (kept - lost).abs().max() > 1e-3


@torch.no_grad()
def test_latents_depend_on_their_own_frames_and_not_on_later_ones():
    codec, video = busy_codec(), torch.rand(1, 3, 13, 16, 16) * 2 - 1
    changed = video.clone()
    changed[:, :, 5:] = 0  # frames 5 on belong to latent frames 2 on
    before, after = codec.encode(video), codec.encode(changed)
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert (before[:, :, 2] - after[:, :, 2]).abs().max() > 1e-3


@torch.no_grad()
def test_normalisation_is_undone_by_the_decoder():
    codec, latents = busy_codec(), 0.1 * torch.randn(1, 16, 2, 2, 2)
    raw = latents * codec.latents_std.view(1, -1, 1, 1, 1) + codec.latents_mean.view(1, -1, 1, 1, 1)
    expected = ungroup_frames(codec.decode_raw(raw)[0])[:, :, 3:].clamp(-1, 1)
    assert torch.equal(codec.decode(latents), expected)


@torch.no_grad()
def test_the_linear_start_restores_video_of_as_many_components_as_channels():
    torch.manual_seed(0)
    patches = torch.randn(4000, 16) @ torch.randn(16, PATCH) * 0.05 + 0.1
    codec = StreamingCodec(hidden=8)
    initialize_from_patches(codec, patches)
    latents = codec.linear_in(patches)
    torch.testing.assert_close(codec.linear_out(latents), patches, rtol=0, atol=1e-3)
    variances = latents.var(0)
    assert variances.min() > 0.8 and variances.max() < 1.25  # the Hadamard rotation equalises the variances


@torch.no_grad()
def test_the_linear_start_beats_a_random_projection_of_the_same_size():
    torch.manual_seed(0)
    spectrum = torch.linspace(1, 0, 64) ** 2
    patches = torch.randn(3000, 64) * spectrum @ torch.linalg.qr(torch.randn(PATCH, 64))[0].T
    codec = StreamingCodec(hidden=8)
    initialize_from_patches(codec, patches)
    ours = (codec.linear_out(codec.linear_in(patches)) - patches).square().sum()
    basis = torch.linalg.qr(torch.randn(PATCH, 16))[0]
    assert ours < 0.25 * (patches @ basis @ basis.T - patches).square().sum()


def test_warped_takes_each_pixel_from_where_its_flow_points():
    rng = np.random.default_rng(5)
    picture, offsets = rng.random((24, 32, 3), dtype=np.float32), rng.uniform(-3, 3, (4, 24, 32, 2)).astype(np.float32)
    flows = torch.from_numpy(offsets / FLOW_PIXELS).permute(0, 3, 1, 2).reshape(1, 8, 24, 32)
    moved = warped(torch.from_numpy(picture).permute(2, 0, 1)[None], flows)[0].unflatten(0, (4, 3)).permute(0, 2, 3, 1).numpy()
    at = np.stack(np.meshgrid(np.arange(32), np.arange(24)), axis=-1).astype(np.float32) + offsets
    expected = [cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for x, y in np.moveaxis(at, -1, 1)]
    np.testing.assert_allclose(moved, expected, atol=0.02)  # OpenCV rounds positions to 1/32 pixel


@BOTH
def test_a_saved_codec_is_read_again(warp: bool, tmp_path: Path):
    codec, video = busy_codec(warp), torch.rand(1, 3, 5, 16, 16) * 2 - 1
    codec.save_pretrained(tmp_path)
    read = StreamingCodec.from_pretrained(tmp_path)
    assert torch.equal(read.decode(read.encode(video)), codec.decode(codec.encode(video)))


def test_hadamards_rows_are_orthogonal():
    matrix = hadamard(16)
    assert torch.equal(matrix @ matrix.T, 16 * torch.eye(16))


@torch.no_grad()
def test_a_saved_codec_decodes_the_same(tmp_path: Path):
    codec, latents = busy_codec(), torch.randn(1, 16, 3, 2, 2)
    codec.save_pretrained(tmp_path / "codec")
    assert torch.equal(StreamingCodec.from_pretrained(tmp_path / "codec").decode(latents), codec.decode(latents))


@pytest.mark.parametrize(
    ("change", "words"),
    [({"hidden": 10**9}, "hidden"), ({"hidden": 40000}, "size mismatch"), ({"blocks": -1}, "blocks"), ({"blocks": "two"}, "blocks"),
     ({"latent_channels": float("nan")}, "latent_channels"), ({"depth": 3}, "depth")],
)  # fmt: skip
def test_sizes_that_are_not_the_files_are_refused_before_anything_is_allocated(tmp_path: Path, change, words):
    busy_codec().save_pretrained(tmp_path)
    write_json(tmp_path / "config.json", {**json.loads((tmp_path / "config.json").read_text()), **change})
    with pytest.raises(InputError, match=words):
        StreamingCodec.from_pretrained(tmp_path)


def test_a_folder_without_weights_and_a_foreign_autoencoder_are_named(tmp_path: Path):
    with pytest.raises(InputError, match="no such file"):
        StreamingCodec.from_pretrained(tmp_path)
    busy_codec().save_pretrained(tmp_path)
    write_json(tmp_path / "config.json", {"_class_name": "AutoencoderKLWan"})
    with pytest.raises(InputError, match="another autoencoder"):
        StreamingCodec.from_pretrained(tmp_path)
