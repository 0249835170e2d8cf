"""Key names of the layouts: Wan2.2's own and Diffusers'. The published MoWorld base has Wan's names and the camera adapter.

Shapes are the same in all of them; only names differ. A rule is a pair of prefixes; the same table serves both directions.
"""

import re

WAN, DIFFUSERS, MOWORLD = "wan", "diffusers", "moworld"
LAYOUTS = (WAN, DIFFUSERS, MOWORLD)
ADAPTER = "control_adapter."
GATE = f"{ADAPTER}gate"

TOP = (
    ("time_embedding.0.", "condition_embedder.time_embedder.linear_1."),
    ("time_embedding.2.", "condition_embedder.time_embedder.linear_2."),
    ("text_embedding.0.", "condition_embedder.text_embedder.linear_1."),
    ("text_embedding.2.", "condition_embedder.text_embedder.linear_2."),
    ("time_projection.1.", "condition_embedder.time_proj."),
    ("head.modulation", "scale_shift_table"),
    ("head.head.", "proj_out."),
)
BLOCK = (
    ("modulation", "scale_shift_table"),
    ("norm3.", "norm2."),  # the norm before cross-attention; Wan's own norm2 has no weights
    *((f"self_attn.{name}.", f"attn1.to_{name}.") for name in "qkv"),
    ("self_attn.o.", "attn1.to_out.0."),
    ("self_attn.norm_", "attn1.norm_"),
    *((f"cross_attn.{name}.", f"attn2.to_{name}.") for name in "qkv"),
    ("cross_attn.o.", "attn2.to_out.0."),
    ("cross_attn.norm_", "attn2.norm_"),
    ("ffn.0.", "ffn.net.0.proj."),
    ("ffn.2.", "ffn.net.2."),
)
_BLOCK_KEY = re.compile(r"(blocks\.\d+\.)(.*)")


def to_diffusers(key: str) -> str:
    """Returns the Diffusers name of a key of Wan's layout or of the published base; a key without a rule is unchanged."""
    return _renamed(key, 0, 1)


def from_diffusers(key: str) -> str:
    """Inverse of `to_diffusers`."""
    return _renamed(key, 1, 0)


def layout_of(keys: list[str]) -> str | None:
    """Returns the layout of a checkpoint's keys, or None if it is unknown."""
    if any(".attn1.to_q." in key for key in keys):
        return DIFFUSERS
    if any(".self_attn.q." in key for key in keys):
        return MOWORLD if any(key.startswith(ADAPTER) for key in keys) else WAN
    return None


def _renamed(key: str, old: int, new: int) -> str:
    block = _BLOCK_KEY.fullmatch(key)
    prefix, rest = block.groups() if block else ("", key)
    for rule in BLOCK if block else TOP:
        if rest.startswith(rule[old]):
            return prefix + rule[new] + rest[len(rule[old]) :]
    return key
