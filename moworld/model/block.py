"""A block of the transformer: the parameters of Diffusers' Wan block and, bit for bit, its results; attention is in `attention`."""

import math

from torch import Tensor, nn
from torch.nn import functional

from moworld.kernels.modulated_norm import modulated_norm
from moworld.model.attention import TextCache, cross_attention, keys_values, self_attention
from moworld.model.int8 import Int8Linear
from moworld.model.layers import Attention, FeedForward, Float32LayerNorm, modulation_table
from moworld.model.rope import Rotary
from moworld.model.sequence import KeysValues, Part


class TransformerBlock(nn.Module):
    """Self-attention, attention to text, feed-forward, each after a norm; the first and last are modulated by the noise level (adaLN).

    width: D, the numbers of a token; hidden: those between the layers of the feed-forward
    index: of the block in its transformer
    """

    def __init__(self, width: int, hidden: int, heads: int, text_norm: bool = True, eps: float = 1e-6, index: int = 0) -> None:
        super().__init__()
        self.index, self.eps = index, eps
        self.attn1, self.attn2 = Attention(width, heads, eps), Attention(width, heads, eps)
        self.norm2 = Float32LayerNorm(width, eps) if text_norm else nn.Identity()
        self.ffn = FeedForward(width, hidden)
        self.scale_shift_table = modulation_table(6, width)

    def forward(
        self,
        x: Tensor,
        text: Tensor,
        modulation: Tensor,
        rotary: Rotary,
        part: Part | None = None,
        past: KeysValues | None = None,
        text_cache: TextCache | None = None,
        kv_only: bool = False,
    ) -> tuple[Tensor, KeysValues]:
        """Returns the block's output (B, N, D), and the keys and values of its tokens.

        x:       (B, N, D) tokens; text: (B, L, D); modulation: (B, 6, D), or (B, N, 6, D) per token
        rotary:  cosines and sines (1 or B, N, 1, head_dim); part, past: see `self_attention`
        kv_only: compute keys and values only, and return x unchanged
        """
        shift, scale, gate, ff_shift, ff_scale, ff_gate = (self.scale_shift_table + modulation.float()).unbind(-2)
        if modulation.ndim == 3:
            shift, scale, gate, ff_shift, ff_scale, ff_gate = (m.unsqueeze(1) for m in (shift, scale, gate, ff_shift, ff_scale, ff_gate))
        normed = modulated_norm(x, scale, shift, self.eps)
        if kv_only:
            return x, keys_values(self.attn1, normed, rotary, part)
        attended, own = self.attend(normed, rotary, part, past)
        x = (x.float() + attended * gate).type_as(x)
        x = x + cross_attention(self.attn2, self.norm2(x.float()).type_as(x), text, text_cache, self.index)
        normed = modulated_norm(x, ff_scale, ff_shift, self.eps)
        return (x.float() + self._feed_forward(normed).float() * ff_gate).type_as(x), own

    def attend(self, x: Tensor, rotary: Rotary, part: Part | None, past: KeysValues | None) -> tuple[Tensor, KeysValues]:
        """`self_attention` of this block; benchmarks override it with other implementations."""
        return self_attention(self.attn1, x, rotary, part, past)

    def _feed_forward(self, x: Tensor) -> Tensor:
        first, last = self.ffn.net[0].proj, self.ffn.net[2]
        return last(gelu(first(x))) if isinstance(last, Int8Linear) else self.ffn(x)  # type: ignore[no-any-return]


def gelu(x: Tensor) -> Tensor:
    """Returns GELU in its tanh form. On CPUs as x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3): equal to rounding, 3 times as fast."""
    if x.device.type != "cpu":
        return functional.gelu(x, approximate="tanh")
    double = 2 * math.sqrt(2 / math.pi)
    return (x * x).mul_(0.044715 * double).add_(double).mul_(x).sigmoid_().mul_(x)
