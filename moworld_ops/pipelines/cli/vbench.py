"""Protocol vbench-i2v of `moworld evaluate`: models, directories of videos and published scores, side by side."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from moworld.errors import InputError, shown
from moworld.evaluation.vbench import DIMENSIONS, NEEDS, by_short_name
from moworld_ops.pipelines.cli.output import note, print_json, print_table, track

# Lists of videos in a result, and what they mean for the scores.
KINDS = {"failures": "not scored", "missing": "in the suite, not in the directory", "unknown": "not in the suite, not scored"}
SHOWN_VIDEOS = 20
MAX_SCORE = 1e6  # of a score in percent, far above any: a larger number is no score


@dataclass(frozen=True)
class Options:
    """The options of `moworld evaluate` about suite, videos and networks."""

    suite: Path | None
    images: Path | None
    to: Path
    samples: int
    limit: int
    actions: str
    weights: Path
    device: str


def evaluate_vbench(subjects: list[str], options: Options, scores: Path | None, require: list[str], json: bool) -> None:
    """Scores every subject, prints the scores side by side, and writes vbench.json (with the scores of every video) and vbench.html.

    Raises typer.Exit(1) if a required score is absent or does not cover all of its videos, and InputError for bad input.
    """
    from moworld.evaluation.report import write_vbench
    from moworld.files import write_json

    required = _required(require)
    if not subjects and scores is None:
        raise InputError("moworld evaluate", "SUBJECT", "none", "a model, a directory of videos, or --scores FILE", "name one or more")
    results = published(scores) if scores is not None else {}
    names = _names(subjects)
    if both := sorted(set(names) & set(results)):
        raise InputError(scores, both[0], "a system with the name of a subject", "distinct names", "rename it in the file")
    results = {**{name: _measure(subject, name, options) for name, subject in names.items()}, **results}
    write_json(options.to / "vbench.json", results)
    write_vbench(options.to / "vbench.html", results)
    if json:
        print_json({name: {key: value for key, value in row.items() if key != "per_video"} for name, row in results.items()})
    else:
        _print(results, options.to)
    absent = [f"{name}: {reason}" for name, row in results.items() for reason in _incomplete(row, required)]
    for line in absent:
        note(f"required but absent: {line}")
    if absent:
        raise typer.Exit(1)


def published(path: Path) -> dict[str, dict[str, Any]]:
    """Returns published scores by system.

    path: JSON, {score: percent} of one system (named after the file), {system: {score: percent}}, or VBench's result file
          {dimension: [share of 1, videos]}; short names or VBench's
    Raises InputError for anything else.
    """
    from moworld.evaluation.vbench_protocol import aggregates
    from moworld.files import read_json

    content = read_json(path)
    several = isinstance(content, dict) and content and all(isinstance(row, dict) for row in content.values())
    results = {}
    for system, row in (content if several else {path.stem: content}).items():
        if not isinstance(row, dict) or not row:
            raise InputError(path, system, type(row).__name__, "scores by name", "give {score: percent} or {system: {score: percent}}")
        raw = by_short_name({name: _percent(path, name, value) for name, value in row.items()})
        found = {name: {"score": raw[name], "videos": None, "expected": None} for name in DIMENSIONS if name in raw}
        absent = {name: f"not in {path}" for name in DIMENSIONS if name not in raw}
        results[str(system)] = {"source": str(path), "scores": found, "absent": absent, **aggregates(raw)}
    return results


def _percent(path: Path, name: str, value: Any) -> float:
    is_share = isinstance(value, list) and bool(value)  # VBench's result files: [score as a share of 1, score of each video]
    number = value[0] if is_share else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= MAX_SCORE:
        raise InputError(path, name, shown(value)[:40], f"a number within {MAX_SCORE:g}", "give the raw score in percent")
    return 100.0 * number if is_share else float(number)


def _measure(subject: str, name: str, options: Options) -> dict[str, Any]:
    """Returns the scores of a directory of videos, or of a model after its videos are generated."""
    from moworld.evaluation.vbench_protocol import evaluate_videos
    from moworld.evaluation.vbench_suite import SIDECAR, find_videos, read_suite

    folder, generated = Path(subject), {}
    is_videos = folder.is_dir() and not (folder / "model_index.json").exists()
    suite = folder / SIDECAR if options.suite is None and is_videos and (folder / SIDECAR).is_file() else options.suite
    if not is_videos:
        from moworld_ops.components.platform.registry import model_folder

        model = model_folder(subject)
    if suite is None:
        raise InputError("--suite", "", "none", "VBench-I2V's vbench2_i2v_full_info.json", f"pass it, or put {SIDECAR} beside the videos")
    entries = read_suite(suite, options.limit)
    if not is_videos:
        from moworld_ops.pipelines.vbench import generate

        if options.images is None:
            raise InputError("--images", "", "none", "the directory of the suite's images", "they are the first frames of the videos")
        folder = options.to / "videos" / name
        generated = {"generation": generate(model, entries, options.images, folder, options.samples, options.actions, track, options.device)}
    found = find_videos(folder, entries, options.images, options.samples)
    listed = {"suite": str(suite), "prompts": len(entries), "sampled": len(entries) < len(read_suite(suite))}
    return {"source": str(folder), **listed, **generated, **evaluate_videos(found, options.weights, options.device, track)}


def _names(subjects: list[str]) -> dict[str, str]:
    """Returns subjects by short, distinct names."""
    names = {subject: Path(subject).name or subject for subject in subjects}
    if len(set(names.values())) < len(subjects):
        names = {subject: subject.strip("/").replace("/", "_") for subject in subjects}
    return {name: subject for subject, name in names.items()}


def _required(require: list[str]) -> list[str]:
    """Returns the names of the required scores; an aggregate stands for the scores that it needs."""
    given = [name for names in require for name in names.split(",")]
    for name in given:
        if name != "all" and name not in (*DIMENSIONS, *NEEDS):
            raise InputError("--require", "", name, f"all, or of {', '.join((*DIMENSIONS, *NEEDS))}", "correct the name")
    needed = {score for name in given for score in NEEDS.get(name, (name,))}
    return [name for name in DIMENSIONS if "all" in given or name in needed]


def _incomplete(row: dict[str, Any], required: list[str]) -> Iterator[str]:
    for name in required:
        if name in row["absent"]:
            yield f"{name}, {row['absent'][name]}"
        elif row["scores"][name]["videos"] != row["scores"][name]["expected"]:
            yield f"{name} of all its videos, {_covered(row['scores'][name])}"


def _covered(score: dict[str, Any]) -> str:
    return "as given" if score["videos"] is None else f"{score['videos']} of {score['expected']} videos"


def _print(results: dict[str, dict[str, Any]], to: Path) -> None:
    rows = [(name, *(_cell(row["scores"].get(name)) for row in results.values())) for name in DIMENSIONS]
    print_table("raw scores, %", ("score", *results), rows)
    aggregates = {name: [row["aggregates"].get(name) for row in results.values()] for name in NEEDS}
    rows = [(name, *("absent" if value is None else f"{value:.2f}" for value in values)) for name, values in aggregates.items()]
    print_table("aggregates", ("aggregate", *results), rows)
    print("quality and average are the paper's, from raw scores; official_* are VBench's: normalised first, without camera motion")
    if absent := [(name, score, reason) for name, row in results.items() for score, reason in row["absent"].items()]:
        print_table("absent", ("system", "score", "reason"), absent)
    for key, meaning in KINDS.items():
        if listed := [(name, *_video(each)) for name, row in results.items() for each in row.get(key) or []]:
            shown = listed[:SHOWN_VIDEOS]
            if len(listed) > len(shown):
                shown.append((listed[-1][0], f"and {len(listed) - len(shown)} more (see vbench.json)"))
            print_table(key, ("system", "video", "reason") if key == "failures" else ("system", "video"), shown)
            print(f"{key}: {len(listed)}, {meaning}")
    for name, row in results.items():
        if row.get("sampled"):
            print(f"{name}: a sample of {row['prompts']} of the suite's prompts")
    print(f"scores of every video: {to / 'vbench.json'}; page: {to / 'vbench.html'}")


def _video(each: Any) -> tuple[str, ...]:
    return (each["video"], f"{each['score']}: {each['reason']}") if isinstance(each, dict) else (each,)


def _cell(score: dict[str, Any] | None) -> str:
    if score is None:
        return "absent"
    return f"{score['score']:.2f}" if score["videos"] in (None, score["expected"]) else f"{score['score']:.2f} ({_covered(score)})"
