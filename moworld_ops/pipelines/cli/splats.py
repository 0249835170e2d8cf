"""CLI command `apply splats` (a video with cameras -> a scene of gaussians), its viewer, and the table of protocol `splats`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from moworld.errors import InputError
from moworld_ops.pipelines.cli.layout import Json, option
from moworld_ops.pipelines.cli.output import note, print_json, print_result, print_table, track

SOURCE = "A video with a camera file, a clips folder, a model directory or registered NAME@ALIAS, or a .ply scene to view."
VIDEO, MODEL, FIT, VIEW = "Videos and clips", "Models", "Fit", "Viewer"
SUFFIXES = (".ply", ".splat")


def splats(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCE)],
    to: Annotated[Path | None, option("Scene to write, .ply or .splat.", "--out", panel="Output")] = None,
    clip: Annotated[str, option("Clip of the folder; default: its first.", panel=VIDEO)] = "",
    cameras: Annotated[Path | None, option("Camera file of the video; default: NAME.txt beside it.", panel=VIDEO)] = None,
    image: Annotated[Path | None, option("First frame of the rollout; default: the model's first picture.", panel=MODEL)] = None,
    actions: Annotated[str, option("Keys of the rollout.", panel=MODEL)] = "w*24,l*24,w*24,a*24",
    prompt: Annotated[str, option("Description of the scene.", panel=MODEL)] = "",
    seed: Annotated[int, option("Seed of the noise and of the fit.", min=0, max=2**32 - 1)] = 0,
    steps: Annotated[int, option("Steps of the fit, one frame each.", min=1, max=1_000_000, panel=FIT)] = 1200,
    gaussians: Annotated[int, option("Maximum number of gaussians.", min=16, max=1_000_000, panel=FIT)] = 10_000,
    height: Annotated[int, option("Frames are scaled down to this height.", min=16, max=2160, panel=FIT)] = 96,
    degree: Annotated[int, option("Spherical harmonics: 0 one colour, 1 changes with direction.", min=0, max=1, panel=FIT)] = 0,
    device: Annotated[str, option("PyTorch device of model and fit; default: this machine's accelerator.")] = "",
    view: Annotated[bool, option("Show the scene in the browser.", "--view", panel=VIEW)] = False,
    port: Annotated[int, option("Port of the viewer; 0 takes a free one.", min=0, max=65535, panel=VIEW)] = 8801,
    json: Json = False,
) -> None:
    """Fit a scene of 3D gaussians to a video with cameras, for viewers of splats.

    Example: moworld apply splats raw --clip map01-00 --out scene.ply

    Example: moworld apply splats walk.mp4 --cameras walk.txt --out scene.ply --view

    Example: moworld apply splats models/pocket-long --actions "w*48,l*24" --out scene.splat

    Example: moworld apply splats scene.ply --view

    The scene is in the world of the first camera (x right, y down, z forward), in the units of the camera file: map units for game clips.
    """
    given = Path(source)
    if given.suffix in SUFFIXES:
        if not view or to is not None:
            raise InputError("moworld apply splats", "SOURCE", source, "a video, a clips folder or a model", "add --view, without --out, to view a scene")
        _show(given, port)
        return
    target = _target(to)
    from moworld.applications.splats.files import write_scene
    from moworld.applications.splats.fit import fit_footage
    from moworld.applications.splats.settings import FitSettings
    from moworld.devices import pick_device

    settings = FitSettings(steps=steps, gaussians=gaussians, height=height, degree=1 if degree else 0)
    footage = _footage(given, source, clip, cameras, image, actions, prompt, seed, height, device)
    note(f"{footage.name}: {len(footage.frames)} frames of {footage.frames.shape[2]}x{footage.frames.shape[1]}")
    bar = iter(track(range(steps), "fit", total=steps))
    scene, facts = fit_footage(footage, settings, seed, pick_device(device), lambda step: next(bar, None))
    next(bar, None)
    write_scene(target, scene.scaled(footage.units), (f"units: {footage.unit_name}",))
    facts |= {"scene": str(target), "frames": len(footage.frames), "units": footage.unit_name, "units_per_scene_unit": footage.units}
    text = f"{target}: {facts['gaussians']} gaussians in {footage.unit_name}, {facts['psnr_of_fit']:.1f} dB on its frames, {facts['seconds']:.0f} s"
    print_result(json, facts, f"{text}\nstart: {facts['start']}")
    if view:
        _show(target, port)


def _target(to: Path | None) -> Path:
    from moworld.files import output_file

    if to is None or to.suffix not in SUFFIXES:
        raise InputError("--out", "", to or "none", "a file NAME.ply or NAME.splat", "name the scene to write")
    return output_file(to)


def _footage(
    given: Path, source: str, clip: str, cameras: Path | None, image: Path | None, actions: str, prompt: str, seed: int, height: int, device: str
) -> Any:
    """Returns the footage of a clips folder, a video file, or a rollout of a model."""
    from moworld.applications.splats.footage import read_clip, read_video, roll_out

    if (given / "manifest.parquet").is_file():
        return read_clip(given, clip, height)
    if given.is_file():
        return read_video(given, cameras, height)
    from moworld.evaluation.speed import example_picture
    from moworld.inference.loading import serving_world
    from moworld.inference.pictures import model_pictures
    from moworld_ops.components.platform.registry import model_folder
    from moworld_ops.pipelines.cli.world import read_picture

    folder = Path(model_folder(source))
    pictures = [read_picture(image)] if image else model_pictures(folder)
    with serving_world(folder, device=device) as world:
        if world is None:
            raise InputError("moworld apply splats", "ranks", "several", "one process", "run it without torchrun")
        first = pictures[0] if pictures else example_picture(world.config.height, world.config.width)
        return roll_out(world, first, actions, prompt, seed)


def _show(scene: Path, port: int) -> None:
    from moworld.applications.splats.viewer import serve

    serve(scene, port, lambda address: print(f"open {address} (Ctrl-C stops the server)", flush=True))


def evaluate_splats(models: list[Path], to: Path, seeds: int, walks: int, steps: int, json: bool) -> None:
    """Runs protocol `splats` for one model, or for recorded walks only, and prints its table."""
    from moworld.applications.splats.score import ScoreSettings
    from moworld.applications.splats.score_report import evaluate_splats as evaluate
    from moworld.applications.splats.score_report import table
    from moworld.applications.splats.settings import FitSettings

    if len(models) > 1:
        raise InputError("moworld evaluate", "SUBJECT", f"{len(models)} subjects", "one model, or none for recorded walks", "evaluate them one by one")
    settings = ScoreSettings(walks=walks, fit=FitSettings(steps=steps))
    result = evaluate(models[0] if models else None, settings, list(range(seeds)), to)
    if json:
        print_json(result)
        return
    print_table("views that were held out", ("video", "held out", "method", "PSNR, dB", "SSIM", "frames"), table(result))
    print(f"pictures: {to / 'sheets'}")
