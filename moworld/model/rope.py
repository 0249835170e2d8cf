"""Rotary positions from global latent time ids (paper 4.2): the frames of a chunk and of its history keep their place in the sequence.

Positions 0 to F - 1 are Wan's, bit for bit. Ids beyond the configured table extend it, so that worlds longer than 1024 latent frames have
distinct positions.
"""

import torch
from torch import Tensor, nn

from moworld.model.latent_grid import LatentGrid

Rotary = tuple[Tensor, Tensor]
THETA = 10000.0


class GlobalRotaryPosEmbed(nn.Module):
    """Wan's 3-D rotary embedding, with explicit ids on the time axis. Its tables are computed, not stored.

    dims: of a head, those of time, rows and columns
    """

    freqs_cos: Tensor
    freqs_sin: Tensor

    def __init__(self, head_dim: int, patch_size: tuple[int, int, int], positions: int) -> None:
        super().__init__()
        space = 2 * (head_dim // 6)
        self.dims, self.patch_size = (head_dim - 2 * space, space, space), patch_size
        cosines, sines = self._tables(positions)
        self.register_buffer("freqs_cos", cosines, persistent=False)
        self.register_buffer("freqs_sin", sines, persistent=False)

    def forward(self, frame_ids: Tensor, height: int, width: int) -> Rotary:
        """Returns the cosines and sines of all tokens: two tensors (1 or B, N, 1, head_dim), N = F * height / p * width / p, time outermost.

        frame_ids: (F,) or (B, F) integer latent time ids; height, width: of the latents
        """
        ids = frame_ids if frame_ids.ndim == 2 else frame_ids[None]
        if (last := int(ids.max())) >= self.freqs_cos.shape[0]:
            self._extend_to(last + 1)
        rows, columns = LatentGrid(self.patch_size).token_size(height, width)
        return self._gather(self.freqs_cos, ids, rows, columns), self._gather(self.freqs_sin, ids, rows, columns)

    def _gather(self, table: Tensor, ids: Tensor, rows: int, columns: int) -> Tensor:
        time, height, width = table.split(self.dims, dim=1)
        shape = (*ids.shape, rows, columns, -1)
        parts = (time[ids][:, :, None, None].expand(shape), height[:rows, None].expand(shape), width[:columns].expand(shape))
        return torch.cat(parts, dim=-1).flatten(1, 3).unsqueeze(2)  # (B, N, 1, head_dim)

    def _tables(self, positions: int) -> Rotary:
        """Returns cosines and sines (positions, head_dim) float32 on the CPU; each angle stands twice, for the two numbers that it turns."""
        angles = torch.cat([_angles(positions, dim) for dim in self.dims], dim=1).repeat_interleave(2, dim=1)
        return angles.cos().float(), angles.sin().float()

    def _extend_to(self, positions: int) -> None:
        positions = 1 << (positions - 1).bit_length()  # powers of two: a growing world extends the table rarely
        cosines, sines = self._tables(positions)
        self.freqs_cos, self.freqs_sin = cosines.to(self.freqs_cos), sines.to(self.freqs_sin)


def _angles(positions: int, dim: int) -> Tensor:
    """Returns the angles (positions, dim / 2) float64 of one axis."""
    powers = torch.arange(0, dim, 2, dtype=torch.float64, device="cpu") / dim
    return torch.outer(torch.arange(positions, device="cpu").double(), 1.0 / THETA**powers)
