"""What a transformer sees of a window: the noisy latents beside Wan's image condition, history in front of them, cameras, time ids and text.

One layout serves the bidirectional teacher (no history, the window starts at the first frame) and the autoregressive student (history, the
window starts at the anchor, the last latent frame of the chunk before; eq. 9). Poses are taken relative to the window's first frame, so
that frame is the identity camera in both.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from moworld.model.flow import NUM_TIMESTEPS
from moworld.model.latent_cameras import LatentCameras, Rays


@dataclass(frozen=True)
class Window:
    """The conditions of one window of F latent frames with K history frames in front; they stay fixed through all denoising steps.

    condition: (B, 20, K + F, h, w) four mask channels (1 = known) and the known latents, 0 where unknown
    history:   (B, C, K, h, w) clean latents, K may be 0
    camera:    grouped Plücker rays of (8h, 8w) pixels of K + F frames, or of the frames that this rank works on
    frame_ids: (B, K + F) global latent time ids
    text:      (B, L, text_dim)
    """

    condition: Tensor
    history: Tensor
    camera: Rays
    frame_ids: Tensor
    text: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, C, F, h, w) of the latents to denoise."""
        batch, channels, known, height, width = self.history.shape
        return batch, channels, self.frame_ids.shape[1] - known, height, width

    def without(self, camera: Tensor | None = None, text: Tensor | None = None) -> "Window":
        """Drop conditions of the samples where the boolean masks (B,) are true: their rays or their text become zeros."""
        window = self
        if camera is not None:
            window = replace(window, camera=window.camera.without(camera))
        if text is not None:
            window = replace(window, text=window.text * (~text).to(window.text.dtype)[:, None, None])
        return window


def make_window(
    first: Tensor,
    cameras: LatentCameras,
    start: Tensor,
    text: Tensor,
    history: Tensor | None = None,
    history_cameras: LatentCameras | None = None,
    history_ids: Tensor | None = None,
    rays_of: slice | None = None,
    rays_like: Rays | None = None,
) -> Window:
    """Assemble a window.

    first:           (B, C, 1, h, w) the known first latent frame: the image's, or the anchor's
    cameras:         of the F latent frames of the window, the first frame's included
    start:           (B,) global latent time id of the first frame
    text:            (B, L, text_dim)
    history:         (B, C, K, h, w) clean latents with their cameras and (B, K) global ids
    rays_of:         the latent frames, history counted, whose rays to make; None makes all (see `MoWorldTransformer3DModel.part`)
    rays_like:       rays of an earlier window of the same rollout (see `LatentCameras.rays`)
    """
    batch, channels, _, height, width = first.shape
    frames = len(cameras)
    pose = cameras.last_pose(0)
    known = torch.zeros(batch, 4, frames, height, width, dtype=first.dtype, device=first.device)
    known[:, :, 0] = 1
    latents = torch.cat([first, first.new_zeros(batch, channels, frames - 1, height, width)], dim=2)
    condition = torch.cat([known, latents], dim=1)
    ids = start[:, None] + torch.arange(frames, device=start.device)
    if history is None or history_cameras is None or history_ids is None:
        history, all_cameras = first.new_zeros(batch, channels, 0, height, width), cameras
    else:
        all_cameras, ids = history_cameras.cat(cameras), torch.cat([history_ids, ids], dim=1)
        condition = torch.cat([torch.cat([torch.ones_like(history[:, :4]), history], dim=1), condition], dim=2)
    rays = all_cameras[rays_of or slice(None)].relative_to(pose).rays(height * 8, width * 8, rays_like).to(first)
    return Window(condition, history, rays, ids, text)


def predict_velocity(transformer: nn.Module, noisy: Tensor, level: Tensor, window: Window) -> Tensor:
    """Velocity (B, C, F, h, w) of the window's noisy latents (eq. 1, 10, 16). History tokens carry t = 0 and are no prediction targets.

    noisy: (B, C, F, h, w); level: (B,) noise level of each sample, the same for all its frames
    """
    hidden_states, timestep, conditions, known = _inputs(transformer, noisy, level, window)
    return transformer(hidden_states, timestep, **conditions)[:, :, known:]  # type: ignore[no-any-return]


class PreparedWindow:
    """A window as one expert sees it: what stays fixed through its denoising steps is computed once. Velocities equal `predict_velocity`'s."""

    def __init__(self, transformer: Any, window: Window) -> None:
        self.transformer, self.window = transformer, window
        noisy = window.history.new_zeros(window.shape)
        hidden_states, _, conditions, _ = _inputs(transformer, noisy, noisy.new_zeros(len(noisy)), window)
        self.prepared = transformer.prepare(hidden_states, **conditions)

    def velocity(self, noisy: Tensor, level: Tensor) -> Tensor:
        """See `predict_velocity`."""
        hidden_states, timestep, _, known = _inputs(self.transformer, noisy, level, self.window)
        return self.transformer.denoise(hidden_states, timestep, self.prepared)[:, :, known:]  # type: ignore[no-any-return]


def _inputs(transformer: Any, noisy: Tensor, level: Tensor, window: Window) -> tuple[Tensor, Tensor, dict[str, Any], int]:
    """The transformer's latents, timestep and conditions, and how many of the latents' first frames are history that attends jointly."""
    known, timestep = window.history.shape[2], level * NUM_TIMESTEPS
    conditions = {"encoder_hidden_states": window.text, "camera": window.camera, "frame_ids": window.frame_ids}
    if known and transformer.config.block_causal:
        conditions["history"] = torch.cat([window.history, window.condition[:, :, :known]], dim=1)
        return torch.cat([noisy, window.condition[:, :, known:]], dim=1), timestep, conditions, 0
    if known:  # without history one timestep stands for all tokens, which spares a modulation for each of them
        timestep = timestep[:, None].expand(-1, known + noisy.shape[2]).clone()
        timestep[:, :known] = 0
    return torch.cat([torch.cat([window.history, noisy], dim=2), window.condition], dim=1), timestep, conditions, known
