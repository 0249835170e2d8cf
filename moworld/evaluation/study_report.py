"""Results of the study: a table of means and standard deviations over seeds, targets, and a page with curves and videos."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

from moworld.evaluation.report import data_uri, new_axes, svg_of, write_page
from moworld.evaluation.study import SHEET, WALK_SHEET, stem_of
from moworld.files import Pathlike

Results = dict[str, list[dict[str, Any]]]
CURVE_SIZE = (6.4, 3.6)  # inches


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds."""

    mean: float
    spread: float

    def __str__(self) -> str:
        return f"{self.mean:.3g} ± {self.spread:.1g}" if abs(self.mean) < 10 else f"{self.mean:.2f} ± {self.spread:.2f}"


def spread_of(values: list[Any]) -> Spread | None:
    """Returns mean and standard deviation, or None if a seed has no value."""
    if not values or any(value is None for value in values):
        return None
    return Spread(statistics.fmean(values), statistics.pstdev(values))


# Column of the table -> its value in the measurements of a seed.
COLUMNS: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "first chunk, dB": lambda m: float(m["first_psnr"]),
    "over still, dB": lambda m: float(m["first_psnr"] - m["still_psnr"][0]),
    "last chunk, dB": lambda m: float(m["chunk_psnr"][-1]) if len(m["chunk_psnr"]) > 1 else None,
    **{column: methodcaller("get", key) for column, key in {
        "turning": "turning_correlation", "walking": "walking_correlation", "swapped turns": "swapped_turns",
        "turning, share of recorded": "turning_gain", "walking, share of recorded": "walking_gain",
        "turn error, degrees": "turning_error", "walk error, units": "walking_error",
        "seen again, dB": "revisit_psnr", "as before, dB": "revisit_self_psnr",
    }.items()},
    **{f"{look} at {at}": lambda m, look=look, at=at: m.get("looks", {}).get(at, {}).get(look)  # type: ignore[misc]
       for at in ("100", "500", "1000") for look in ("contrast", "saturation", "sharpness", "motion")},
    "ms a frame": lambda m: 1000 * float(m["seconds_per_frame"]),
}  # fmt: skip


def table(results: Results) -> dict[str, dict[str, Spread | None]]:
    """Returns variant -> column -> mean and standard deviation over seeds."""
    return {name: {column: spread_of([of(seed) for seed in seeds]) for column, of in COLUMNS.items()} for name, seeds in results.items()}


def targets(results: Results, codec_psnr: float | None, decode_ms: float, teacher_evaluations: float | None = None) -> list[dict[str, Any]]:
    """Returns the targets of a distilled model: rows of name, wanted, found, met (None: not measured).

    decode_ms:           milliseconds for 12 frames of 96x160
    teacher_evaluations: forward passes of the teacher before the first student phase
    """
    found = table(results)
    student, zeroed = (found.get(name, {}) for name in ("student", "student, camera zeroed"))
    single = lambda value: None if value is None else Spread(float(value), 0.0)  # noqa: E731
    return [
        _row("turning follows the command, correlation", "at least 0.9", student.get("turning"), lambda s: s.mean >= 0.9),
        _row("walking follows the command, correlation", "at least 0.8", student.get("walking"), lambda s: s.mean >= 0.8),
        _row("clear turns seen to the other side", "0", student.get("swapped turns"), lambda s: s.mean == 0),
        _row("turning with the camera zeroed, correlation", "below 0.2", zeroed.get("turning"), lambda s: abs(s.mean) < 0.2),
        _row("walking with the camera zeroed, correlation", "below 0.2", zeroed.get("walking"), lambda s: abs(s.mean) < 0.2),
        _row("codec alone, dB", "at least 26", single(codec_psnr), lambda s: s.mean >= 26),
        _row("decoding 12 frames of 96x160, ms", "at most 80", single(decode_ms), lambda s: s.mean <= 80),
        _row("first chunk over the repeated last frame, dB", "at least 3", student.get("over still, dB"), lambda s: s.mean >= 3),
        _row("first chunk, student under the teacher at 50 steps, dB", "at most 1", _gap(results, "teacher, 50 steps", "student", "first chunk, dB"),
             lambda s: s.mean <= 1),
        _row("first chunk, student over the teacher at 4 steps, dB", "above 0", _gap(results, "student", "teacher, 4 steps", "first chunk, dB"), lambda s: s.mean > 0),
        *(_row(f"{look} at frame 1,000, share of recorded", "0.8 to 1.2", student.get(f"{look} at 1000"), lambda s: 0.8 <= s.mean <= 1.2)
          for look in ("contrast", "saturation", "sharpness")),
        _row("motion at frame 1,000, share of recorded", "at least 0.5", student.get("motion at 1000"), lambda s: s.mean >= 0.5),
        _row("a place seen again, camera-similar over recent history, dB", "above the spread",
             _gap(results, "student", "student, recent history", "seen again, dB"), lambda s: s.mean > s.spread),
        _row("teacher evaluations before the first student phase", "0", single(teacher_evaluations), lambda s: s.mean == 0),
    ]  # fmt: skip


def _gap(results: Results, one: str, other: str, column: str) -> Spread | None:
    """Returns the difference of two variants, seed by seed, since both had the same episodes and noise."""
    if one not in results or other not in results:
        return None
    pairs = [(COLUMNS[column](a), COLUMNS[column](b)) for a, b in zip(results[one], results[other], strict=True)]
    return spread_of([None if a is None or b is None else a - b for a, b in pairs])


def _row(name: str, target: str, found: Spread | None, met: Callable[[Spread], bool]) -> dict[str, Any]:
    return {"name": name, "wanted": target, "found": found, "met": None if found is None else met(found)}


def write_study(path: Pathlike, results: Results, rows: list[dict[str, Any]], videos: Path, facts: dict[str, Any]) -> None:
    """Writes one self-contained page; videos: folder that `run_study` filled; facts: shown unchanged."""
    found = table(results)
    columns = [name for name in COLUMNS if any(row[name] is not None for row in found.values())]
    shown = {name: {key: str(row[key]) if row[key] is not None else "" for key in columns} for name, row in found.items()}
    names = {"recorded": "recorded", **{name: f"{stem_of(name)}-0" for name in results}}
    files = {"video": (".mp4", "video/mp4"), "sheet": (".png", "image/png"), "walk": ("-walk.png", "image/png")}
    films = [
        {"name": name, **{key: data_uri(videos / f"{stem}{end}", kind) for key, (end, kind) in files.items()}}
        for name, stem in names.items()
    ]
    curves = [error_svg(results), *(drift_svg(results, look) for look in ("sharpness", "contrast", "motion"))]
    write_page(
        path,
        "study.html",
        facts=facts,
        columns=columns,
        table=shown,
        targets=rows,
        curves=curves,
        films=films,
        sheet=SHEET,
        walk=WALK_SHEET,
    )


def error_svg(results: Results) -> str:
    """Returns the PSNR by chunk of each variant with a rollout, mean and range over seeds, and of the repeated first frame."""
    axes = new_axes(CURVE_SIZE, "chunk", "PSNR to the recording, dB")
    rolled = {name: [seed["chunk_psnr"] for seed in seeds] for name, seeds in results.items() if len(seeds[0]["chunk_psnr"]) > 1}
    if rolled:
        rolled["first frame repeated"] = [seed["still_psnr"] for seed in results[next(iter(rolled))]]
    for name, series in rolled.items():
        _band(axes, range(1, 1 + len(series[0])), series, name)
    return svg_of(axes)


def drift_svg(results: Results, look: str) -> str:
    """Returns one of LOOKS over the frames of each variant with a walk, as a share of the recorded value."""
    axes = new_axes(CURVE_SIZE, "frame", f"{look}, share of recorded")
    for name, seeds in results.items():
        if seeds[0].get("looks"):
            at = sorted(int(frame) for frame in seeds[0]["looks"])
            _band(axes, at, [[seed["looks"][str(frame)][look] for frame in at] for seed in seeds], name)
    return svg_of(axes)


def _band(axes: Any, x: Any, series: list[list[float]], name: str) -> None:
    import numpy as np

    values = np.array(series)
    (line,) = axes.plot(list(x), values.mean(0), label=name, linewidth=1, marker=".", markersize=3)  # a single value is a point
    axes.fill_between(list(x), values.min(0), values.max(0), alpha=0.15, color=line.get_color(), linewidth=0)
