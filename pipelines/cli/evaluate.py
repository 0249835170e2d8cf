"""Door `moworld evaluate`: a model's speed, how well videos follow their cameras, or what a run's distillation did."""

from pathlib import Path
from typing import Annotated, Any

import typer

from moworld.errors import InputError
from pipelines.cli.output import Json, out, print_json, print_table

PROTOCOLS = ("speed", "camera", "distill")


def evaluate(
    subjects: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SUBJECT]...",
            help="speed, camera: a model folder, a registered NAME@ALIAS, or (camera) a folder of videos. distill: runs; default: the latest.",
        ),
    ] = None,
    protocol: Annotated[str, typer.Option(help="speed, camera, or distill (the study of a run's distillation).")] = "speed",
    to: Annotated[
        Path, typer.Option("--out", help="distill: folder for study.html, study.json and what is measured; goes on where it was.")
    ] = Path("study"),
    also: Annotated[list[str] | None, typer.Option(help="distill: a further student, NAME=MODEL_FOLDER, as another run made it.")] = None,
    ablate: Annotated[
        str,
        typer.Option(
            help="distill: further students to train beside the run (anchor: without the anchor loss; consistency: with the consistency start)."
        ),
    ] = "",
    episodes: Annotated[int | None, typer.Option(min=1, help="distill: held-out episodes to measure on; default: 11.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="distill: seeds to measure with.")] = 3,
    frames: Annotated[int, typer.Option(min=48, help="distill: frames of the walks that drift is read from.")] = 1008,
    json: Json = False,
) -> None:
    """Evaluate a model, a folder of videos, or a run's distillation.

    Example: moworld evaluate moworld-pocket@champion --protocol speed
    Example: moworld evaluate latest --protocol distill --ablate anchor,consistency
    """
    if protocol not in PROTOCOLS:
        raise InputError("--protocol", "", protocol, " or ".join(PROTOCOLS), "see 'moworld evaluate --help'")
    if protocol == "distill":
        from pipelines.ablations import chosen

        _distill(subjects or ["latest"], to, also or [], json, seeds=seeds, frames=frames, ablate=chosen(ablate), episodes=episodes)
        return
    if not subjects or len(subjects) > 1:
        raise InputError("moworld evaluate", "SUBJECT", f"{len(subjects or [])} of them", "one", "name a model or a folder of videos")
    found = _speed(subjects[0]) if protocol == "speed" else _camera(subjects[0])
    if json:
        print_json(found)
        return
    from components.platform.verification import flat

    print_table(f"{protocol} of {subjects[0]}", ("measure", "value"), [(key, f"{value:.5g}") for key, value in flat(found).items()])


def _speed(subject: str) -> dict[str, Any]:
    from components.platform.registry import model_folder
    from moworld.evaluation.speed import measure_speed

    return dict(measure_speed(model_folder(subject)))


def _camera(subject: str) -> dict[str, Any]:
    from moworld.evaluation.camera_accuracy import evaluate_folder, evaluate_model

    folder = Path(subject)
    if folder.is_dir() and not (folder / "model_index.json").exists():
        return dict(evaluate_folder(folder))
    from components.platform.registry import model_folder

    return dict(evaluate_model(model_folder(subject)))


def _distill(names: list[str], to: Path, also: list[str], json: bool, **settings: Any) -> None:
    from components.platform.registry import model_folder
    from pipelines.runs import Run
    from pipelines.study import study

    others = {}
    for pair in also:
        name, equals, folder = pair.partition("=")
        if not equals or not name:
            raise InputError("--also", "", pair, "NAME=MODEL_FOLDER", "give the further student a name")
        others[name] = str(model_folder(folder))
    told = study([Run.existing(name) for name in names], to, others, **settings)
    if json:
        print_json(told)
        return
    rows = [
        ("" if row["met"] is None else "met" if row["met"] else "MISSED", row["name"], row["found"], row["wanted"])
        for row in told["targets"]
    ]
    print_table("wanted and found", ("", "what", "found", "wanted"), rows)
    columns = ("first chunk, dB", "last chunk, dB", "turning", "walking", "sharpness at 1000", "seen again, dB", "ms a frame")
    shown = [(name, *(f"{row[c][0]:.3g} ± {row[c][1]:.2g}" if row[c] else "" for c in columns)) for name, row in told["variants"].items()]
    print_table("variants", ("variant", *columns), shown)
    out.print(f"curves and videos: {to / 'study.html'}", soft_wrap=True)
