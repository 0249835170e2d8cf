"""Door `moworld bench`: hot paths side by side with what a user would otherwise pick."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from moworld.errors import InputError
from pipelines.cli.output import Json, err, out, print_json, print_table


class What(StrEnum):
    attention = "attention"
    linear = "linear"
    parallel = "parallel"
    pipeline = "pipeline"
    loader = "loader"
    contract = "contract"
    geometry = "geometry"
    rollout = "rollout"
    kernels = "kernels"
    player = "player"


MAPS = ",".join(f"MAP{number:02d}" for number in range(1, 21))
NOTES = {
    What.linear: "torchao is among the peers where it can be imported (PYTHONPATH). Weights are random: the first chunk says what rounding does, not what it costs a trained model.",
    What.parallel: "Diffusers' context parallel is not among the peers: it does not run on CPUs.",
    What.loader: "WebDataset and MosaicML Streaming are peers where they can be imported (PYTHONPATH); both store a clip as one sample.",
}


def bench(
    what: Annotated[
        What,
        typer.Argument(
            help="attention: of a block, and of a ring's key block; linear: INT8 against float32, bfloat16 and torchao, a layer and a chunk;"
            " parallel: training steps on one and two ranks; pipeline: a run against its steps alone; loader: random windows of"
            " cached clips, and cached input against encoding; contract: a check of a million rows (not side by side);"
            " geometry: cameras recovered from game episodes, against the engine's (not side by side, minutes an episode); rollout: a"
            " session against Diffusers over a sliding window and against a KV cache, and how flat it stays; player: frames drawn and the time from a key to its frame in a headless Chromium, with the model"
            " that comes along, beside what is wanted."
        ),
    ],
    profile: Annotated[str, typer.Option(help="The profile whose sizes are measured.")] = "pocket",
    clips: Annotated[int, typer.Option(help="loader: clips of 2,001 frames that are written first; as many as windows are read, so that few come from the cache.")] = 64,
    frames: Annotated[int, typer.Option(min=240, help="rollout: frames of the one session.")] = 10_000,
    maps: Annotated[str, typer.Option(help="geometry: levels, an episode each.")] = MAPS,
    size: Annotated[
        str, typer.Option(help="linear, rollout, kernels: HEIGHTxWIDTH in pixels instead of the profile's, such as 96x160.")
    ] = "",
    full_precision: Annotated[bool, typer.Option("--float32", help="rollout: a session in float32 instead of INT8.")] = False,
    json: Json = False,
) -> None:
    """Time a hot path beside its peer on this machine; a ratio above 1 says that ours is faster.

    Example: moworld bench attention
    """
    from pipelines import profile as profiles

    _, settings = profiles.load(profile)
    with err.status(f"bench {what}"):
        if what is What.kernels:
            rows = _kernels(settings, _pixels(size, settings))
        elif what is What.geometry:
            rows = _geometry(settings, maps)
        elif what in (What.linear, What.rollout):
            rows = _of_a_world(what, settings, _pixels(size, settings), frames, not full_precision)
        else:
            rows = _rows(what, profile, settings, clips)
    if json:
        print_json(rows)
        return
    if what is What.kernels:  # rows of several kinds, told as they were measured
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


def _kernels(settings: Any, pixels: tuple[int, int]) -> list[dict[str, Any]]:
    import torch

    from moworld.evaluation.bench_kernels import bench_kernels, line
    from moworld.model.world import WorldConfig

    if not torch.cuda.is_available():
        raise InputError("bench", "kernels", "no NVIDIA GPU", "one that PyTorch sees", "run it where there is one")
    config, rows = WorldConfig(model=settings.model, text=settings.text, height=pixels[0], width=pixels[1], fps=16.0), []
    for row in bench_kernels(config):
        rows.append(row)
        err.print(line(row), markup=False, highlight=False)
    return rows


def _rows(what: What, profile: str, settings: Any, clips: int) -> list[dict[str, Any]]:
    data, longest = settings.data, settings.curriculum[-1]
    if what is What.attention:
        from moworld.evaluation.bench import bench_attention

        return bench_attention(settings.model, longest.num_latents * settings.model.tokens_per_frame(data.height, data.width))
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
    if what is What.pipeline:
        from pipelines.bench_pipeline import bench_pipeline

        return bench_pipeline(profile)
    from moworld.evaluation.bench_data import bench_caching, bench_loader
    from moworld.model.codec import CodecSettings

    fps = data.game.fps if data.game else 24.0
    return [
        *bench_loader(data.height, data.width, fps, clips),
        *bench_caching(data.height, data.width, fps, settings.codec or CodecSettings()),
    ]


def _pixels(size: str, settings: Any) -> tuple[int, int]:
    """HEIGHTxWIDTH, or the profile's."""
    if not size:
        return settings.data.height, settings.data.width
    height, _, width = size.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width) and int(height) % 16 == 0 and int(width) % 16 == 0):
        raise InputError("--size", "", size, "HEIGHTxWIDTH, multiples of 16, such as 96x160", "give both in pixels")
    return int(height), int(width)


def _of_a_world(what: What, settings: Any, pixels: tuple[int, int], frames: int, int8: bool) -> list[dict[str, Any]]:
    import tempfile

    from moworld.evaluation.bench_int8 import bench_linear
    from moworld.evaluation.bench_rollout import bench_rollout
    from moworld.model.codec import CodecSettings
    from moworld.model.world import WorldConfig

    fps = settings.data.game.fps if settings.data.game else 24.0
    config = WorldConfig(model=settings.model, text=settings.text, height=pixels[0], width=pixels[1], fps=fps)
    hidden = (settings.codec or CodecSettings()).hidden
    with tempfile.TemporaryDirectory() as folder:
        if what is What.linear:
            return bench_linear(config, hidden, Path(folder))
        return bench_rollout(config, hidden, Path(folder), frames, int8=int8)
