"""Door `moworld bench`: hot paths side by side with what a user would otherwise pick."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.output import Json, err, out, print_json, print_table


class What(StrEnum):
    attention = "attention"
    parallel = "parallel"
    loader = "loader"
    contract = "contract"
    geometry = "geometry"
    rollout = "rollout"
    player = "player"


MAPS = ",".join(f"MAP{number:02d}" for number in range(1, 21))
NOTES = {
    What.parallel: "Diffusers' context parallel is not among the peers: it does not run on CPUs.",
    What.loader: "WebDataset and MosaicML Streaming are peers where they can be imported (PYTHONPATH); both store a clip as one sample.",
}


def bench(
    what: Annotated[
        What,
        typer.Argument(
            help="attention: of a block, and of a ring's key block; parallel: training steps on one and two ranks; loader: random windows of"
            " cached clips, and cached input against encoding; contract: a check of a million rows (not side by side);"
            " geometry: cameras recovered from game episodes, against the engine's (not side by side, minutes an episode); rollout: a"
            " session against Diffusers over a sliding window and against a KV cache, and how flat it stays; player: frames drawn and the time from a key to its frame in a headless Chromium, with the model"
            " that comes along, beside what is wanted."
        ),
    ],
    profile: Annotated[str, typer.Option(help="The profile whose sizes are measured.")] = "pocket",
    clips: Annotated[int, typer.Option(help="loader: clips of 2,001 frames that are written first.")] = 12,
    frames: Annotated[int, typer.Option(min=240, help="rollout: frames of the one session.")] = 10_000,
    maps: Annotated[str, typer.Option(help="geometry: levels, an episode each.")] = MAPS,
    json: Json = False,
) -> None:
    """Time a hot path beside its peer on this machine; a ratio above 1 says that ours is faster.

    Example: moworld bench attention
    """
    from pipelines import profile as profiles

    _, settings = profiles.load(profile)
    with err.status(f"bench {what}"):
        rows = _geometry(settings, maps) if what is What.geometry else _rows(what, settings, clips, frames)
    if json:
        print_json(rows)
        return
    print_table(f"bench {what}", list(rows[0]), [tuple(row.values()) for row in rows])
    if what in NOTES:
        out.print(NOTES[what], soft_wrap=True)


def _geometry(settings: Any, maps: str) -> list[dict[str, Any]]:
    from moworld.evaluation.bench_geometry import bench_geometry

    rows = []
    for row in bench_geometry(settings.geometry, tuple(maps.split(","))):
        rows.append(row)
        err.print(" ".join(f"{key} {value}" for key, value in row.items()))
    return rows


def _rows(what: What, settings: Any, clips: int, frames: int) -> list[dict[str, Any]]:
    data, longest = settings.data, settings.curriculum[-1]
    if what is What.attention:
        from moworld.evaluation.bench import bench_attention

        return bench_attention(settings.model, longest.num_latents * (data.height // 16) * (data.width // 16))
    if what is What.parallel:
        from moworld.evaluation.bench import bench_parallel

        return bench_parallel(settings.model, longest.frames, data.height, data.width, settings.text.length)
    if what is What.contract:
        from data_contracts.check import check_path
        from moworld.evaluation.bench_data import bench_contract

        def check(path: Path) -> int:
            return check_path(path, "geometry").quarantined

        return [bench_contract(check)]
    if what is What.player:
        from components.platform.registry import model_folder
        from moworld.evaluation.bench_player import bench_player

        return bench_player(model_folder(""))
    if what is What.rollout:
        return _rollout(settings, frames)
    from moworld.evaluation.bench_data import bench_caching, bench_loader
    from moworld.model.codec import CodecSettings

    fps = data.game.fps if data.game else 24.0
    return [
        *bench_loader(data.height, data.width, fps, clips),
        *bench_caching(data.height, data.width, fps, settings.codec or CodecSettings()),
    ]


def _rollout(settings: Any, frames: int) -> list[dict[str, Any]]:
    import tempfile

    from moworld.evaluation.bench_rollout import bench_rollout
    from moworld.model.codec import CodecSettings
    from moworld.model.world import WorldConfig

    data = settings.data
    config = WorldConfig(model=settings.model, text=settings.text, height=data.height, width=data.width, fps=data.game.fps)
    with tempfile.TemporaryDirectory() as folder:
        return bench_rollout(config, (settings.codec or CodecSettings()).hidden, Path(folder), frames)
