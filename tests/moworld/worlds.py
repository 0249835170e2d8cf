"""Tiny models, batches and helpers that tests of rollout, training, distillation and inference share."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from moworld.camera import se3
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
    """Returns two experts of a few thousand parameters for latents of 2 x 4, frames of 16 x 32."""
    settings = ModelSettings(**{**SIZES, **model})  # type: ignore[arg-type]
    config = WorldConfig(model=settings, text=TextSettings(kind="minilm", length=4), height=16, width=32, fps=16.0)
    return WorldModel.create(config, seed)


def tiny_batch(num_latents: int = 7, batch: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """Returns a batch in the loader's format, along a camera path that moves and turns."""
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
    """Returns batches of two chunks; batch n is a function of n, from `start` on."""
    return (tiny_batch(7, seed=number) for number in range(start, 10_000))


@contextmanager
def counted_saved_bytes(without: Iterable[torch.Tensor]) -> Iterator[dict[int, int]]:
    """Collects the bytes of every storage that autograd keeps for the backward pass, except those of `without`."""
    own, seen = {tensor.untyped_storage().data_ptr() for tensor in without}, dict[int, int]()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield seen


def controls_from_c2w(c2w: np.ndarray, step: float, degrees: float, tolerance: float = 0.5) -> list[frozenset[str]]:
    """Returns the T - 1 key sets that lead from each pose to the next: the inverse of `controls_to_c2w`.

    c2w:       (T, 4, 4) in the units of `step`; the world's up axis is the first camera's -y
    tolerance: fraction of a step or of `degrees` above which a key counts as pressed
    """
    relative = se3.invert(c2w[0]) @ c2w
    forward = relative[:, :3, 2]
    yaw = np.unwrap(np.arctan2(forward[:, 0], forward[:, 2]))
    yaw_steps = np.degrees(np.diff(yaw)) / degrees
    pitch_steps = np.diff(np.degrees(np.arcsin(np.clip(-forward[:, 1], -1, 1)))) / degrees
    moves = np.einsum("tji,tj->ti", relative[1:, :3, :3], np.diff(relative[:, :3, 3], axis=0)) / step
    actions = []
    for yaw_step, pitch_step, (right, _, ahead) in zip(yaw_steps, pitch_steps, moves, strict=True):
        amounts = {"l": yaw_step, "j": -yaw_step, "i": pitch_step, "k": -pitch_step, "d": right, "a": -right, "w": ahead, "s": -ahead}
        actions.append(frozenset(key for key, amount in amounts.items() if amount > tolerance))
    return actions
