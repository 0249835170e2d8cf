"""Preprocessing for each network against transformers' processors, Pillow and sampling pixel by pixel."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from moworld.evaluation import vbench_frames as frames_for

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def smooth_picture(height, width):
    """Returns smooth waves without edges, on which different kinds of sampling agree."""
    y, x = np.mgrid[:height, :width]
    waves = [110 + 60 * np.sin(x / (37 + 5 * c)) + 50 * np.cos(y / (29 + 7 * c)) for c in range(3)]
    return np.stack(waves, axis=-1).round().astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(300, 532), (450, 300), (260, 260)])
def test_the_dino_image_equals_transformers_processor(height, width):
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    processor = BitImageProcessorPil(size={"shortest_edge": 256}, crop_size=224, resample=3, **IMAGENET)
    expected = processor(Image.fromarray(picture), return_tensors="pt")["pixel_values"]
    assert torch.allclose(frames_for.picture_for_dino_centre(picture), expected, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(300, 532), (450, 300)])
def test_clip_and_dino_frames_equal_the_processors_within_a_grey_level(height, width):
    frames = np.stack([smooth_picture(height, width), smooth_picture(height, width)[::-1]])
    pictures = [Image.fromarray(frame) for frame in frames]
    clip = CLIPImageProcessorPil()(pictures, return_tensors="pt")["pixel_values"]
    assert (frames_for.for_clip(frames) - clip).abs().max() < 1.5 / 255 / 0.261
    dino = BitImageProcessorPil(size={"shortest_edge": 256}, crop_size=224, resample=3, **IMAGENET)(pictures, return_tensors="pt")
    assert (frames_for.for_dino_centre(frames) - dino["pixel_values"]).abs().max() < 1.5 / 255 / 0.224


def test_frames_for_image_scores_are_sampled_as_by_pillow_in_floating_point():
    frame = np.random.default_rng(7).integers(0, 256, (320, 480, 3), dtype=np.uint8)

    def resized(size):
        channels = [Image.fromarray(frame[..., c].astype(np.float32), mode="F").resize(size, Image.Resampling.BICUBIC) for c in range(3)]
        return np.stack([np.asarray(channel) for channel in channels], axis=-1) / 255

    expected = (resized((384, 256))[16:240, 80:304] - np.array(IMAGENET["image_mean"])) / np.array(IMAGENET["image_std"])
    assert frames_for.for_dino_centre(frame[None])[0].permute(1, 2, 0).numpy() == pytest.approx(expected, abs=1e-4)
    assert frames_for.for_dreamsim(frame[None])[0].permute(1, 2, 0).numpy() == pytest.approx(resized((224, 224)), abs=1e-4)


def test_dino_frames_have_shorter_side_224_without_cropping():
    frame = np.random.default_rng(1).integers(0, 256, (240, 419, 3), dtype=np.uint8)
    made = frames_for.for_dino(frame[None])
    assert made.shape == (1, 3, 224, int(224 * 419 / 240))
    height, width = made.shape[-2:]
    for row, column in ((0, 0), (100, 200), (223, width - 1), (17, 301)):  # bilinear at the pixel's centre, without antialiasing
        y, x = (row + 0.5) * 240 / height - 0.5, (column + 0.5) * 419 / width - 0.5
        y, x = min(max(y, 0), 239), min(max(x, 0), 418)
        top, left = int(y), int(x)
        below, right, v, u = min(top + 1, 239), min(left + 1, 418), y - top, x - left
        value = (1 - v) * ((1 - u) * frame[top, left] + u * frame[top, right]) + v * (
            (1 - u) * frame[below, left] + u * frame[below, right]
        )
        expected = (value / 255 - np.array(IMAGENET["image_mean"])) / np.array(IMAGENET["image_std"])
        assert made[0, :, row, column].numpy() == pytest.approx(expected, abs=2e-4)


def test_only_quality_scores_have_aliasing():
    stripes = np.zeros((1, 672, 672, 3), dtype=np.uint8)
    stripes[:, :, ::2] = 255  # above the resolution of 224 pixels: every third pixel alternates between black and white
    for seen in (frames_for.for_clip(stripes), frames_for.for_dino(stripes)):
        assert (seen[..., 1:] - seen[..., :-1]).abs().min() > 3.5  # black beside white, normalised
    for seen in (frames_for.for_dreamsim(stripes), frames_for.picture_for_dreamsim(stripes[0])):
        assert (seen[..., 8:-8] - 0.5).abs().max() < 0.1


@pytest.mark.parametrize(("height", "width", "left"), [(256, 455, 116), (256, 453, 114)])
def test_a_half_pixel_crop_offset_rounds_to_even(height, width, left):
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[:, left - 1] = 255  # the last column that is cropped
    assert frames_for.picture_for_dino_centre(picture).std(dim=(2, 3)).max() < 1e-6


def test_musiq_frames_have_a_longer_side_of_at_most_512():
    small = np.random.default_rng(2).integers(0, 256, (2, 100, 512, 3), dtype=np.uint8)
    assert torch.equal(frames_for.for_musiq(small), torch.from_numpy(small).permute(0, 3, 1, 2) / 255)
    assert frames_for.for_musiq(np.zeros((1, 300, 513, 3), dtype=np.uint8)).shape == (1, 3, 299, 512)
    assert frames_for.for_musiq(np.zeros((1, 1000, 620, 3), dtype=np.uint8)).shape == (1, 3, 512, 317)


def test_dreamsim_frames_are_square_and_its_image_is_pillows():
    picture = smooth_picture(300, 520)
    expected = np.asarray(Image.fromarray(picture).resize((224, 224), Image.Resampling.BICUBIC)) / 255
    assert frames_for.picture_for_dreamsim(picture)[0].permute(1, 2, 0).numpy() == pytest.approx(expected, abs=1e-6)
    assert (frames_for.for_dreamsim(picture[None])[0].permute(1, 2, 0).numpy() - expected).__abs__().max() < 1.5 / 255


@pytest.mark.parametrize(("height", "width"), [(131, 150), (136, 152), (129, 129)])
def test_raft_frames_are_padded_on_both_sides_by_the_border(height, width):
    frame = np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)
    made = frames_for.for_raft(frame[None])[0]
    down, across = -height % 8, -width % 8
    expected = np.pad(frame, ((down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0)), mode="edge")
    assert made.permute(1, 2, 0).numpy() == pytest.approx(2 * (expected / 255) - 1, abs=1e-6)


def test_padded_returns_the_slices_of_the_originals():
    images = torch.rand(1, 3, 21, 35)
    grown, (rows, columns) = frames_for.padded(images, 16)
    assert grown.shape[-2:] == (32, 48) and torch.equal(grown[..., rows, columns], images)
