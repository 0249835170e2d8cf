"""Tiny models and batches that tests of rollout, training, distillation and inference share."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from moworld.camera.controls import controls_to_c2w
from moworld.model.text import TextSettings
from moworld.model.world import ModelSettings, WorldConfig, WorldModel

SIZES = {
    "num_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "ffn_dim": 64,
    "freq_dim": 32,
    "text_dim": 8,
    "camera_gate": 1.0,
}


def tiny_world(seed: int = 0, **model: object) -> WorldModel:
    """Two experts of a few thousand parameters for latents of 2 x 4, frames of 16 x 32."""
    settings = ModelSettings(**{**SIZES, **model})  # type: ignore[arg-type]
    config = WorldConfig(model=settings, text=TextSettings(kind="minilm", length=4), height=16, width=32, fps=16.0)
    return WorldModel.create(config, seed)


def tiny_batch(num_latents: int = 7, batch: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch as the loader gives it, along a camera path that walks and turns."""
    generator = torch.Generator().manual_seed(seed)
    frames = 4 * (num_latents - 1) + 1
    c2w = torch.as_tensor(controls_to_c2w("wl*400"), dtype=torch.float32)[:frames]
    return {
        "latents": torch.randn(batch, 16, num_latents, 2, 4, generator=generator),
        "c2w": c2w.expand(batch, -1, -1, -1).clone(),
        "intrinsics": torch.tensor([0.5, 1.0, 0.5, 0.5]).expand(batch, frames, 4).clone(),
        "text": torch.randn(batch, 4, 8, generator=generator),
        "first_latent": torch.zeros(batch, dtype=torch.long),
    }


def batches_from(start: int) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of two chunks from number `start` on, each a function of its number."""
    return (tiny_batch(7, seed=number) for number in range(start, 10_000))


@contextmanager
def counted_saved_bytes(without: Iterable[torch.Tensor]) -> Iterator[dict[int, int]]:
    """Bytes by storage of what autograd keeps for the backward pass, `without` excluded."""
    own, seen = {tensor.untyped_storage().data_ptr() for tensor in without}, dict[int, int]()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield seen
