"""A tiny world for serving tests: experts, codec and a text encoder, in milliseconds."""

from pathlib import Path

import numpy as np
import torch

from moworld.inference.engine import Engine
from moworld.model.codec import StreamingCodec
from moworld.model.world import WorldModel
from tests.moworld.worlds import tiny_world


class Letters:
    """Text encoder: the length of a prompt as a constant embedding (B, 4, 8)."""

    def encode(self, prompts: list[str]) -> torch.Tensor:
        return torch.stack([torch.full((4, 8), float(len(prompt))) for prompt in prompts])


def served_world(folder: Path, **model: object) -> WorldModel:
    """Returns a tiny world whose codec is in `folder`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        StreamingCodec(16, hidden=8, blocks=1).save_pretrained(folder)
    made = tiny_world(**model)  # type: ignore[arg-type]
    made.experts.eval()
    made.codec_folder = folder
    return made


def picture(height: int = 40, width: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def tiny_engine(folder: Path, **settings: object) -> Engine:
    return Engine(served_world(folder), text_encoder=Letters(), **settings)  # type: ignore[arg-type]
