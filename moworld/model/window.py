"""The conditions of a transformer's window: Wan's image condition, history frames in front, cameras, time ids and text.

One layout serves the bidirectional teacher (no history, the window starts at the first frame) and the autoregressive student (history, the
window starts at the anchor, the last latent frame of the previous chunk; eq. 9). Poses are relative to the window's first frame, which
therefore is the identity camera in both.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from moworld.model.flow import NUM_TIMESTEPS
from moworld.model.latent_cameras import LatentCameras, RayCache, Rays
from moworld.model.latent_grid import CODEC_GRID


@dataclass(frozen=True)
class Window:
    """The conditions of one window of F latent frames with K history frames in front, constant over all denoising steps.

    condition: (B, 20, K + F, h, w) four mask channels (1 = known) and the known latents, 0 where unknown
    history:   (B, C, K, h, w) clean latents; K may be 0
    camera:    grouped Plücker rays of (8h, 8w) pixels of K + F frames, or of this rank's frames
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
        """Returns a window with the rays or the text zeroed in the samples where the boolean masks (B,) are true."""
        window = self if camera is None else replace(self, camera=self.camera.without(camera))
        return window if text is None else replace(window, text=window.text * (~text).to(window.text.dtype)[:, None, None])


def make_window(
    first: Tensor,
    cameras: LatentCameras,
    start: Tensor,
    text: Tensor,
    history: Tensor | None = None,
    history_cameras: LatentCameras | None = None,
    history_ids: Tensor | None = None,
    rays_of: slice | None = None,
    ray_cache: RayCache | None = None,
) -> Window:
    """Returns the window of F latent frames.

    first:     (B, C, 1, h, w) the known first latent frame: the image's, or the anchor's
    cameras:   of the F latent frames, including the first
    start:     (B,) global latent time id of the first frame
    text:      (B, L, text_dim)
    history:   (B, C, K, h, w) clean latents with their cameras and (B, K) global ids
    rays_of:   the frames of K + F whose rays are computed; None means all (see `MoWorldTransformer3DModel.part`)
    ray_cache: of the rollout that the window belongs to; None makes one for this window
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
    selected = all_cameras[rays_of or slice(None)].relative_to(pose)
    return Window(condition, history, selected.rays(*CODEC_GRID.pixel_size(height, width), ray_cache or RayCache()).to(first), ids, text)


def predict_velocity(transformer: nn.Module, noisy: Tensor, level: Tensor, window: Window) -> Tensor:
    """Returns the velocity (B, C, F, h, w) of the window's noisy latents (eq. 1, 10, 16). History tokens have t = 0 and no target.

    noisy: (B, C, F, h, w); level: (B,) noise level of each sample, the same for all its frames
    """
    hidden_states, timestep, conditions, known = _inputs(transformer, noisy, level, window)
    return transformer(hidden_states, timestep, **conditions, return_dict=False)[0][:, :, known:]  # type: ignore[no-any-return]


class PreparedWindow:
    """A window prepared for the denoising steps of one expert. Velocities equal those of `predict_velocity`."""

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
    """Returns the transformer's latents, timestep and conditions, and the number of jointly attending history frames among the latents."""
    known, timestep = window.history.shape[2], level * NUM_TIMESTEPS
    conditions = {"encoder_hidden_states": window.text, "camera": window.camera, "frame_ids": window.frame_ids}
    if known and transformer.config.block_causal:
        conditions["history"] = torch.cat([window.history, window.condition[:, :, :known]], dim=1)
        return torch.cat([noisy, window.condition[:, :, known:]], dim=1), timestep, conditions, 0
    if known:  # without history one timestep per sample is enough, which saves a modulation per token
        timestep = timestep[:, None].expand(-1, known + noisy.shape[2]).clone()
        timestep[:, :known] = 0
    return torch.cat([torch.cat([window.history, noisy], dim=2), window.condition], dim=1), timestep, conditions, known
