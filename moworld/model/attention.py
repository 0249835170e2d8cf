"""Self-attention of a block: Wan's, to the bit, on one rank; over the tokens of all ranks where they share a sample."""

from typing import Any

import torch
from torch import Tensor

from moworld.model.sequence import Part, SequenceMesh


class SelfAttention:
    """A Diffusers attention processor. `sequence` and `part` are None where a rank holds all tokens of its samples.

    past:  keys and values (B, M, H, head_dim) of tokens that are attended to besides the own ones, rotated where they stand;
           where ranks share a sample, those of this rank's place in the ring with its heads
    known: how many tokens they are on all ranks
    """

    _attention_backend = None
    _parallel_config = None

    def __init__(self) -> None:
        self.sequence: SequenceMesh | None = None
        self.part: Part | None = None
        self.past: tuple[Tensor, Tensor] | None = None
        self.known = 0
        self._own: tuple[Tensor, Tensor] | None = None

    def take_own(self) -> tuple[Tensor, Tensor]:
        """The keys and values of the last call's own tokens, once: they are not kept alive here."""
        own, self._own, self.past = self._own, None, None
        assert own is not None
        return own

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """hidden_states: (B, N, D), this rank's tokens; rotary_emb: cosines and sines (1 or B, N, 1, head_dim) -> (B, N, D)."""
        query, key = (
            norm(to(hidden_states)).unflatten(2, (attn.heads, -1)) for norm, to in ((attn.norm_q, attn.to_q), (attn.norm_k, attn.to_k))
        )
        value = attn.to_v(hidden_states).unflatten(2, (attn.heads, -1))
        if rotary_emb is not None:
            query, key = rotate(query, *rotary_emb), rotate(key, *rotary_emb)
        if self.sequence is None or self.part is None:
            self._own = (key, value)
            if self.past is not None:
                key, value = (torch.cat(pair, dim=1) for pair in zip(self.past, (key, value), strict=True))
            query, key, value = (x.transpose(1, 2) for x in (query, key, value))
            output = torch.nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        else:
            query, key, value = (self.sequence.to_heads(x) for x in (query, key, value))
            self._own = (key, value)
            output = self.sequence.attend(query, key, value, self.part.total, self.past, self.known)
        return attn.to_out[0](output.flatten(2, 3).type_as(query))  # type: ignore[no-any-return]


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary positions: pairs (x1, x2) of the last dim are turned. x: (B, N, H, D); cosines and sines (1 or B, N, 1, D), each twice over."""
    x1, x2 = x.unflatten(-1, (-1, 2)).unbind(-1)
    cosines, sines = cosines[..., 0::2], sines[..., 1::2]
    return torch.stack([x1 * cosines - x2 * sines, x1 * sines + x2 * cosines], dim=-1).flatten(-2).type_as(x)
