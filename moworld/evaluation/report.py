"""One self-contained page per run: steps, losses, videos, metrics with baselines, gates, data, INT8, lineage. Nothing is fetched."""

import base64
import io
from pathlib import Path
from typing import Any

from moworld.evaluation.metrics import METRICS
from moworld.files import Pathlike, atomic_write

TEMPLATE, COMPARISON, VBENCH = (Path(__file__).with_name(name) for name in ("report.html", "comparison.html", "vbench.html"))
BOX = (178, 46, 26)  # width, height and gap of a step in the DAG, pixels


def write_report(path: Pathlike, record: dict[str, Any]) -> None:
    """Render the record of a run (keys as pipelines gather them) to an HTML file. Missing parts are said to be missing."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters.update(number=number, size=size)
    samples = [
        {**row, **{kind: data_uri(row.get(kind), "video/mp4") for kind in ("real", "generated")}} for row in record.get("samples") or []
    ]
    data = record.get("data") or {}
    rejected = [{**row, "thumbnail": data_uri(row.get("thumbnail"), "image/png")} for row in data.get("quarantined") or []]
    metrics = {key: value for key, value in (record.get("metrics") or {}).items() if isinstance(value, int | float)}
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        record=record,
        dag=dag_svg(record.get("steps") or []),
        curves=[(step, curve_svg(series)) for step, series in (record.get("losses") or {}).items()],
        samples=samples,
        rejected=rejected,
        accepted=data.get("accepted"),
        captions=data.get("captions") or [],
        metrics=metrics,
        metric_rows=metric_rows(metrics),
        quantization=record.get("quantization") or {},
    )
    with atomic_write(path, "w") as stream:
        stream.write(page)


def write_comparison(path: Pathlike, titles: list[str], metrics: list[dict[str, Any]], folders: list[Path]) -> None:
    """One self-contained page of versions side by side: the table's metrics, and the held-out episodes as each continued them.

    metrics: what benchmark measured for each version; folders: where the videos that those name lie
    """
    import jinja2

    videos: dict[str, list[str | None]] = {}
    for index, (values, folder) in enumerate(zip(metrics, folders, strict=True)):
        for row in values.get("samples") or []:
            kept = videos.setdefault(row["title"], [None] * (1 + len(titles)))
            kept[0] = kept[0] or data_uri(folder / row["real"], "video/mp4")
            kept[1 + index] = data_uri(folder / row["generated"], "video/mp4")
    rows = [(name, [_with_unit(name, v[name]) if isinstance(v.get(name), int | float) else "" for v in metrics], METRICS[name].meaning)
            for name in METRICS if any(isinstance(v.get(name), int | float) for v in metrics)]  # fmt: skip
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(COMPARISON.read_text(encoding="utf-8")).render(titles=titles, rows=rows, videos=videos)
    with atomic_write(path, "w") as stream:
        stream.write(page)


def write_vbench(path: Path, told: dict[str, dict[str, Any]]) -> None:
    """One self-contained page of what vbench-i2v found for each subject: scores, aggregates, reasons of absence, what was not scored."""
    import jinja2

    from moworld.evaluation.vbench import DIMENSIONS, NEEDS

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(VBENCH.read_text(encoding="utf-8")).render(told=told, dimensions=DIMENSIONS, needs=NEEDS)
    with atomic_write(path, "w") as stream:
        stream.write(page)


def number(value: Any) -> str:
    """A number as a person reads it; other things as they are."""
    return f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)


def size(value: Any) -> str:
    """Bytes as MiB or GiB."""
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def metric_rows(metrics: dict[str, float]) -> list[dict[str, Any]]:
    """Each known metric with its unit, its baselines and its meaning, in the order of the one table; then what that table does not know."""
    known = [name for name in METRICS if metrics.get(name) is not None]
    rows = [
        {
            "name": name,
            "value": _with_unit(name, metrics[name]),
            "baselines": [{"name": b, "value": _with_unit(b, metrics[b])} for b in METRICS[name].baselines if metrics.get(b) is not None],
            "meaning": METRICS[name].meaning,
        }
        for name in known
    ]
    return rows + [
        {"name": name, "value": number(metrics[name]), "baselines": [], "meaning": ""} for name in sorted(set(metrics) - set(known))
    ]


def _with_unit(name: str, value: float) -> str:
    unit = METRICS[name].unit
    return size(value) if unit == "bytes" else f"{number(value)} {unit}".strip()


def dag_svg(steps: list[dict[str, Any]]) -> str:
    """The DAG as inline SVG: a column a depth, each box with seconds and peak memory."""
    depth: dict[str, int] = {}
    by_name = {step["name"]: step for step in steps}

    def level(name: str) -> int:
        if name not in depth:
            depth[name] = 1 + max((level(need) for need in by_name[name].get("needs") or [] if need in by_name), default=-1)
        return depth[name]

    width, height, gap = BOX
    per_row, places = 5, {}
    for index, name in enumerate(sorted(by_name, key=lambda n: (level(n), n))):
        row, column = divmod(index, per_row)
        places[name] = ((column if row % 2 == 0 else per_row - 1 - column) * (width + gap) + 8, row * (height + gap) + 8)
    parts = []
    for name, step in by_name.items():
        for need in step.get("needs") or []:
            if need in places:
                (x1, y1), (x2, y2) = places[need], places[name]
                parts.append(f'<path d="M{x1 + width / 2} {y1 + height / 2} L{x2 + width / 2} {y2 + height / 2}" class="edge"/>')
    for name, (x, y) in places.items():
        step = by_name[name]
        told = f"{step.get('seconds') or 0:.1f} s · {size(step.get('peak_bytes') or 0)}"
        parts.append(f'<g class="{step.get("status", "")}"><rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>')
        parts.append(f'<text x="{x + 10}" y="{y + 19}">{name}</text><text x="{x + 10}" y="{y + 36}" class="small">{told}</text></g>')
    rows = -(-len(places) // per_row)
    return f'<svg class="dag" viewBox="0 0 {per_row * (width + gap)} {rows * (height + gap) + 8}">{"".join(parts)}</svg>'


def curve_svg(series: dict[str, list[list[float]]]) -> str:
    """Loss curves as inline SVG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(4.2, 2.4))
    for name, points in series.items():
        if points:
            axes.plot([p[0] for p in points], [p[1] for p in points], label=name, linewidth=1)
    axes.set_xlabel("step")
    return svg_of(figure, axes)


def svg_of(figure: Any, axes: Any) -> str:
    """A matplotlib figure with a legend as inline SVG, the same for the same curves; the figure is closed."""
    from matplotlib import pyplot

    axes.legend(fontsize=7, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def data_uri(path: Any, kind: str) -> str:
    """A file's bytes as an address within the page; "" for one that is not there."""
    if not path or not Path(path).is_file():
        return ""
    return f"data:{kind};base64,{base64.b64encode(Path(path).read_bytes()).decode()}"
