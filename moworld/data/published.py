"""Imports feature files of the published MoWorld base (`.pth`, listed by a JSONL) as our shards.

The files are pickles; `weights_only=True` loads tensors and plain values and executes nothing. Implemented from the release's
description; never run on a published file.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from moworld.camera.camera_file import checked
from moworld.camera.cameras import Cameras, translation_scale
from moworld.data.features import FeatureWriter
from moworld.data.settings import DataSettings
from moworld.data.splits import SPLITS, assign_splits, source_of
from moworld.errors import InputError
from moworld.files import Pathlike, atomic_folder, link_or_copy, sha256_file, write_json
from moworld.model.latent_grid import CODEC_GRID

FIX = "check that it is a feature file of the published base"


def import_features(
    listing: Pathlike, out: Pathlike, world: dict[str, Any], codec: Pathlike, split: str | DataSettings = "train"
) -> dict[str, Any]:
    """Writes a feature folder (see `FeatureStore`) from a JSONL of {"file", "sample_num_frames", "sample_size"}.

    listing: JSONL; its files are relative to its folder
    world:   contents of world.json: height, width, fps, text
    codec:   folder of the autoencoder that made the latents
    split:   the split of all files, or settings that split them by source (see `assign_splits`)
    returns: {"clips", "frames"}
    Raises InputError for a line that is not JSON, a missing file, a file without the tensors, inconsistent shapes, latents or text that
    are not finite in float16, poses that are not rigid, a pixel lens without ori_w and ori_h, or an unknown split.
    """
    listing, frames = Path(listing), 0
    if not Path(codec).is_dir():
        raise InputError(codec, "", "no such folder", "the autoencoder that made the latents", "fetch Wan2.2's vae/")
    paths = [listing.parent / str(row["file"]) for row in _rows(listing)]
    splits = _splits(paths, split)
    with atomic_folder(out) as target:
        writer = FeatureWriter(target)
        for number, path in enumerate(tqdm(paths, desc="features", unit="clip")):
            latents, text, cameras = _read(path)
            _require_latents(path, latents, text, world)
            if len(cameras) != (expected := CODEC_GRID.num_frames(latents.shape[1])):
                found = f"{len(cameras)} poses for {latents.shape[1]} latent frames"
                raise InputError(path, "cam_from_worlds", found, f"{expected} poses", FIX)
            frames += len(cameras)
            facts = {"clip_id": f"{path.stem}-{number:06d}", "split": splits[number], "scene": path.stem, "source": "published", "caption": ""}
            placed = cameras.relative_to(0).scaled(translation_scale(cameras.relative_to(0).w2c))
            tensors = {"latents": latents, "text": text, "c2w": torch.tensor(placed.c2w), "intrinsics": torch.tensor(placed.intrinsics)}
            writer.add({**facts, "num_frames": len(cameras), "video_sha256": sha256_file(path)}, tensors)
        writer.close()
        write_json(target / "world.json", world)
        for path in sorted(Path(codec).glob("*")):
            link_or_copy(path, target / "codec" / path.name)
    return {"clips": len(paths), "frames": frames}


def _splits(paths: list[Path], split: str | DataSettings) -> list[str]:
    if isinstance(split, DataSettings):
        sources = [source_of(path, split.source_pattern) for path in paths]
        by_source = assign_splits(sources, split)
        return [by_source[source] for source in sources]
    if split not in SPLITS:
        raise InputError("split", "", split, f"one of {', '.join(SPLITS)}", "correct the name")
    return [split] * len(paths)


def _rows(listing: Path) -> list[dict[str, Any]]:
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(listing, "", error, "a JSONL of feature files", "check the path") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            row["file"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(listing, f"line {number}", line[:60], 'JSON with the key "file"', "fix the line") from None
        rows.append(row)
    if not rows:
        raise InputError(listing, "", "no line", "one line per feature file", "check the path")
    return rows


def _read(path: Path) -> tuple[Tensor, Tensor, Cameras]:
    """Returns latents (C, F, h, w), text (L, D) and cameras of one file."""
    if not path.is_file():
        raise InputError(path, "", "no such file", "a feature file of the list", "fetch it, or fix the list")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle of other objects raises any exception
        raise InputError(path, "", f"{type(error).__name__}", "a file of tensors and plain values", FIX) from None
    keys = ("input_latents", "context", "cam_from_worlds", "intrinsics")
    if not isinstance(content, dict) or not set(keys) <= set(content):
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise InputError(path, "keys", found, ", ".join(keys), FIX)
    latents, text, poses, intrinsics = (torch.as_tensor(content[key]).float() for key in keys)
    for name, tensor, dims in (("input_latents", latents, 4), ("context", text, 2), ("cam_from_worlds", poses, 3)):
        if tensor.ndim < dims or tensor.numel() != tensor[(0,) * (tensor.ndim - dims)].numel():  # a batch of one is accepted
            raise InputError(path, name, f"shape {tuple(tensor.shape)}", f"{dims} dims, or more of size 1 before them", FIX)
    latents, text = latents.reshape(latents.shape[-4:]), text.reshape(text.shape[-2:])
    if poses.shape[-2:] not in ((3, 4), (4, 4)) or not poses.shape[-3]:
        raise InputError(path, "cam_from_worlds", f"shape {tuple(poses.shape)}", "(T, 3 or 4, 4) world to camera", FIX)
    w2c = poses.reshape(poses.shape[-3:]).double().numpy()
    return latents, text, checked(path, _normalised(intrinsics, content, path, len(w2c)), w2c).cameras()


def _require_latents(path: Path, latents: Tensor, text: Tensor, world: dict[str, Any]) -> None:
    """Raises InputError for latents of another picture size, and for values that are not finite as float16, which shards store."""
    expected = world["height"] // CODEC_GRID.spatial, world["width"] // CODEC_GRID.spatial
    if latents.shape[-2:] != expected:
        found = f"latents of {latents.shape[-1]}x{latents.shape[-2]}"
        wanted = f"{expected[1]}x{expected[0]} for pictures of {world['width']}x{world['height']}"
        raise InputError(path, "input_latents", found, wanted, "set the size of the features, or choose other files")
    for name, tensor in (("input_latents", latents), ("context", text)):
        if not torch.isfinite(tensor.half()).all():
            count = int((~torch.isfinite(tensor.half())).sum())
            raise InputError(path, name, f"{count} values that are NaN or beyond float16", "finite numbers up to 65504", FIX)


def _normalised(intrinsics: Tensor, content: dict[str, Any], path: Path, frames: int) -> np.ndarray:
    """Returns fx, fy, cx, cy (T, 4) normalised by width and height, from (4,), (T, 4), (3, 3) or (T, 3, 3); values above 8 are pixels of ori_w, ori_h.

    Raises InputError for another shape, and for pixels without a size.
    """
    if intrinsics.shape[-2:] == (3, 3):
        intrinsics = torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1], intrinsics[..., 0, 2], intrinsics[..., 1, 2]], dim=-1)
    if intrinsics.shape[-1] != 4:
        raise InputError(path, "intrinsics", f"shape {tuple(intrinsics.shape)}", "(T, 4), (T, 3, 3), or one of them for all frames", FIX)
    values = intrinsics.reshape(-1, 4).expand(frames, 4) if intrinsics.numel() == 4 else intrinsics.reshape(-1, 4)
    if len(values) != frames:
        raise InputError(path, "intrinsics", f"{len(values)} rows", f"{frames}, one a pose", FIX)
    if float(values.max()) > 8:  # normalised values are far below, pixels far above
        size: list[Any] = [content.get(key) for key in ("ori_w", "ori_h")]
        if not all(isinstance(side, int | float) and 0 < side < float("inf") for side in size):
            found = f"intrinsics in pixels, ori_w {size[0]}, ori_h {size[1]}"
            raise InputError(path, "intrinsics", found, "ori_w and ori_h, the size of the pictures", FIX)
        values = values / torch.tensor([float(side) for side in size] * 2)
    return values.double().numpy()
