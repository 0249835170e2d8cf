"""Layers of Wan2.2's transformer: parameters under the names of Diffusers' layout, drawn in its order, so that a seed gives the same weights.

They are written here because importing Diffusers takes more than twice as long as importing torch, in every command and step that opens a model.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MAX_PERIOD = 10000.0


class Attention(nn.Module):
    """The parameters of multi-head attention, with RMS norms over all heads of queries and keys. `moworld.model.attention` computes with them."""

    to_out: Any

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.norm_q, self.norm_k = nn.RMSNorm(width, eps=eps), nn.RMSNorm(width, eps=eps)


class Projection(nn.Module):
    """A linear layer `proj` and GELU in its tanh form."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """Two linear layers with GELU between them: (..., D) -> (..., D)."""

    net: Any

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([Projection(width, hidden), nn.Identity(), nn.Linear(hidden, width)])  # the layout counts a dropout

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))  # type: ignore[no-any-return]


class Float32LayerNorm(nn.LayerNorm):
    """A layer norm that computes in float32 and returns its input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps).type_as(x)


class Embedding(nn.Module):
    """Two linear layers with an activation between them: (..., K) -> (..., D)."""

    def __init__(self, inputs: int, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.linear_1, self.activation, self.linear_2 = nn.Linear(inputs, width), activation, nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self.activation(self.linear_1(x)))  # type: ignore[no-any-return]


class ConditionEmbedder(nn.Module):
    """Embeds noise levels and text."""

    def __init__(self, width: int, freq_dim: int, text_dim: int) -> None:
        super().__init__()
        self.freq_dim = freq_dim
        self.time_embedder = Embedding(freq_dim, width, nn.SiLU())
        self.time_proj = nn.Linear(width, 6 * width)
        self.text_embedder = Embedding(text_dim, width, nn.GELU(approximate="tanh"))

    def embed_time(self, timestep: Tensor) -> Tensor:
        """Returns the embedding (..., D) of timesteps (...), 0 (clean) to 1000 (noise)."""
        waves = timestep_waves(timestep, self.freq_dim)
        return self.time_embedder(waves.to(self.time_embedder.linear_1.weight.dtype))  # type: ignore[no-any-return]

    def modulate(self, temb: Tensor) -> Tensor:
        """Returns the modulation (..., 6, D) of the blocks for time embeddings (..., D)."""
        return self.time_proj(functional.silu(temb)).unflatten(-1, (6, -1))  # type: ignore[no-any-return]


def timestep_waves(timestep: Tensor, channels: int) -> Tensor:
    """Returns cosines and sines (..., channels) float32 of timesteps (...), with periods from 2 pi to nearly 2 pi `MAX_PERIOD`.

    channels: even
    """
    half = channels // 2
    frequencies = torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, dtype=torch.float32, device=timestep.device) / half)
    angles = timestep.float().unsqueeze(-1) * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def modulation_table(rows: int, width: int) -> nn.Parameter:
    """Returns what is added to `rows` modulations (1, rows, width), drawn as Wan's. On the meta device nothing is drawn: it would import sympy."""
    table = torch.empty(1, rows, width)
    return nn.Parameter(table if table.is_meta else torch.randn(1, rows, width) / width**0.5)
