"""Door `moworld evaluate`: speed and its cost, how well videos follow their cameras, VBench-I2V, or what a run's distillation did."""

from pathlib import Path
from typing import Annotated, Any

import typer

from moworld.errors import InputError
from pipelines.cli.output import Json, out, print_json, print_table

PROTOCOLS = ("speed", "camera", "vbench-i2v", "distill")


def evaluate(
    subjects: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SUBJECT]...",
            help="A model folder, a registered NAME@ALIAS, or (camera, vbench-i2v) a folder of videos; vbench-i2v takes several. distill: runs.",
        ),
    ] = None,
    protocol: Annotated[str, typer.Option(help="speed, camera, vbench-i2v, or distill (the study of a run's distillation).")] = "speed",
    to: Annotated[
        Path | None, typer.Option("--out", help="distill, vbench-i2v: folder for the page, the numbers and videos; goes on where it was.")
    ] = None,
    also: Annotated[list[str] | None, typer.Option(help="distill: a further student, NAME=MODEL_FOLDER, as another run made it.")] = None,
    ablate: Annotated[
        str,
        typer.Option(
            help="distill: further students to train beside the run (anchor: without the anchor loss; consistency, guidance: with that start, or without it where the run has it)."
        ),
    ] = "",
    episodes: Annotated[int | None, typer.Option(min=1, help="distill: held-out episodes to measure on; default: 11.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="distill: seeds to measure with.")] = 3,
    frames: Annotated[int, typer.Option(min=48, help="distill: frames of the walks that drift is read from.")] = 1008,
    price_per_hour: Annotated[float | None, typer.Option(min=0, help="speed: what an hour of this machine costs, your assumption.")] = None,
    suite: Annotated[Path | None, typer.Option(help="vbench-i2v: the list of prompts, vbench2_i2v_full_info.json.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="vbench-i2v: the folder of the suite's pictures, cropped to the videos' shape.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="vbench-i2v: videos for each prompt; a model makes one a seed.")] = 5,
    limit: Annotated[int, typer.Option(min=0, help="vbench-i2v: take so many prompts, evenly spread; 0 takes all.")] = 0,
    actions: Annotated[str, typer.Option(help="vbench-i2v: the keys of every frame that a model makes after the first.")] = "w*80",
    weights: Annotated[
        Path, typer.Option(envvar="VBENCH_CACHE_DIR", help="vbench-i2v: VBench's cache folder, with the networks' weights.")
    ] = Path("~/.cache/vbench"),
    device: Annotated[str, typer.Option(help="vbench-i2v: where the networks run, as PyTorch names it.")] = "cpu",
    scores: Annotated[Path | None, typer.Option(help="vbench-i2v: a JSON file of others' scores, to aggregate and set beside.")] = None,
    require: Annotated[
        list[str] | None, typer.Option(help="vbench-i2v: exit with 1 unless these scores or aggregates, or all, are there.")
    ] = None,
    json: Json = False,
) -> None:
    """Evaluate models, folders of videos, or a run's distillation.

    Example: moworld evaluate moworld-pocket@champion --protocol speed

    Example: moworld evaluate latest --protocol distill --ablate anchor,consistency

    Example: moworld evaluate ours/ theirs/ --protocol vbench-i2v --suite vbench2_i2v_full_info.json --images crop/16-9
    """
    if protocol not in PROTOCOLS:
        raise InputError("--protocol", "", protocol, " or ".join(PROTOCOLS), "see 'moworld evaluate --help'")
    if protocol == "distill":
        from pipelines.ablations import chosen

        more = {"seeds": seeds, "frames": frames, "ablate": chosen(ablate), "episodes": episodes}
        _distill(subjects or ["latest"], to or Path("study"), also or [], json, **more)
        return
    if protocol == "vbench-i2v":
        from pipelines.cli.vbench import Options, evaluate_vbench

        options = Options(suite, images, to or Path("vbench"), samples, limit, actions, weights.expanduser(), device)
        evaluate_vbench(subjects or [], options, scores, require or [], json)
        return
    if not subjects or len(subjects) > 1:
        raise InputError("moworld evaluate", "SUBJECT", f"{len(subjects or [])} of them", "one", "name a model or a folder of videos")
    found = _speed(subjects[0], price_per_hour) if protocol == "speed" else _camera(subjects[0])
    if json:
        print_json(found)
        return
    from components.platform.verification import flat

    print_table(f"{protocol} of {subjects[0]}", ("measure", "value"), [(key, f"{value:.5g}") for key, value in flat(found).items()])
    for key, value in found.items():
        if isinstance(value, str):
            out.print(f"{key}: {value}", soft_wrap=True, markup=False)
    if failures := found.get("failures"):
        print_table("failures", ("video", "reason"), [(each["video"], each["reason"]) for each in failures])
        out.print(f"failures: {len(failures)} of {found['videos']} videos, not measured", soft_wrap=True)


def _speed(subject: str, price_per_hour: float | None) -> dict[str, Any]:
    from components.platform.registry import model_folder
    from moworld.evaluation.speed import cost_per_1000_frames, measure_speed

    found: dict[str, Any] = dict(measure_speed(model_folder(subject)))
    if price_per_hour is None:
        return {**found, "cost": "absent: what an hour of this machine costs is not known, give --price-per-hour"}
    cost = cost_per_1000_frames(found["frames_per_second"], price_per_hour)
    return {**found, "cost_per_1000_frames": cost, "cost": f"at an assumed {price_per_hour:g} an hour for this machine, one session on it"}


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
