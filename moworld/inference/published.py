"""The plan's formula beside published times of the same work on Ascend cards. It shows what utilization the plan needs, and how it scales.

The work is Wan2.1-14B image-to-video in MindIE-SD on Atlas 800I A2: 832x480, 81 frames, 50 steps, each with and without text.
"""

from typing import Any

from moworld.inference.placement import decoder_costs, exchange_seconds
from moworld.inference.ranks import split_ranks
from moworld.model.costs import forward_flops, prepare_flops
from moworld.model.settings import Device, ModelSettings

WORK = "Wan2.1-14B image-to-video, 832x480, 81 frames, 50 steps with guidance, MindIE-SD on Atlas 800I A2"
SECONDS = {1: 860.2, 4: 147.9, 8: 76.4}  # by number of cards
CACHED_SECONDS = 516.9  # on one card, with MindIE-SD's cache: a speed-up of 3.5 on 4 cards and 6.8 on 8 would be from here
WAN = ModelSettings(num_layers=40, num_attention_heads=40, attention_head_dim=128, ffn_dim=13824, text_dim=4096)
HEIGHT, WIDTH, TEXT, LATENTS, PASSES = 480, 832, 512, 21, 2 * 50


def compare_with_published(device: Device) -> dict[str, Any]:
    """Returns {"work", "operations", "utilization", "cached_seconds", "rows"}; a row per number of cards.

    utilization: the share of `device.flops` with which one card needs the published time; that of the profile is not used
    rows:        {"cards", "published_seconds", "published_speedup", "planned_seconds", "ratio"}; ratio is planned by published. On one
                 card it is 1, because the utilization is fitted there
    """
    tokens = LATENTS * WAN.tokens_per_frame(HEIGHT, WIDTH)
    one_pass = forward_flops(WAN, LATENTS, tokens, TEXT) - prepare_flops(WAN, LATENTS, tokens, TEXT)  # Wan has no cameras
    operations = PASSES * one_pass + decoder_costs(HEIGHT, WIDTH, LATENTS, own_codec=False)[1]
    rate, rows = operations / SECONDS[1], []
    for cards, published in SECONDS.items():
        ulysses, ring = split_ranks(WAN.num_attention_heads, cards)
        planned = operations / rate / cards + exchange_seconds(WAN, tokens * PASSES, tokens * PASSES, ulysses, ring, device, per_node=8)
        rows.append({
            "cards": cards, "published_seconds": published, "published_speedup": SECONDS[1] / published, "planned_seconds": planned,
            "ratio": planned / published,
        })  # fmt: skip
    fitted = rate / device.flops
    return {"work": WORK, "operations": operations, "utilization": fitted, "cached_seconds": CACHED_SECONDS, "rows": rows}
