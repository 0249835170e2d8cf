"""CLI command `evaluate`: speed and cost, camera accuracy, VBench-I2V scores, or the study of a run's distillation."""

from pathlib import Path
from typing import Annotated, Any

import typer

from moworld.errors import InputError
from moworld_ops.pipelines.cli.layout import Json, option
from moworld_ops.pipelines.cli.output import print_json, print_table, working

PROTOCOLS = ("speed", "camera", "walk", "vbench-i2v", "distill", "splats", "navigate")
SPEED, VBENCH, DISTILL, WALK = "Protocol speed", "Protocol vbench-i2v", "Protocol distill", "Protocols distill, walk, splats, navigate"
SPLATS, NAVIGATE = "Protocol splats", "Protocol navigate"


SUBJECTS = "A model directory, a registered NAME@ALIAS, latest (of the runs), or (camera, vbench-i2v) a directory of videos; walk: models; distill: runs; splats, navigate: a model or none."
ABLATE = "Students to train in addition: anchor (no anchor loss), consistency, guidance (with that start, or without it)."


def evaluate(
    subjects: Annotated[list[str] | None, typer.Argument(metavar="[SUBJECT]...", help=SUBJECTS)] = None,
    protocol: Annotated[str, option("speed, camera, walk, vbench-i2v, distill, splats, or navigate.")] = "speed",
    to: Annotated[Path | None, option("distill, walk, vbench-i2v, splats, navigate: directory of results; reused.", "--out", panel="Output")] = None,
    price_per_hour: Annotated[float | None, option("Assumed price of one machine hour.", min=0, panel=SPEED)] = None,
    suite: Annotated[Path | None, option("List of prompts, vbench2_i2v_full_info.json.", panel=VBENCH)] = None,
    images: Annotated[Path | None, option("Images of the suite, cropped to the aspect ratio of the videos.", panel=VBENCH)] = None,
    samples: Annotated[int, option("Videos per prompt; a model generates one per seed.", min=1, panel=VBENCH)] = 5,
    limit: Annotated[int, option("Number of prompts, evenly spaced; 0 for all.", min=0, panel=VBENCH)] = 0,
    actions: Annotated[str, option("Keys of the frames that a model generates after the first.", panel=VBENCH)] = "w*80",
    weights: Annotated[Path, option("VBench's network weights.", envvar="VBENCH_CACHE_DIR", panel=VBENCH)] = Path("~/.cache/vbench"),
    device: Annotated[str, option("PyTorch device of the model, and of VBench's networks; default: this machine's accelerator.")] = "",
    scores: Annotated[Path | None, option("JSON file of published scores, to aggregate and compare.", panel=VBENCH)] = None,
    require: Annotated[list[str] | None, option("Exit with 1 unless these scores or aggregates, or all, exist.", panel=VBENCH)] = None,
    also: Annotated[list[str] | None, option("Another student model to compare.", metavar="NAME=DIR", panel=DISTILL)] = None,
    ablate: Annotated[str, option(ABLATE, panel=DISTILL)] = "",
    episodes: Annotated[int | None, option("Number of held-out episodes; default: 11.", min=1, panel=DISTILL)] = None,
    seeds: Annotated[int, option("Number of seeds.", min=1, panel=WALK)] = 3,
    frames: Annotated[int, option("Frames of the walks that measure drift.", min=48, panel=WALK)] = 1008,
    walks: Annotated[int, option("Walks per seed, over the held-out levels in turn.", min=1, panel=SPLATS)] = 6,
    steps: Annotated[int, option("Steps of each fit.", min=1, panel=SPLATS)] = 1200,
    tasks: Annotated[int, option("Tasks per seed, over the held-out levels in turn.", min=1, panel=NAVIGATE)] = 100,
    planner: Annotated[str, option("tree or cem.", panel=NAVIGATE)] = "tree",
    depth: Annotated[int, option("Chunks that are planned ahead.", min=1, max=4, panel=NAVIGATE)] = 1,
    head: Annotated[Path | None, option("Trained head; default: that of 'moworld apply navigate --train', or none.", panel=NAVIGATE)] = None,
    json: Json = False,
) -> None:
    """Evaluate models, videos, or the distillation of a run.

    Protocol walk compares models with what a game engine shows on the same walks, through levels that were never trained on.
    Protocol splats fits scenes to such walks, recorded and generated, and measures views that were held out. Run it again to resume.
    Protocol navigate has agents walk to goal pictures there: the model's, baselines, and the engine itself. Run it again to resume.

    Example: moworld evaluate moworld-pocket@champion --protocol speed

    Example: moworld evaluate models/pocket-long moworld-pocket@champion --protocol walk --seeds 1

    Example: moworld evaluate latest --protocol distill --ablate anchor,consistency

    Example: moworld evaluate ours/ theirs/ --protocol vbench-i2v --suite vbench2_i2v_full_info.json --images crop/16-9
    """
    if protocol not in PROTOCOLS:
        raise InputError("--protocol", "", protocol, " or ".join(PROTOCOLS), "see 'moworld evaluate --help'")
    if protocol == "distill":
        from moworld_ops.pipelines.ablations import parse_names

        settings = {"seeds": seeds, "frames": frames, "ablate": parse_names(ablate), "episodes": episodes}
        _evaluate_distillation(subjects or ["latest"], to or Path("study"), also or [], json, **settings)
        return
    if protocol == "vbench-i2v":
        from moworld.devices import pick_device
        from moworld_ops.pipelines.cli.vbench import Options, evaluate_vbench

        options = Options(suite, images, to or Path("vbench"), samples, limit, actions, weights.expanduser(), str(pick_device(device)))
        evaluate_vbench(subjects or [], options, scores, require or [], json)
        return
    if protocol == "splats":
        from moworld_ops.pipelines.cli.splats import evaluate_splats

        evaluate_splats([_model(subject) for subject in subjects or []], to or Path("splats"), seeds, walks, steps, json)
        return
    if protocol == "navigate":
        from moworld_ops.pipelines.cli.navigate import evaluate_navigation

        models = [_model(subject) for subject in subjects or []]
        evaluate_navigation(models, head, to or Path("navigate"), seeds, tasks, planner, depth, json)
        return
    if protocol == "walk":
        _evaluate_walks(subjects or [], to or Path("walk"), json, seeds, frames)
        return
    if not subjects or len(subjects) > 1:
        raise InputError("moworld evaluate", "SUBJECT", f"{len(subjects or [])} subjects", "one", "name a model or a directory of videos")
    with working(f"evaluating {subjects[0]}"):
        found = _speed(subjects[0], price_per_hour, device) if protocol == "speed" else _camera(subjects[0], device)
    if json:
        print_json(found)
    else:
        _print_measures(f"{protocol} of {subjects[0]}", found)


def _print_measures(title: str, found: dict[str, Any]) -> None:
    from moworld_ops.components.platform.verification import flat

    print_table(title, ("measure", "value"), [(key, f"{value:.5g}") for key, value in flat(found).items()])
    for key, value in found.items():
        if isinstance(value, str):
            print(f"{key}: {value}")
    if failures := found.get("failures"):
        print_table("failures", ("video", "reason"), [(each["video"], each["reason"]) for each in failures])
        print(f"failures: {len(failures)} of {found['videos']} videos, not measured")


def _speed(subject: str, price_per_hour: float | None, device: str) -> dict[str, Any]:
    from moworld.evaluation.speed import cost_per_1000_frames, measure_speed

    found: dict[str, Any] = dict(measure_speed(_model(subject), device=device))
    if price_per_hour is None:
        return {**found, "cost": "absent: the price of a machine hour is unknown, pass --price-per-hour"}
    cost = cost_per_1000_frames(found["frames_per_second"], price_per_hour)
    return {**found, "cost_per_1000_frames": cost, "cost": f"at an assumed {price_per_hour:g} an hour for this machine, with one session"}


def _camera(subject: str, device: str) -> dict[str, Any]:
    from moworld.evaluation.camera_accuracy import evaluate_folder, evaluate_model

    folder = Path(subject)
    if folder.is_dir() and not (folder / "model_index.json").exists():
        return dict(evaluate_folder(folder))
    return dict(evaluate_model(_model(subject), device=device))


def _model(subject: str) -> Path:
    """Returns a model folder for a path, a registered NAME@ALIAS, or `latest`: the model of the newest run that quantized one."""
    from moworld_ops.components.platform.registry import model_folder

    if subject == "latest" and not Path(subject).exists():
        from moworld_ops.pipelines.runs import all_runs

        made = (run.output("quantize", "quantized") for run in reversed(all_runs()))
        if (found := next((folder for folder in made if folder is not None), None)) is not None:
            return found
        raise InputError("runs", "latest", "no model", "a run that finished step quantize", "name a model directory or a registered model")
    return Path(model_folder(subject))


def _evaluate_walks(subjects: list[str], to: Path, json: bool, seeds: int, frames: int) -> None:
    if not subjects:
        raise InputError("moworld evaluate", "SUBJECT", "no subject", "models", "name a model directory or a registered model")
    from moworld.evaluation.walk import WalkSettings
    from moworld.evaluation.walk_report import COLUMNS, evaluate_walks, table

    models = {subject: str(_model(subject)) for subject in subjects}
    results = evaluate_walks(models, WalkSettings(straight=frames), list(range(seeds)), to)
    if json:
        print_json(results)
        return
    shown = table(results)
    rows = [(column, *("" if row[column] is None else str(row[column]) for row in shown.values())) for column in COLUMNS]
    print_table("walks through held-out levels", ("measure", *shown), [row for row in rows if any(row[1:])])
    print(f"page and pictures: {to / 'walk.html'}")


def _evaluate_distillation(names: list[str], to: Path, also: list[str], json: bool, **settings: Any) -> None:
    from moworld_ops.components.platform.registry import model_folder
    from moworld_ops.pipelines.runs import Run
    from moworld_ops.pipelines.study import latest_distilled, study

    others = {}
    for pair in also:
        name, equals, folder = pair.partition("=")
        if not equals or not name:
            raise InputError("--also", "", pair, "NAME=MODEL_FOLDER", "give the student a name")
        others[name] = str(model_folder(folder))
    result = study([latest_distilled() if name == "latest" else Run.existing(name) for name in names], to, others, **settings)
    if json:
        print_json(result)
        return
    verdicts = {None: "", True: "met", False: "MISSED"}
    rows = [(verdicts[row["met"]], row["name"], row["found"], row["wanted"]) for row in result["targets"]]
    print_table("targets", ("", "measure", "found", "expected"), rows)
    columns = ("first chunk, dB", "last chunk, dB", "turning", "walking", "sharpness at 1000", "seen again, dB", "ms a frame")
    shown = [(name, *(f"{row[c][0]:.3g} ± {row[c][1]:.2g}" if row[c] else "" for c in columns)) for name, row in result["variants"].items()]
    print_table("variants", ("variant", *columns), shown)
    print(f"curves and videos: {to / 'study.html'}")
