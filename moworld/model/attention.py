"""Attention of a block: Wan's, to the bit, on one rank; over the tokens of all ranks where they share a sample."""

from typing import Any

import torch
from torch import Tensor

from kernels.int8_linear import int8_linear
from kernels.qk_norm_rope import qk_norm_rope
from kernels.sdpa import sdpa
from moworld.model.int8 import Int8Linear, side_by_side
from moworld.model.rope import Rotary
from moworld.model.sequence import Part, SequenceMesh
from moworld.model.weights import lasting_memory

KeysValues = tuple[Tensor, Tensor]


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
        self.past: KeysValues | None = None
        self.known = 0
        self._own: KeysValues | None = None

    def take_own(self) -> KeysValues:
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
        rotary_emb: Rotary | None = None,
    ) -> Tensor:
        """hidden_states: (B, N, D), this rank's tokens; rotary_emb: cosines and sines (1 or B, N, 1, head_dim) -> (B, N, D)."""
        assert rotary_emb is not None
        query, key, value = self._project(attn, hidden_states)
        query, key = qk_norm_rope(query, key, attn.norm_q.weight, attn.norm_k.weight, *rotary_emb, eps=attn.norm_q.eps)
        value = value.unflatten(2, (attn.heads, -1))
        if self.sequence is None or self.part is None:
            self._own = (key, value)
            if self.past is not None:
                key, value = (torch.cat(pair, dim=1) for pair in zip(self.past, (key, value), strict=True))
            output = attend(query, key, value)
        else:
            query, key, value = (self.sequence.to_heads(x) for x in (query, key, value))
            self._own = (key, value)
            output = self.sequence.attend(query, key, value, self.part.total, self.past, self.known)
        return attn.to_out[0](output.flatten(2, 3).type_as(query))  # type: ignore[no-any-return]

    def keys_values(self, attn: Any, hidden_states: Tensor, rotary_emb: Rotary) -> KeysValues:
        """Keys and values (B, N, H, head_dim) alone, for tokens whose output nobody reads."""
        key, value, weight = attn.to_k(hidden_states), attn.to_v(hidden_states), attn.norm_k.weight
        _, key = qk_norm_rope(key, key, weight, weight, *rotary_emb, eps=attn.norm_k.eps)  # one operator: keys stand in for the queries
        value = value.unflatten(2, (attn.heads, -1))
        if self.sequence is None or self.part is None:
            return key, value
        return self.sequence.to_heads(key), self.sequence.to_heads(value)

    def _project(self, attn: Any, hidden_states: Tensor) -> tuple[Tensor, ...]:
        """Query, key and value (B, N, D). INT8 layers quantize the tokens once for all three, in one product."""
        linears = (attn.to_q, attn.to_k, attn.to_v)
        if not isinstance(attn.to_q, Int8Linear):
            return tuple(linear(hidden_states) for linear in linears)
        return int8_linear(hidden_states, *side_by_side(linears)).chunk(3, dim=-1)


class CrossAttention:
    """A Diffusers attention processor: attention to text, whose keys and values are the same in all denoising steps of a window.

    kept: room for one block's keys and values: filled by the first step, read by the others. None: they are computed anew
    """

    _attention_backend = None
    _parallel_config = None

    def __init__(self) -> None:
        self.kept: KeptText | None = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """hidden_states: (B, N, D); encoder_hidden_states: (B, L, D) text -> (B, N, D)."""
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        if self.kept is not None and self.kept.filled:
            key, value = self.kept.pair
        else:
            key, value = attn.norm_k(attn.to_k(encoder_hidden_states)), attn.to_v(encoder_hidden_states)
            key, value = key.unflatten(2, (attn.heads, -1)), value.unflatten(2, (attn.heads, -1))
            if self.kept is not None:
                key, value = self.kept.fill(key, value)
        return attn.to_out[0](attend(query, key, value).flatten(2, 3).type_as(query))  # type: ignore[no-any-return]


class KeptText:
    """Room for the keys and values (B, L, H, head_dim) of text in one block of a transformer.

    The first block that fills its room takes that of all: small tensors that stay, taken one by one between activations, would keep what
    these leave from being used again (a fifth more memory at 24 blocks).
    """

    def __init__(self, index: int, count: int, room: list[KeysValues]) -> None:
        self.index, self.count, self.room, self.filled = index, count, room, False

    @staticmethod
    def rooms(count: int) -> "list[KeptText]":
        """One for each of `count` blocks."""
        room = list[KeysValues]()
        return [KeptText(index, count, room) for index in range(count)]

    @property
    def pair(self) -> KeysValues:
        return self.room[self.index]

    def fill(self, key: Tensor, value: Tensor) -> KeysValues:
        """Keep the keys and values; returns what is kept."""
        if not self.room:
            self.room += [(pair[0], pair[1]) for pair in lasting_memory((self.count, 2, *key.shape), key.dtype, key.device)]
        self.filled = True
        return self.pair[0].copy_(key), self.pair[1].copy_(value)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v of (B, N, H, D) and (B, M, H, D) -> (B, N, H, D)."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    return sdpa(query, key, value).transpose(1, 2)
