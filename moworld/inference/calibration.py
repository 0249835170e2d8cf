"""What an expert sees while it serves, for measuring the error of quantized layers: a window of a walk, at the noise levels of the schedule.

Rays, time ids, condition and history come from the rollout that serves. No footage is needed, so the latents are synthetic: a still, smooth
random field of unit variance, as the codec's latents have, plus noise.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from moworld.camera.controls import controls_to_c2w
from moworld.model.experts import Experts, expert_name
from moworld.model.flow import add_noise
from moworld.model.rollout import Rollout, seeded_noise
from moworld.model.window import PreparedWindow, Window
from moworld.model.world import WorldConfig

KEYS = ("w", "wl", "l", "wj")  # of one latent frame each, repeated: steps ahead and turns to both sides
CELL = 4  # latent positions between independent values of the field


@torch.no_grad()
def run_on_walk(name: str, expert: Any, config: WorldConfig, seed: int = 0) -> None:
    """Runs the expert `high` or `low` on the window of a walk, once per noise level of the schedule that it serves."""
    window, clean = walk_window(expert, config, seed)
    prepared, generator = PreparedWindow(expert, window), torch.Generator().manual_seed(seed)
    for level in served_levels(name, config):
        noisy = add_noise(clean, seeded_noise(window.shape, generator, clean), level)
        prepared.velocity(noisy, clean.new_full((1,), level))


@torch.no_grad()
def walk_window(expert: Any, config: WorldConfig, seed: int = 0) -> tuple[Window, Tensor]:
    """Returns the window of a chunk late on a walk, on the expert's device, and its clean latents (1, C, F, h, w).

    The history bank is larger than the context by then. The second half of the text's tokens is zero, as after a prompt's end.
    """
    generator, model, device = torch.Generator().manual_seed(seed), config.model, next(expert.parameters()).device
    field = smooth_field(model.latent_channels, config.height // 8, config.width // 8, generator).to(device)
    text = torch.randn(1, config.text.length, model.text_dim, generator=generator)
    text[:, (config.text.length + 1) // 2 :] = 0
    seen = list[Window]()

    def stand_still(window: Window, *_: object) -> Tensor:
        seen.append(window)
        return field.expand(window.shape)

    rollout = Rollout(
        Experts(expert, None, model.boundary), field, text.to(device), torch.tensor([config.intrinsics], device=device),
        schedule=config.schedule, policy=model.history, chunk_latents=model.chunk_latents, generator=generator, denoise=stand_still,
    )  # fmt: skip
    chunks = 1 + -(-model.history.num_frames // model.chunk_latents)
    keys = [KEYS[frame % len(KEYS)] for frame in range(chunks * model.chunk_latents) for _ in range(4)]
    c2w = torch.as_tensor(controls_to_c2w(keys, config.move_units, config.yaw_degrees)[1:], dtype=torch.float32)
    for poses in c2w.split(4 * model.chunk_latents):
        rollout.next_chunk(poses[None])
    return seen[-1], field.expand(seen[-1].shape)


def served_levels(name: str, config: WorldConfig) -> list[float]:
    """Returns the noise levels of the schedule that an expert serves, and the boundary alone if it serves none."""
    boundary = config.model.boundary if len(config.experts) > 1 else 0.0
    return [level for level in config.schedule.tolist() if expert_name(level, boundary) == name] or [boundary]


def smooth_field(channels: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Returns (1, channels, 1, height, width): a random field, linear between cells, of zero mean and unit variance per channel."""
    coarse = torch.randn(1, channels, 2 + height // CELL, 2 + width // CELL, generator=generator)
    field = interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
    return ((field - field.mean((2, 3), keepdim=True)) / field.std((2, 3), keepdim=True).clamp_min(1e-6))[:, :, None]
