"""Rotary positions from global latent time ids (paper 4.2): a chunk keeps its place in the whole sequence, and history keeps its own.

Without ids the positions are Wan's, to the bit. Ids beyond the configured table extend it, so that worlds longer than 1024 latent frames
keep distinct positions.
"""

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import Tensor

Rotary = tuple[Tensor, Tensor]


class GlobalRotaryPosEmbed(WanRotaryPosEmbed):
    """Wan's 3-D rotary embedding whose time axis is gathered at explicit ids."""

    freqs_cos: Tensor
    freqs_sin: Tensor

    def forward(self, hidden_states: Tensor, frame_ids: Tensor | None = None) -> Rotary:
        """Cosines and sines for every token.

        hidden_states: (B, C, F, H, W) latents, of which only the shape and the device are read
        frame_ids:     (F,) or (B, F) integer latent time ids; None means 0 to F - 1
        returns:       two tensors (1 or B, N, 1, head_dim), N = F * H/p * W/p, time outermost
        """
        if frame_ids is None:
            return super().forward(hidden_states)  # type: ignore[return-value]
        ids = frame_ids if frame_ids.ndim == 2 else frame_ids[None]
        rows, columns = hidden_states.shape[3] // self.patch_size[1], hidden_states.shape[4] // self.patch_size[2]
        last = int(ids.max())
        if last >= self.freqs_cos.shape[0]:
            self._extend_to(last + 1)
        return self._gather(self.freqs_cos, ids, rows, columns), self._gather(self.freqs_sin, ids, rows, columns)

    def _gather(self, table: Tensor, ids: Tensor, rows: int, columns: int) -> Tensor:
        time, height, width = table.split([self.t_dim, self.h_dim, self.w_dim], dim=1)
        batch, frames = ids.shape
        shape = (batch, frames, rows, columns, -1)
        parts = (
            time[ids].view(batch, frames, 1, 1, -1).expand(shape),
            height[:rows].view(1, 1, rows, 1, -1).expand(shape),
            width[:columns].view(1, 1, 1, columns, -1).expand(shape),
        )
        return torch.cat(parts, dim=-1).flatten(1, 3).unsqueeze(2)  # (B, N, 1, head_dim)

    def _extend_to(self, positions: int) -> None:
        positions = 1 << (positions - 1).bit_length()  # powers of two: a growing world extends the table rarely
        tables = [
            get_1d_rotary_pos_embed(dim, positions, 10000.0, use_real=True, repeat_interleave_real=True, freqs_dtype=torch.float64)
            for dim in (self.t_dim, self.h_dim, self.w_dim)
        ]
        self.freqs_cos = torch.cat([cos for cos, _ in tables], dim=1).to(self.freqs_cos)
        self.freqs_sin = torch.cat([sin for _, sin in tables], dim=1).to(self.freqs_sin)
