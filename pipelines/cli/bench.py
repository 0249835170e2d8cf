"""Door `moworld bench`: hot paths side by side with what a user would otherwise pick."""

from enum import StrEnum
from typing import Annotated

import typer

from pipelines.cli.output import Json, err, out, print_json, print_table


class What(StrEnum):
    attention = "attention"
    parallel = "parallel"


def bench(
    what: Annotated[
        What, typer.Argument(help="attention: of a block, and of a ring's key block; parallel: training steps on one and two ranks.")
    ],
    profile: Annotated[str, typer.Option(help="The profile whose model is measured.")] = "pocket",
    json: Json = False,
) -> None:
    """Time a hot path beside its peer on this machine; a ratio above 1 says that ours is faster.

    Example: moworld bench attention
    """
    from moworld.evaluation.bench import bench_attention, bench_parallel
    from pipelines import profile as profiles

    _, settings = profiles.load(profile)
    data, longest = settings.data, settings.curriculum[-1]
    tokens = longest.num_latents * (data.height // 16) * (data.width // 16)
    with err.status(f"{what} on {tokens} tokens"):
        if what is What.attention:
            rows = bench_attention(settings.model, tokens)
        else:
            rows = bench_parallel(settings.model, longest.frames, data.height, data.width, settings.text.length)
    if json:
        print_json(rows)
        return
    print_table(f"bench {what}", ("case", "ours", "peer", "peer is", "ratio", "unit"), [tuple(row.values()) for row in rows])
    if what is What.parallel:
        out.print("Diffusers' context parallel is not among the peers: it does not run on CPUs.")
