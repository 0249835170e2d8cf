"""CLI command `apply navigate` (a start and a goal on a game level -> a walk there by a world model's imagination), and the tables of protocol `navigate`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from moworld.errors import InputError
from moworld_ops.pipelines.cli.layout import Json, option
from moworld_ops.pipelines.cli.output import note, print_json, print_result, print_table

SOURCE = "A model directory or registered NAME@ALIAS; default: the model that comes with a clone."
TASK, PLANNING, TRAINING = "Task", "Planning", "Training of the head"
POSE = "X,Y,DEGREES"


def navigate(
    source: Annotated[str, typer.Argument(metavar="[MODEL]", help=SOURCE)] = "",
    to: Annotated[Path, option("Directory of the results.", "--out", panel="Output")] = Path("navigation"),
    level: Annotated[str, option("Level of the game; default: the first held-out one.", panel=TASK)] = "",
    seed: Annotated[int, option("Seed of the task, of the noise and of the search.", min=0, max=2**32 - 1)] = 0,
    start: Annotated[str, option("Start in map units and degrees from east to north.", metavar=POSE, panel=TASK)] = "",
    goal: Annotated[str, option("Goal; default: the end of a planned walk of the seed.", metavar=POSE, panel=TASK)] = "",
    goal_image: Annotated[Path | None, option("Picture of the goal, whose place is not known: no verdict.", panel=TASK)] = None,
    planner: Annotated[str, option("tree or cem.", panel=PLANNING)] = "tree",
    depth: Annotated[int, option("Chunks that are planned ahead.", min=1, max=4, panel=PLANNING)] = 1,
    chunks: Annotated[int, option("Chunks after which the player is stopped.", min=1, max=100, panel=PLANNING)] = 6,
    head: Annotated[Path | None, option("Trained head; default: that of --train, or none.", panel=PLANNING)] = None,
    train: Annotated[bool, option("Train the head for the model's picture size, and stop.", "--train", panel=TRAINING)] = False,
    steps: Annotated[int, option("Steps of the training.", min=1, max=1_000_000, panel=TRAINING)] = 2000,
    levels: Annotated[int, option("Training levels.", min=1, max=60, panel=TRAINING)] = 60,
    json: Json = False,
) -> None:
    """Walk to a goal picture on a game level by a world model's imagination.

    Keys are proposed and imagined by the model, the best are done, and the plan is revised from what is really seen.

    The engine's player does what was chosen, by its own movement buttons. Without a trained head, imagined pictures are compared with the
    goal's by their difference.

    Example: moworld apply navigate --train

    Example: moworld apply navigate models/pocket-long --level MAP07 --seed 3 --out walk

    Example: moworld apply navigate --level MAP07 --start -1060,-588,210 --goal-image goal.png
    """
    from moworld.applications.navigation.settings import HeadSettings, TaskSettings
    from moworld_ops.components.platform.registry import model_folder
    from moworld_ops.pipelines.cli.world import read_picture

    folder = Path(model_folder(source))
    if train:
        _train(folder, head or _trained(), HeadSettings(steps=steps, levels=levels), seed, json)
        return
    plans = _planner(planner, depth)
    if (goal or goal_image) and not start:
        raise InputError("--start", "", "none", "the start, with a goal of your own", f"pass --start {POSE}")
    if goal and goal_image:
        raise InputError("--goal", "", "--goal and --goal-image", "one of them", "omit one")
    if start and not (goal or goal_image):
        raise InputError("--goal", "", "none", "a goal, with a start of your own", f"pass --goal {POSE}, or --goal-image FILE")
    from moworld.applications.navigation.example import Request, walk_to_goal

    ends = tuple(_pose(text, name) for text, name in ((start, "--start"), (goal, "--goal")) if text)
    picture = None if goal_image is None else read_picture(goal_image)
    found = _chosen(head)
    note("scored by the head of " + str(found) if found else "scored by the difference of pictures: no head is trained (--train)")
    facts = walk_to_goal(folder, found, Request(level, seed, ends, picture), TaskSettings(max_chunks=chunks), plans, to)
    verdict = "no verdict: the goal's place is not known"
    if facts["solved"] is not None:
        verdict = (
            f"{'reached' if facts['solved'] else 'NOT reached'}: {facts['left_text']} left, looking {facts['turned_away']:.0f} degrees away"
        )
    print_result(json, facts, f"{verdict}; {facts['chunks']} chunks\n{to / 'map.png'}, {to / 'walk.mp4'}")


def _planner(kind: str, depth: int) -> Any:
    from moworld.applications.navigation.settings import PlannerSettings

    if kind not in ("tree", "cem"):
        raise InputError("--planner", "", kind, "tree or cem", "choose one of them")
    return PlannerSettings.model_validate({"kind": kind, "depth": depth})


def _chosen(head: Path | None) -> Path | None:
    """Returns the head to use: the named one, else the trained one, else None."""
    return head or (_trained() if _trained().is_dir() else None)


def _trained() -> Path:
    from moworld_ops.components.platform.home import home

    return home() / "navigation" / "head"


def _train(model: Path, target: Path, settings: Any, seed: int, json: bool) -> None:
    from moworld.applications.navigation.head_training import train_for_model
    from moworld_ops.components.platform.home import writable_home

    measured = train_for_model(model, writable_home() / "navigation" / "walks", settings, seed, target)
    text = f"{target}: {measured['frames']:.1f} frames off on validation levels (median), {measured['frames_of_mean']:.1f} for the mean of the goals"
    print_result(json, {"head": str(target), **measured}, text)


def _pose(text: str, name: str) -> tuple[float, float, float]:
    try:
        x, y, angle = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(name, "", text, POSE, "as in -1060,-588,210") from None
    if not all(abs(value) <= 1e6 for value in (x, y, angle)):
        raise InputError(name, "", text, "numbers of at most a million", "as in -1060,-588,210")
    return x, y, angle


def evaluate_navigation(
    models: list[Path], head: Path | None, to: Path, seeds: int, tasks: int, planner: str, depth: int, json: bool
) -> None:
    """Runs protocol `navigate` for one model, or for the baselines only, and prints its tables."""
    from moworld.applications.navigation.score import NavigateSettings
    from moworld.applications.navigation.score_report import comparison_table, table
    from moworld.applications.navigation.score_report import evaluate_navigation as evaluate

    if len(models) > 1:
        raise InputError(
            "moworld evaluate", "SUBJECT", f"{len(models)} subjects", "one model, or none for the baselines", "evaluate them one by one"
        )
    settings = NavigateSettings(tasks=tasks, planner=_planner(planner, depth))
    found = _chosen(head)
    result = evaluate(models[0] if models else None, found, settings, list(range(seeds)), to)
    if json:
        print_json(result)
        return
    print_table("navigation on held-out levels, 95 % intervals", ("agent", "tasks", "success", "SPL", "SoftSPL", "nDTW"), table(result))
    if result["against"]:
        columns = ("world model against", "ratio", "only it", "only the other", "p", "SPL, difference")
        print_table("on the same tasks", columns, comparison_table(result))
    print(f"pictures: {to / 'sheets'}; scored by {'the head of ' + str(found) if found else 'the difference of pictures'}")
