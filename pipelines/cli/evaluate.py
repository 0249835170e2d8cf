"""Door `moworld evaluate`: a model's speed, or how well videos follow their cameras."""

from pathlib import Path
from typing import Annotated, Any

import typer

from moworld.errors import InputError
from pipelines.cli.output import Json, print_json, print_table


def evaluate(
    subject: Annotated[
        str, typer.Argument(metavar="VIDEOS_OR_MODEL", help="A model folder, a registered NAME@ALIAS, or a folder of videos.")
    ],
    protocol: Annotated[str, typer.Option(help="speed (of a model) or camera (of a model or of videos).")] = "speed",
    json: Json = False,
) -> None:
    """Evaluate a model or a folder of videos.

    Example: moworld evaluate moworld-pocket@champion --protocol speed
    """
    if protocol not in ("speed", "camera"):
        raise InputError("--protocol", "", protocol, "speed or camera", "see 'moworld evaluate --help'")
    found = _speed(subject) if protocol == "speed" else _camera(subject)
    if json:
        print_json(found)
        return
    from components.platform.verification import flat

    print_table(f"{protocol} of {subject}", ("measure", "value"), [(key, f"{value:.5g}") for key, value in flat(found).items()])


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
