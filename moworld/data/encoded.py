"""Clips that were encoded before: one file each, named by all that its content depends on, so nothing is encoded twice.

Shards are put together from these files. A run that was killed goes on with the clip it was at; new footage costs its own encoding alone.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from moworld.data.clips import Clip
from moworld.files import Pathlike, atomic_write

PARTS = ("latents", "text", "c2w", "intrinsics")


class EncodedClips:
    """A folder of encoded clips. made_by: what encodes, JSON-able: the codec's hash, the frame size, the text encoder."""

    def __init__(self, folder: Pathlike, made_by: dict[str, Any]) -> None:
        self.folder, self.made_by = Path(folder), made_by

    def path(self, clip: Clip) -> Path:
        """Where a clip's tensors lie, or will lie."""
        own = [clip.video_sha256, clip.camera_sha256, clip.translation_scale, clip.num_frames, clip.caption]
        name = hashlib.sha256(json.dumps([own, self.made_by], sort_keys=True).encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def read(self, clip: Clip) -> dict[str, Tensor] | None:
        """The tensors of a clip by `PARTS`, or None where it was not encoded, or its file is damaged."""
        try:
            found = load_file(self.path(clip))
        except (OSError, SafetensorError):
            return None
        return found if set(found) == set(PARTS) else None

    def write(self, clip: Clip, tensors: dict[str, Tensor]) -> None:
        """Keep a clip's tensors: complete or not at all."""
        with atomic_write(self.path(clip)) as stream:
            stream.write(save({name: tensors[name].contiguous() for name in PARTS}))


def half(latents: Tensor, text: Tensor, c2w: Any, intrinsics: Any) -> dict[str, Tensor]:
    """Tensors of a clip as they are kept: latents (C, F, h, w) and text (L, D) float16, c2w (T, 4, 4) and intrinsics (T, 4) float32."""
    cameras = {"c2w": torch.tensor(c2w, dtype=torch.float32), "intrinsics": torch.tensor(intrinsics, dtype=torch.float32)}
    return {"latents": latents.half(), "text": text.half(), **cameras}
