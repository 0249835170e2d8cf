"""Rotary positions from global latent time ids (paper 4.2): the frames of a chunk and of its history keep their place in the sequence.

Positions 0 to F - 1 are Wan's, bit for bit. Ids beyond the configured table extend it, so that worlds longer than 1024 latent frames have
distinct positions.
"""

import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import Tensor

from moworld.model.latent_grid import LatentGrid

Rotary = tuple[Tensor, Tensor]


class GlobalRotaryPosEmbed(WanRotaryPosEmbed):
    """Wan's 3-D rotary embedding, with explicit ids on the time axis."""

    freqs_cos: Tensor
    freqs_sin: Tensor

    def forward(self, frame_ids: Tensor, height: int, width: int) -> Rotary:  # type: ignore[override]
        """Returns the cosines and sines of all tokens: two tensors (1 or B, N, 1, head_dim), N = F * height / p * width / p, time outermost.

        frame_ids: (F,) or (B, F) integer latent time ids; height, width: of the latents
        """
        ids = frame_ids if frame_ids.ndim == 2 else frame_ids[None]
        if (last := int(ids.max())) >= self.freqs_cos.shape[0]:
            self._extend_to(last + 1)
        rows, columns = LatentGrid(self.patch_size).token_size(height, width)
        return self._gather(self.freqs_cos, ids, rows, columns), self._gather(self.freqs_sin, ids, rows, columns)

    def _gather(self, table: Tensor, ids: Tensor, rows: int, columns: int) -> Tensor:
        time, height, width = table.split([self.t_dim, self.h_dim, self.w_dim], dim=1)
        shape = (*ids.shape, rows, columns, -1)
        parts = (time[ids][:, :, None, None].expand(shape), height[:rows, None].expand(shape), width[:columns].expand(shape))
        return torch.cat(parts, dim=-1).flatten(1, 3).unsqueeze(2)  # (B, N, 1, head_dim)

    def _extend_to(self, positions: int) -> None:
        positions = 1 << (positions - 1).bit_length()  # powers of two: a growing world extends the table rarely
        longer = WanRotaryPosEmbed(self.attention_head_dim, self.patch_size, positions)
        self.freqs_cos, self.freqs_sin = longer.freqs_cos.to(self.freqs_cos), longer.freqs_sin.to(self.freqs_sin)
