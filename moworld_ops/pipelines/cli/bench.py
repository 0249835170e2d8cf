"""CLI command `bench`: hot paths beside the implementation that a user would otherwise take."""

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from moworld.errors import InputError
from moworld_ops.pipelines.cli import completion
from moworld_ops.pipelines.cli.layout import Json, option
from moworld_ops.pipelines.cli.output import note, print_json, print_table, working


class Case(StrEnum):
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
    backends = "backends"
    environments = "environments"
    serve = "serve"
    gaussians = "gaussians"


MAPS = ",".join(f"MAP{number:02d}" for number in range(1, 21))
NOTES = {
    Case.linear: "torchao is a peer if it can be imported (PYTHONPATH). Weights are random: the first chunk measures rounding,"
    " not the cost for a trained model.",
    Case.parallel: "Diffusers' context parallelism is not a peer: it does not run on CPUs.",
    Case.loader: "WebDataset and MosaicML Streaming are peers if they can be imported (PYTHONPATH); both store a clip as one sample.",
}


def bench(
    case: Annotated[Case, typer.Argument(metavar="CASE", help=f"One of {', '.join(Case)}; described above.")],
    profile: Annotated[str, option("Profile whose sizes are measured.", autocompletion=completion.profiles)] = "pocket",
    size: Annotated[str, option("linear, rollout, kernels, gaussians: pixels, as in 96x160; default: the profile's.", metavar="HEIGHTxWIDTH")] = "",
    clips: Annotated[int, option("loader: number of clips of 2,001 frames; as many windows are read.")] = 64,
    frames: Annotated[int, option("rollout: frames of the session.", min=240)] = 10_000,
    full_precision: Annotated[bool, option("rollout: float32 instead of INT8.", "--float32")] = False,
    maps: Annotated[str, option("geometry: levels, one episode each.")] = MAPS,
    sessions: Annotated[int, option("serve: visitors with a place.", min=1, max=64)] = 8,
    fps: Annotated[float, option("serve: frames a second that each is to get.", min=1, max=120)] = 30.0,
    seconds: Annotated[float, option("serve: duration of the measurement.", min=1)] = 20.0,
    price: Annotated[float, option("serve: price of an hour of one core, for the cost of a session-hour.", min=0)] = 0.0,
    json: Json = False,
) -> None:
    """Measure a hot path beside its peer on this machine.

    Example: moworld bench attention

    A ratio above 1 means that ours is faster.
    attention: a block, and a key block of a ring. linear: INT8 beside float32, bfloat16 and torchao, one layer and one chunk.
    parallel: training steps on one and two ranks. pipeline: a run beside the sum of its steps. loader: random windows of cached
    clips, and cached input beside encoding. contract: a check of a million rows, without a peer. geometry: cameras recovered from
    game episodes beside the engine's, minutes per episode. rollout: a session beside Diffusers over a sliding window and beside a
    KV cache. kernels: each operator on an NVIDIA GPU. player: frames and key latency in a headless Chromium.
    backends: the default model by OpenVINO, INT8 and float32 on this CPU, alone and beside a busy process.
    environments: chunks a second of Gymnasium environments that share the default model, beside one environment.
    serve: visitors of the default model over WebSockets on this machine: cadence, stalls, cost per session-hour, and the queue.
    gaussians: compositing of 1,000 gaussians at 96x160, or --size, on the CPU beside the torch reference.
    """
    from moworld_ops.pipelines import profile as profiles

    _, settings = profiles.load(profile)
    pixels = _pixels(size or ("96x160" if case is Case.gaussians else ""), settings)
    with working(f"bench {case}"), tempfile.TemporaryDirectory() as folder:
        if case is Case.serve:
            rows = _measure_serving(sessions, fps, seconds, price)
        else:
            rows = _measure(case, profile, settings, pixels, clips, frames, maps, not full_precision, Path(folder))
    if json:
        print_json(rows)
    elif case is not Case.kernels:  # its rows have different columns and were printed as they came
        print_table(f"bench {case}", list(rows[0]), [tuple(row.values()) for row in rows])
        if case in NOTES:
            print(NOTES[case])


def _measure(
    case: Case, profile: str, settings: Any, pixels: tuple[int, int], clips: int, frames: int, maps: str, int8: bool, folder: Path
) -> list[dict[str, Any]]:
    """Returns the rows of a case."""
    data, longest = settings.data, settings.curriculum[-1]
    fps = data.game.fps if data.game else 24.0
    if case is Case.attention:
        from moworld_ops.benchmarks.attention import bench_attention

        return bench_attention(settings.model, longest.num_latents * settings.model.tokens_per_frame(data.height, data.width))
    if case is Case.parallel:
        from moworld_ops.benchmarks.parallel import bench_parallel

        return bench_parallel(settings.model, longest.frames, data.height, data.width, settings.text.length)
    if case is Case.contract:
        from moworld_ops.benchmarks.contract import bench_contract
        from moworld_ops.data_contracts.check import check_path
        from moworld_ops.data_contracts.load import load_contract

        return [bench_contract(lambda path: check_path(path, load_contract("geometry")).quarantined)]
    if case is Case.player:
        from moworld_ops.benchmarks.player import bench_player
        from moworld_ops.components.platform.home import home
        from moworld_ops.components.platform.registry import model_folder

        return bench_player(model_folder(""), cache=home() / "openvino")
    if case is Case.environments:
        from moworld_ops.benchmarks.environments import bench_environments
        from moworld_ops.components.platform.registry import model_folder

        return bench_environments(model_folder(""))
    if case is Case.backends:
        from moworld_ops.benchmarks.backends import bench_backends
        from moworld_ops.components.platform.home import home
        from moworld_ops.components.platform.registry import model_folder

        return bench_backends(Path(model_folder("")), home() / "openvino")
    if case is Case.pipeline:
        from moworld_ops.pipelines.bench_pipeline import bench_pipeline

        return bench_pipeline(profile)
    if case is Case.gaussians:
        from moworld_ops.benchmarks.gaussians import bench_gaussians

        return bench_gaussians(1000, pixels)
    if case is Case.geometry:
        from moworld_ops.benchmarks.geometry import bench_geometry

        rows = bench_geometry(settings.geometry, tuple(maps.split(",")))
        return _noted(rows, lambda row: " ".join(f"{key} {value}" for key, value in row.items()))
    from moworld.model.settings import CodecSettings

    codec = settings.codec or CodecSettings()
    if case is Case.loader:
        from moworld_ops.benchmarks.loader import bench_caching, bench_loader

        return [*bench_loader(data.height, data.width, fps, clips), *bench_caching(data.height, data.width, fps, codec)]
    return _measure_model(case, settings, pixels, fps, codec.hidden, frames, int8, folder)


def _measure_serving(sessions: int, fps: float, seconds: float, price: float) -> list[dict[str, Any]]:
    from moworld_ops.benchmarks.serve import Load, bench_serve
    from moworld_ops.components.platform.home import home
    from moworld_ops.components.platform.registry import model_folder

    return bench_serve(model_folder(""), Load(sessions, fps, seconds, price), home())


def _measure_model(
    case: Case, settings: Any, pixels: tuple[int, int], fps: float, hidden: int, frames: int, int8: bool, folder: Path
) -> list[dict[str, Any]]:
    """Returns the rows of a case that runs a model of the profile's sizes; hidden: channels of its codec."""
    from moworld.model.world import WorldConfig

    config = WorldConfig(
        model=settings.model, text=settings.text, height=pixels[0], width=pixels[1], fps=16.0 if case is Case.kernels else fps
    )
    if case is Case.kernels:
        import torch

        from moworld_ops.benchmarks.kernels import bench_kernels, line

        if not torch.cuda.is_available():
            raise InputError("bench", "kernels", "no NVIDIA GPU", "one that PyTorch can use", "run it on a machine with one")
        return _noted(bench_kernels(config), line)
    if case is Case.linear:
        from moworld_ops.benchmarks.linear import bench_linear

        return bench_linear(config, hidden, folder)
    from moworld_ops.benchmarks.rollout import bench_rollout

    return bench_rollout(config, hidden, folder, frames, int8=int8)


def _noted(rows: Any, line: Any) -> list[dict[str, Any]]:
    """Returns the rows, each printed on stderr when it arrives."""
    kept = []
    for row in rows:
        kept.append(row)
        note(line(row))
    return kept


def _pixels(size: str, settings: Any) -> tuple[int, int]:
    """Returns (height, width) from "HxW", or those of the profile."""
    if not size:
        return settings.data.height, settings.data.width
    height, _, width = size.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise InputError("--size", "", size, "HEIGHTxWIDTH, such as 96x160", "give both in pixels")
    settings.model.grid.tokens_per_frame(int(height), int(width), "--size")  # raises unless both are whole tokens
    return int(height), int(width)
