"""The protocol vbench-i2v of `moworld evaluate`: models, folders of videos and published scores, side by side."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from moworld.errors import InputError
from moworld.evaluation.vbench import DIMENSIONS, NEEDS, by_short_name
from pipelines.cli.output import err, out, print_json, print_table

# What may befall a video, and what that means for the scores.
KINDS = {"failures": "not scored", "missing": "in the suite, not in the folder", "unknown": "not of the suite, not scored"}


@dataclass(frozen=True)
class Options:
    """What the command line says about the suite, the videos and the networks; every field is an option of `moworld evaluate`."""

    suite: Path | None
    images: Path | None
    to: Path
    samples: int
    limit: int
    actions: str
    weights: Path
    device: str


def evaluate_vbench(subjects: list[str], options: Options, scores: Path | None, require: list[str], json: bool) -> None:
    """Score every subject, print them side by side, and write vbench.json (with every video's scores) and vbench.html.

    Raises typer.Exit(1) when a required score is absent or does not cover all of its videos, and InputError for bad input.
    """
    wanted = _required(require)
    if not subjects and scores is None:
        raise InputError("moworld evaluate", "SUBJECT", "none", "a model, a folder of videos, or --scores FILE", "name one or more")
    told = published(scores) if scores is not None else {}
    _check_device(options.device)
    names = _names(subjects)
    if both := sorted(set(names) & set(told)):
        raise InputError(scores, both[0], "a system of the same name as a subject", "distinct names", "rename it in the file")
    told = {**{name: _measured(subject, name, options) for name, subject in names.items()}, **told}
    _write(options.to, told)
    if json:
        print_json({name: {key: value for key, value in row.items() if key != "per_video"} for name, row in told.items()})
    else:
        _print(told, options.to)
    short = [f"{name}: {reason}" for name, row in told.items() for reason in _short(row, wanted)]
    for line in short:
        err.print(f"required and not there: {line}", soft_wrap=True, markup=False)
    if short:
        raise typer.Exit(1)


def published(path: Path) -> dict[str, dict[str, Any]]:
    """Systems whose scores someone else measured.

    path: JSON, {score: percent} of one system (named after the file), {system: {score: percent}}, or VBench's own result file
          {dimension: [share of 1, videos]}; short names or VBench's
    Raises InputError for anything else.
    """
    from moworld.evaluation.vbench_protocol import aggregates
    from moworld.files import read_json

    read = read_json(path)
    systems = read if isinstance(read, dict) and read and all(isinstance(row, dict) for row in read.values()) else {path.stem: read}
    told = {}
    for system, row in systems.items():
        if not isinstance(row, dict) or not row:
            raise InputError(path, system, type(row).__name__, "scores by name", "give {score: percent} or {system: {score: percent}}")
        raw = by_short_name({name: _percent(path, name, value) for name, value in row.items()})
        found = {name: {"score": raw[name], "videos": None, "expected": None} for name in DIMENSIONS if name in raw}
        absent = {name: f"not in {path}" for name in DIMENSIONS if name not in raw}
        told[str(system)] = {"source": str(path), "scores": found, "absent": absent, **aggregates(raw)}
    return told


def _percent(path: Path, name: str, value: Any) -> float:
    share = isinstance(value, list) and bool(value)  # VBench's result files: the score as a share of 1, then each video's
    number = value[0] if share else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InputError(path, name, repr(value)[:40], "a number", "give the raw score in percent")
    return 100.0 * number if share else float(number)


def _measured(subject: str, name: str, options: Options) -> dict[str, Any]:
    """What one subject scores: a folder of videos as it is, a model after its videos are made."""
    from moworld.evaluation.vbench_protocol import evaluate_videos
    from moworld.evaluation.vbench_suite import SIDECAR, find_videos, read_suite

    folder, made = Path(subject), {}
    is_videos = folder.is_dir() and not (folder / "model_index.json").exists()
    suite = folder / SIDECAR if options.suite is None and is_videos and (folder / SIDECAR).is_file() else options.suite
    if not is_videos:
        from components.platform.registry import model_folder

        model = model_folder(subject)
    if suite is None:
        raise InputError("--suite", "", "none", "VBench-I2V's vbench2_i2v_full_info.json", f"give it, or put {SIDECAR} beside the videos")
    entries = read_suite(suite, options.limit)
    if not is_videos:
        from pipelines.vbench import generate

        if options.images is None:
            raise InputError("--images", "", "none", "the folder of the suite's pictures", "a model's videos start from them")
        folder = options.to / "videos" / name
        made = {"generation": generate(model, entries, options.images, folder, options.samples, options.actions, _progress)}
    found = find_videos(folder, entries, options.images, options.samples)
    listed = {"suite": str(suite), "prompts": len(entries), "sampled": len(entries) < len(read_suite(suite))}
    return {"source": str(folder), **listed, **made, **evaluate_videos(found, options.weights, options.device, _progress)}


def _check_device(name: str) -> None:
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, ImportError) as error:  # an unknown name, or a build or machine without it
        raise InputError("--device", "", name, "a device of this machine", f"take cpu ({str(error).splitlines()[0]})") from None


def _progress(items: list[Any], name: str) -> Iterable[Any]:
    from rich.progress import track

    return track(items, name, console=err, transient=True)


def _names(subjects: list[str]) -> dict[str, str]:
    """Short, distinct names of the subjects."""
    names = {subject: Path(subject).name or subject for subject in subjects}
    if len(set(names.values())) < len(subjects):
        names = {subject: subject.strip("/").replace("/", "_") for subject in subjects}
    return {name: subject for subject, name in names.items()}


def _required(require: list[str]) -> list[str]:
    wanted = [name for given in require for name in given.split(",")]
    for name in wanted:
        if name != "all" and name not in (*DIMENSIONS, *NEEDS):
            raise InputError("--require", "", name, f"all, or of {', '.join((*DIMENSIONS, *NEEDS))}", "correct the name")
    if "all" in wanted:
        return list(DIMENSIONS)
    return [name for name in DIMENSIONS if name in wanted or any(name in NEEDS[each] for each in wanted if each in NEEDS)]


def _short(row: dict[str, Any], wanted: list[str]) -> Iterable[str]:
    for name in wanted:
        if name in row["absent"]:
            yield f"{name}, {row['absent'][name]}"
        elif row["scores"][name]["videos"] != row["scores"][name]["expected"]:
            yield f"{name} of all its videos, {_covered(row['scores'][name])}"


def _covered(score: dict[str, Any]) -> str:
    return "as given" if score["videos"] is None else f"{score['videos']} of {score['expected']} videos"


def _print(told: dict[str, dict[str, Any]], to: Path) -> None:
    columns = ("score", *told)
    rows = [(name, *(_cell(row["scores"].get(name)) for row in told.values())) for name in DIMENSIONS]
    print_table("raw scores, %", columns, rows)
    shown = [
        (name, *(f"{row['aggregates'][name]:.2f}" if name in row["aggregates"] else "absent" for row in told.values())) for name in NEEDS
    ]
    print_table("aggregates", ("aggregate", *told), shown)
    out.print("quality and average are the paper's, from raw scores; official_* are VBench's, normalised first, without camera motion")
    absent = [(name, score, reason) for name, row in told.items() for score, reason in row["absent"].items()]
    if absent:
        print_table("absent", ("of", "score", "reason"), absent)
    for key, meaning in KINDS.items():
        if listed := [(name, *_row(each)) for name, row in told.items() for each in row.get(key) or []]:
            print_table(key, ("of", "video", "reason") if key == "failures" else ("of", "video"), _first(listed))
            out.print(f"{key}: {len(listed)}, {meaning}", soft_wrap=True)
    for name, row in told.items():
        if row.get("sampled"):
            out.print(f"{name}: a sample of {row['prompts']} of the suite's prompts", soft_wrap=True, markup=False)
    out.print(f"every video's scores: {to / 'vbench.json'}; page: {to / 'vbench.html'}", soft_wrap=True, markup=False)


def _row(each: Any) -> tuple[str, ...]:
    return (each["video"], f"{each['score']}: {each['reason']}") if isinstance(each, dict) else (each,)


def _first(rows: list[tuple[str, ...]], count: int = 20) -> list[tuple[str, ...]]:
    more = len(rows) - count
    return rows if more <= 0 else [*rows[:count], (rows[-1][0], f"and {more} more (see vbench.json)")]


def _cell(score: dict[str, Any] | None) -> str:
    if score is None:
        return "absent"
    return f"{score['score']:.2f}" if score["videos"] in (None, score["expected"]) else f"{score['score']:.2f} ({_covered(score)})"


def _write(to: Path, told: dict[str, dict[str, Any]]) -> None:
    from moworld.evaluation.report import write_vbench
    from moworld.files import write_json

    write_json(to / "vbench.json", told)
    write_vbench(to / "vbench.html", told)
