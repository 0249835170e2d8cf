"""VBench's preprocessing of frames for each network: resizing, cropping, scaling, padding.

VBench's release has three kinds of resizing: float tensors without antialiasing for quality scores; with antialiasing (torchvision's default
from 0.17 on) for scores against the first image; Pillow in 8 bits for the first image itself. None of them clamps.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Frames = NDArray[np.uint8]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def for_dino(frames: Frames) -> Tensor:
    """Converts (T, H, W, 3) uint8 to (T, 3, h, w): shorter side 224, bilinear, not cropped (SC)."""
    return _normalized(_resized(_tensor(frames), 224, "bilinear", antialias=False) / 255, IMAGENET)


def for_dino_centre(frames: Frames) -> Tensor:
    """Converts (T, H, W, 3) uint8 to (T, 3, 224, 224): shorter side 256, bicubic, centre crop (I2V-S)."""
    return _normalized(_centre(_resized(_tensor(frames), 256, "bicubic", antialias=True), 224) / 255, IMAGENET)


def picture_for_dino_centre(picture: Frames) -> Tensor:
    """Converts the first image (H, W, 3) of a video to (1, 3, 224, 224), as `for_dino_centre`."""
    return _normalized(_centre(_pillow_resized(picture, _shorter(picture.shape[:2], 256)), 224), IMAGENET)


def for_clip(frames: Frames) -> Tensor:
    """Converts (T, H, W, 3) uint8 to (T, 3, 224, 224): shorter side 224, bicubic, centre crop (BC, AQ)."""
    return _normalized(_centre(_resized(_tensor(frames), 224, "bicubic", antialias=False), 224) / 255, CLIP)


def for_dreamsim(frames: Frames) -> Tensor:
    """Converts (T, H, W, 3) uint8 to (T, 3, 224, 224) in 0 to 1, resized to a square, bicubic (I2V-B)."""
    return _resized(_tensor(frames), (224, 224), "bicubic", antialias=True) / 255


def picture_for_dreamsim(picture: Frames) -> Tensor:
    """Converts the first image (H, W, 3) to (1, 3, 224, 224), as `for_dreamsim`."""
    return _pillow_resized(picture, (224, 224))


def for_musiq(frames: Frames) -> Tensor:
    """Converts (T, H, W, 3) uint8 to (T, 3, h, w) in 0 to 1, longer side at most 512, bilinear (IQ)."""
    images = _tensor(frames)
    height, width = images.shape[-2:]
    if (longer := max(height, width)) > 512:
        scale = 512.0 / longer
        images = _resized(images, (int(scale * height), int(scale * width)), "bilinear", antialias=False)
    return images / 255


def for_raft(frames: Frames) -> Tensor:
    """Converts (T, H, W, 3) uint8 to (T, 3, h, w) in -1 to 1, padded to sides that are multiples of 8 (DD)."""
    images, _ = padded(_tensor(frames), 8)
    return 2 * (images / 255) - 1


def padded(images: Tensor, multiple: int) -> tuple[Tensor, tuple[slice, slice]]:
    """Returns images (T, C, H, W) padded to multiples of `multiple` by repeating the border on both sides, and the slices of the originals."""
    height, width = images.shape[-2:]
    down, across = -height % multiple, -width % multiple
    top, left = down // 2, across // 2
    grown = torch.nn.functional.pad(images, (left, across - left, top, down - top), mode="replicate")
    return grown, (slice(top, top + height), slice(left, left + width))


def _tensor(frames: Frames) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()


def _shorter(size: "tuple[int, ...] | torch.Size", side: int) -> tuple[int, int]:
    """Returns height and width with shorter side `side`, the longer one rounded down."""
    height, width = size
    return (side, int(side * width / height)) if height <= width else (int(side * height / width), side)


def _resized(images: Tensor, size: int | tuple[int, int], mode: str, antialias: bool) -> Tensor:
    """Returns images (T, C, H, W) at a height and width, or with a shorter side of `size`."""
    size = _shorter(images.shape[-2:], size) if isinstance(size, int) else size
    if tuple(images.shape[-2:]) == size:
        return images
    return torch.nn.functional.interpolate(images, size, mode=mode, align_corners=False, antialias=antialias)


def _pillow_resized(picture: Frames, size: tuple[int, int]) -> Tensor:
    """Converts (H, W, 3) uint8 to (1, 3, *size) in 0 to 1."""
    from PIL import Image

    resized = Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return _tensor(np.array(resized)[None]) / 255


def _centre(images: Tensor, side: int) -> Tensor:
    top, left = (round((length - side) / 2.0) for length in images.shape[-2:])
    return images[..., top : top + side, left : left + side]


def _normalized(images: Tensor, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in statistics)
    return (images - mean) / deviation
