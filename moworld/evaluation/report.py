"""Self-contained HTML pages: the report of a run, versions side by side, and VBench scores. The pages load nothing from outside."""

import base64
import io
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from moworld.evaluation.metrics import METRICS, Metric
from moworld.evaluation.vbench import DIMENSIONS, NEEDS
from moworld.files import Pathlike, atomic_write

UNKNOWN = Metric(unit="", higher_is_better=True, meaning="")
BOX = (178, 46, 26)  # width, height and gap of a step in the DAG, pixels


def write_page(path: Pathlike, template: str, **values: Any) -> None:
    """Renders a template of this folder to an HTML file; raises jinja2.UndefinedError if a value is missing."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters.update(number=number, size=size)
    page = environment.from_string(Path(__file__).with_name(template).read_text(encoding="utf-8")).render(**values)
    with atomic_write(path, "w") as stream:
        stream.write(page)


def write_report(path: Pathlike, record: dict[str, Any]) -> None:
    """Writes the report of a run from its record, with the keys that pipelines gather. Missing parts are reported as missing."""
    kinds = ("real", "generated")
    samples = [{**row, **{kind: data_uri(row.get(kind), "video/mp4") for kind in kinds}} for row in record.get("samples") or []]
    data = record.get("data") or {}
    metrics = {key: value for key, value in (record.get("metrics") or {}).items() if _is_number(value)}
    write_page(
        path,
        "report.html",
        record=record,
        dag=dag_svg(record.get("steps") or []),
        curves=[(step, curve_svg(series)) for step, series in (record.get("losses") or {}).items()],
        samples=samples,
        rejected=[{**row, "thumbnail": data_uri(row.get("thumbnail"), "image/png")} for row in data.get("quarantined") or []],
        accepted=data.get("accepted"),
        captions=data.get("captions") or [],
        metrics=metrics,
        metric_rows=metric_rows(metrics),
        quantization=record.get("quantization") or {},
    )


def write_comparison(path: Pathlike, titles: list[str], metrics: list[dict[str, Any]], folders: list[Path]) -> None:
    """Writes a page of versions side by side: metrics, and the held-out episodes as each version continued them.

    metrics: result of the benchmark for each version; folders: those of the videos that it names
    """
    videos: dict[str, list[str | None]] = {}
    for index, (values, folder) in enumerate(zip(metrics, folders, strict=True)):
        for row in values.get("samples") or []:
            shown = videos.setdefault(row["title"], [None] * (1 + len(titles)))
            shown[0] = shown[0] or data_uri(folder / row["real"], "video/mp4")
            shown[1 + index] = data_uri(folder / row["generated"], "video/mp4")
    shown_rows = ((name, [_with_unit(name, v[name]) if _is_number(v.get(name)) else "" for v in metrics]) for name in METRICS)
    rows = [(name, texts, METRICS[name].meaning) for name, texts in shown_rows if any(texts)]
    write_page(path, "comparison.html", titles=titles, rows=rows, videos=videos)


def write_vbench(path: Path, results: dict[str, dict[str, Any]]) -> None:
    """Writes the vbench-i2v results of each subject: scores, aggregates, reasons for absent ones, and videos that were not scored."""
    write_page(path, "vbench.html", results=results, dimensions=DIMENSIONS, needs=NEEDS)


def number(value: Any) -> str:
    """Returns a number with four digits; other values as text."""
    return f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def size(value: Any) -> str:
    """Returns bytes as MiB or GiB."""
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def metric_rows(metrics: dict[str, float]) -> list[dict[str, Any]]:
    """Returns each metric with unit, baselines and meaning, in the order of METRICS; then metrics that are not in METRICS."""
    rows = []
    for name in [*(name for name in METRICS if name in metrics), *sorted(set(metrics) - set(METRICS))]:
        metric = METRICS.get(name, UNKNOWN)
        baselines = [{"name": other, "value": _with_unit(other, metrics[other])} for other in metric.baselines if other in metrics]
        rows.append({"name": name, "value": _with_unit(name, metrics[name]), "baselines": baselines, "meaning": metric.meaning})
    return rows


def _with_unit(name: str, value: float) -> str:
    unit = METRICS.get(name, UNKNOWN).unit
    return size(value) if unit == "bytes" else f"{number(value)} {unit}".strip()


def dag_svg(steps: list[dict[str, Any]]) -> str:
    """Returns the DAG as inline SVG in topological order, each box with seconds and peak memory."""
    by_name = {step["name"]: step for step in steps}
    needs = {name: [need for need in step.get("needs") or [] if need in by_name] for name, step in by_name.items()}
    width, height, gap = BOX
    per_row, places = 5, {}
    for index, name in enumerate(TopologicalSorter(needs).static_order()):
        row, column = divmod(index, per_row)
        places[name] = ((column if row % 2 == 0 else per_row - 1 - column) * (width + gap) + 8, row * (height + gap) + 8)
    parts = []
    for name, before in needs.items():
        for need in before:
            (x1, y1), (x2, y2) = places[need], places[name]
            parts.append(f'<path d="M{x1 + width / 2} {y1 + height / 2} L{x2 + width / 2} {y2 + height / 2}" class="edge"/>')
    for name, (x, y) in places.items():
        step = by_name[name]
        cost = f"{step.get('seconds') or 0:.1f} s · {size(step.get('peak_bytes') or 0)}"
        parts.append(f'<g class="{step.get("status", "")}"><rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>')
        parts.append(f'<text x="{x + 10}" y="{y + 19}">{name}</text><text x="{x + 10}" y="{y + 36}" class="small">{cost}</text></g>')
    rows = -(-len(places) // per_row)
    return f'<svg class="dag" viewBox="0 0 {per_row * (width + gap)} {rows * (height + gap) + 8}">{"".join(parts)}</svg>'


def curve_svg(series: dict[str, list[list[float]]]) -> str:
    """Returns loss curves as inline SVG."""
    axes = new_axes((4.2, 2.4), "step")
    for name, points in series.items():
        if points:
            axes.plot(*zip(*points, strict=True), label=name, linewidth=1)
    return svg_of(axes)


def new_axes(size: tuple[float, float], x: str, y: str = "") -> Any:
    """Returns the axes of a new matplotlib figure of `size` inches, without pyplot and its global state."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=size).subplots()
    axes.set(xlabel=x, ylabel=y)
    return axes


def svg_of(axes: Any) -> str:
    """Returns the figure of `axes`, with a legend if a curve has a name, as inline SVG; equal curves give equal text."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=7, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    axes.figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def data_uri(path: Any, kind: str) -> str:
    """Returns a file as a data URI; "" if it does not exist."""
    if not path or not Path(path).is_file():
        return ""
    return f"data:{kind};base64,{base64.b64encode(Path(path).read_bytes()).decode()}"
