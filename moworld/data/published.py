"""Feature files of the published MoWorld base (`.pth`, listed by a JSONL) rewritten as our shards.

Its files are pickles: they are read with `weights_only=True`, which loads tensors and plain values and runs nothing. Read from the release's
description; no such file was at hand.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from moworld.camera.cameras import Cameras, translation_scale
from moworld.data.encoded import half
from moworld.data.features import FeatureWriter
from moworld.errors import InputError
from moworld.files import Pathlike, atomic_folder, link_or_copy, sha256_file, write_json

MEND = "check that it is a feature file of the published base"


def import_features(listing: Pathlike, out: Pathlike, world: dict[str, Any], codec: Pathlike, split: str = "train") -> dict[str, Any]:
    """Write a feature folder (see `FeatureStore`) from a JSONL of {"file", "sample_num_frames", "sample_size"}; files lie relative to it.

    world:   what stands in world.json: height, width, fps, text
    codec:   folder of the autoencoder that made the latents
    returns: {"clips", "frames"}
    Raises InputError for a line that is not JSON, a file that is missing, no tensors, or of shapes that do not go together.
    """
    listing, frames = Path(listing), 0
    if not Path(codec).is_dir():
        raise InputError(codec, "", "no such folder", "the autoencoder that made the latents", "fetch Wan2.2's vae/")
    rows = _rows(listing)
    with atomic_folder(out) as target:
        writer = FeatureWriter(target)
        for number, row in enumerate(tqdm(rows, desc="features", unit="clip")):
            path = listing.parent / str(row["file"])
            latents, text, cameras = _read(path)
            if len(cameras) != 4 * (latents.shape[1] - 1) + 1:
                found = f"{len(cameras)} poses for {latents.shape[1]} latent frames"
                raise InputError(path, "cam_from_worlds", found, f"{4 * (latents.shape[1] - 1) + 1} poses", MEND)
            frames += len(cameras)
            facts = {"clip_id": f"{path.stem}-{number:06d}", "split": split, "scene": path.stem, "source": "published", "caption": ""}
            placed = cameras.relative_to(0).scaled(translation_scale(cameras.relative_to(0).w2c))
            tensors = half(latents, text, placed.c2w, placed.intrinsics)
            writer.add({**facts, "num_frames": len(cameras), "video_sha256": sha256_file(path)}, tensors)
        writer.close()
        write_json(target / "world.json", world)
        for path in sorted(Path(codec).glob("*")):
            link_or_copy(path, target / "codec" / path.name)
    return {"clips": len(rows), "frames": frames}


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
        except (json.JSONDecodeError, KeyError, TypeError):
            raise InputError(listing, f"line {number}", line[:60], 'JSON with the key "file"', "mend the line") from None
        rows.append(row)
    if not rows:
        raise InputError(listing, "", "no line", "one line a feature file", "check the path")
    return rows


def _read(path: Path) -> tuple[Tensor, Tensor, Cameras]:
    """Latents (C, F, h, w), text (L, D) and cameras of one file."""
    if not path.is_file():
        raise InputError(path, "", "no such file", "a feature file as the list says", "fetch it, or mend the list")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle of anything else than tensors raises what it likes
        raise InputError(path, "", f"{type(error).__name__}", "a file of tensors and plain values", MEND) from None
    wanted = ("input_latents", "context", "cam_from_worlds", "intrinsics")
    if not isinstance(held, dict) or not set(wanted) <= set(held):
        found = sorted(held) if isinstance(held, dict) else type(held).__name__
        raise InputError(path, "keys", found, ", ".join(wanted), MEND)
    latents, text, poses, lens = (torch.as_tensor(held[key]).float() for key in wanted)
    for name, tensor, dims in (("input_latents", latents, 4), ("context", text, 2), ("cam_from_worlds", poses, 3)):
        if tensor.ndim < dims or tensor.numel() != tensor[(0,) * (tensor.ndim - dims)].numel():  # a batch of one goes, more do not
            raise InputError(path, name, f"shape {tuple(tensor.shape)}", f"{dims} dims, or more of size 1 before them", MEND)
    latents, text = latents.reshape(latents.shape[-4:]), text.reshape(text.shape[-2:])
    w2c = np.tile(np.eye(4), (poses.shape[-3], 1, 1))
    w2c[:, : poses.shape[-2]] = poses.reshape(poses.shape[-3:]).double().numpy()
    return latents, text, Cameras(_normalised(lens, held, path, len(w2c)), w2c)


def _normalised(lens: Tensor, held: dict[str, Any], path: Path, frames: int) -> np.ndarray:
    """fx, fy, cx, cy (T, 4) normalised by width and height, from (4,), (T, 4), (3, 3) or (T, 3, 3), in pixels where they exceed 8."""
    if lens.shape[-2:] == (3, 3):
        lens = torch.stack([lens[..., 0, 0], lens[..., 1, 1], lens[..., 0, 2], lens[..., 1, 2]], dim=-1)
    if lens.shape[-1] != 4:
        raise InputError(path, "intrinsics", f"shape {tuple(lens.shape)}", "(T, 4), (T, 3, 3), or one of them for all frames", MEND)
    values = lens.reshape(-1, 4).expand(frames, 4) if lens.numel() == 4 else lens.reshape(-1, 4)
    if len(values) != frames:
        raise InputError(path, "intrinsics", f"{len(values)} rows", f"{frames}, one a pose", MEND)
    if float(values.max()) > 8:  # normalised lenses stay far below; pixels far above
        size = torch.tensor([float(held["ori_w"]), float(held["ori_h"])] * 2)
        values = values / size
    return values.double().numpy()
