"""A block of the transformer: Wan's parameters and arithmetic, to the bit, with what a window prepares once and reads in every step."""

import math

from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import Tensor
from torch.nn import functional

from kernels.modulated_norm import modulated_norm
from moworld.model.attention import CrossAttention, KeptText, KeysValues, SelfAttention
from moworld.model.int8 import Int8Linear
from moworld.model.rope import Rotary
from moworld.model.sequence import Part


class TransformerBlock(WanTransformerBlock):
    """Self-attention, attention to text, feed-forward; each behind a norm, the first and last modulated by the noise level (adaLN)."""

    @staticmethod
    def adopt(block: WanTransformerBlock) -> None:
        """Make a block of Diffusers one of these, in place: the parameters stay as they were initialised."""
        block.__class__ = TransformerBlock
        block.attn1.set_processor(SelfAttention())
        block.attn2.set_processor(CrossAttention())

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        text: Tensor,
        modulation: Tensor,
        rotary: Rotary,
        part: Part | None = None,
        past: KeysValues | None = None,
        known: int = 0,
        text_kept: KeptText | None = None,
        keys_alone: bool = False,
    ) -> tuple[Tensor, KeysValues]:
        """One block: the tokens (B, N, D) after it, and the keys and values of these tokens.

        text:       (B, L, D); modulation: (B, 6, D), or (B, N, 6, D) one per token; rotary: see `rope`
        part, past, known: see `SelfAttention`; text_kept: see `CrossAttention`
        keys_alone: for tokens whose output nobody reads: x is handed back as it came
        """
        shift, scale, gate, ff_shift, ff_scale, ff_gate = (self.scale_shift_table + modulation.float()).unbind(-2)
        if modulation.ndim == 3:
            shift, scale, gate, ff_shift, ff_scale, ff_gate = (m.unsqueeze(1) for m in (shift, scale, gate, ff_shift, ff_scale, ff_gate))
        attention, cross = self.attn1.processor, self.attn2.processor
        normed = modulated_norm(x, scale, shift, self.norm1.eps)
        attention.part, attention.past, attention.known, cross.kept = part, past, known, text_kept
        if keys_alone:
            return x, attention.keys_values(self.attn1, normed, rotary)
        x = (x.float() + self.attn1(normed, None, None, rotary) * gate).type_as(x)
        x = x + self.attn2(self.norm2(x.float()).type_as(x), text, None, None)
        normed = modulated_norm(x, ff_scale, ff_shift, self.norm3.eps)
        x = (x.float() + self._feed_forward(normed).float() * ff_gate).type_as(x)
        return x, attention.take_own()

    def _feed_forward(self, x: Tensor) -> Tensor:
        first, last = self.ffn.net[0].proj, self.ffn.net[2]
        return last(gelu(first(x))) if isinstance(last, Int8Linear) else self.ffn(x)  # type: ignore[no-any-return]


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form; on CPUs as x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3): equal to rounding, in a third of the time."""
    if x.device.type != "cpu":
        return functional.gelu(x, approximate="tanh")
    double = 2 * math.sqrt(2 / math.pi)
    return (x * x).mul_(0.044715 * double).add_(double).mul_(x).sigmoid_().mul_(x)
