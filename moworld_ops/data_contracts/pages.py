"""HTML pages about contracts: what each requires, the result of its latest check, distributions of its measures, rejected rows.

Pages are self-contained: nothing is fetched, images are beside them, and the one script, for the search, is in the page. Everything that
comes from data is escaped.
"""

import csv
import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moworld.files import Pathlike, atomic_folder
from moworld_ops.data_contracts.load import Contract
from moworld_ops.data_contracts.rules import BatchRule, Rule

TEMPLATE = Path(__file__).with_name("pages.html")
WIDTH, HEIGHT, BINS = 420, 120, 40


@dataclass(frozen=True)
class Checked:
    """Result of checking one contract: accepted and rejected rows, and the reasons.

    reasons: one entry per broken rule: {"clip_id", "rule", "value", "threshold", "thumbnail"}; the thumbnail is a path, or None. Optional:
             "source_file", "video" (path), "explanation", and "repeats", the clip that a duplicate repeats
    passed:  whether the batch passed; the allowed share is of clips, and several rows may be parts of one clip
    """

    contract: Contract
    accepted: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    reasons: list[dict[str, Any]] = field(default_factory=list)
    passed: bool = False

    @property
    def status(self) -> str:
        rows = len(self.accepted) + len(self.rejected)
        if not rows:
            return "not checked"
        few = bool(self.accepted) and len(self.rejected) <= self.contract.max_rejected(rows)
        return "kept" if self.passed or few else "broken"


@dataclass(frozen=True)
class Batch:
    """One of the batches that a trend compares: accepted clips, and rejected clips by the name of the contract that they broke."""

    name: str
    accepted: int
    rejected: dict[str, int]


def write_site(out: Pathlike, checked: list[Checked], source: dict[str, Any], trend: Sequence[Batch] = ()) -> None:
    """Writes index.html, per contract a page and the rejected rows as CSV, and the thumbnails into the folder `out`, atomically.

    source: what was checked, shown at the head of each page, for example {"run": ..., "data revision": ...}
    trend:  batches of several runs, newest first, shown on the index
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    with atomic_folder(out) as folder:
        pages = [_page(part, folder) for part in checked]
        for page in [None, *pages]:
            name = "index" if page is None else page["name"]
            (folder / f"{name}.html").write_text(template.render(page=page, pages=pages, source=source, trend=trend), encoding="utf-8")
        for part in checked:
            _write_csv(folder / f"{part.contract.name}.csv", part.reasons)


def _page(checked: Checked, folder: Path) -> dict[str, Any]:
    contract, counts = checked.contract, Counter(reason["rule"] for reason in checked.reasons)
    columns = []
    for column in contract.columns:
        rules = [rule for rule in contract.rules if rule.column == column.name and rule.kind != "type"]
        listed = [{"name": rule.name, "text": in_words(rule), "broken": counts[rule.name]} for rule in rules]
        columns.append({"name": column.name, "type": column.logical_type, "description": column.description, "rules": listed})
    listed = [{"name": rule.name, "text": in_words(rule), "broken": counts[rule.name]} for rule in contract.batch_rules]
    columns += [{"name": "all rows", "type": "", "description": "Rules on the batch.", "rules": listed}] if listed else []
    plots = []
    for column in contract.columns:
        bounds = [bound for rule in contract.rules if (rule.column, rule.kind) == (column.name, "range") for bound in (rule.minimum, rule.maximum)]
        drawn = histogram(_numbers(checked.accepted, column.name), _numbers(checked.rejected, column.name), bounds)
        if drawn:
            plots.append({"name": column.name, "description": column.description, "drawing": drawn})
    return {
        "name": contract.name, "version": contract.version, "purpose": contract.purpose, "limitations": contract.limitations,
        "share": contract.max_rejected_share, "status": checked.status, "accepted": len(checked.accepted),
        "rejected": len(checked.rejected), "columns": columns, "plots": plots, "gallery": _gallery(checked, folder),
        "rules": _by_rule(checked), "sources": _by_source(checked),
    }  # fmt: skip


def _by_rule(checked: Checked) -> list[dict[str, Any]]:
    """Returns for each broken rule the rows that broke it, and those that broke it first: the latter add up to the rejected rows."""
    first: dict[str, str] = {}
    for reason in checked.reasons:
        first.setdefault(str(reason["clip_id"]), reason["rule"])
    broken = Counter(rule for _, rule in {(reason["clip_id"], reason["rule"]) for reason in checked.reasons})
    counted = Counter(first.values())
    return [{"rule": rule, "broken": count, "first": counted[rule]} for rule, count in sorted(broken.items(), key=lambda item: (-item[1], item[0]))]


def _by_source(checked: Checked) -> list[dict[str, Any]]:
    """Returns accepted and rejected rows of each source file, those with most rejected rows first; [] if no row names its source."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, rows in (("accepted", checked.accepted), ("rejected", checked.rejected)):
        for row in rows:
            if name := row.get("source_file") or row.get("scene"):
                counts[str(name)][kind] += 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1]["rejected"], item[0]))
    return [{"name": name, "accepted": own["accepted"], "rejected": own["rejected"]} for name, own in ordered]


def _write_csv(path: Path, reasons: list[dict[str, Any]]) -> None:
    """Writes one line per broken rule. Text that a spreadsheet would take as a formula gets an apostrophe."""
    columns = ("clip_id", "source_file", "rule", "value", "threshold", "repeats", "explanation")
    with path.open("w", encoding="utf-8", newline="") as stream:
        lines = csv.writer(stream)
        lines.writerow(columns)
        for reason in reasons:
            cells = ["" if reason.get(column) is None else reason[column] for column in columns]
            lines.writerow([f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "@")) else cell for cell in cells])


def _gallery(checked: Checked, folder: Path) -> list[dict[str, Any]]:
    """Returns rejected rows with their image and every rule they broke."""
    cards: dict[str, dict[str, Any]] = {}
    for reason in checked.reasons:
        name = str(reason["clip_id"])
        if name not in cards:
            facts = {key: reason.get(key) for key in ("source_file", "explanation")}
            video = Path(reason["video"]).absolute().as_uri() if reason.get("video") else None
            image = _image(reason.get("thumbnail"), len(cards), checked, folder)
            cards[name] = {"name": name, "image": image, "reasons": [], "video": video, "repeats": None, **facts}
        card = cards[name]
        card["repeats"] = card["repeats"] or reason.get("repeats")
        card["reasons"].append({"rule": reason["rule"], "value": number(reason["value"]), "threshold": reason["threshold"]})
    return list(cards.values())


def _image(source: str | None, index: int, checked: Checked, folder: Path) -> str | None:
    if not source or not Path(source).is_file():
        return None
    target = folder / "pictures" / f"{checked.contract.name}-{index:05d}{Path(source).suffix}"
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)
    return f"pictures/{target.name}"


def in_words(rule: Rule | BatchRule) -> str:
    """Returns a rule as text: "at most 1.5", "between 15 and 240", "in every row", "never twice"."""
    if isinstance(rule, BatchRule) or rule.kind not in ("required", "unique", "range"):
        return rule.threshold
    if rule.kind == "required":
        return "in every row"
    if rule.kind == "unique":
        return "never twice" + (f": {', '.join(rule.columns)} together" if len(rule.columns) > 1 else "")
    low, high = rule.minimum, rule.maximum
    if low is None or high is None:
        words = ("above" if rule.exclusive_minimum else "at least") if low is not None else ("below" if rule.exclusive_maximum else "at most")
        return f"{words} {high if low is None else low:g}"
    if rule.exclusive_minimum or rule.exclusive_maximum:
        return f"{'above' if rule.exclusive_minimum else 'at least'} {low:g} and {'below' if rule.exclusive_maximum else 'at most'} {high:g}"
    return f"between {low:g} and {high:g}"


def number(value: Any) -> str:
    """Returns a value as display text."""
    return "missing" if value is None or value != value else f"{value:.4g}" if isinstance(value, float) else str(value)


def _numbers(rows: list[dict[str, Any]], name: str) -> list[float]:
    values = [row.get(name) for row in rows]
    return [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]


def histogram(accepted: list[float], rejected: list[float], bounds: list[float | None]) -> dict[str, Any] | None:
    """Returns what the template draws: stacked bars, threshold marks, and the range. None without two different values.

    bars: x, width, and (y, height) of accepted and rejected values; marks: x and value, and whether it is outside of the drawing, at whose
    edge it is drawn then; all in pixels of the drawing
    """
    values = np.array([*accepted, *rejected])
    if len(set(values.tolist())) < 2:
        return None
    marks = [bound for bound in bounds if bound is not None]
    low, high = float(values.min()), float(values.max())
    reach = high - low  # a threshold far from every value is drawn at the edge, so that the bars keep their width
    low, high = min([low, *(m for m in marks if m > low - reach)]), max([high, *(m for m in marks if m < high + reach)])
    edges = np.linspace(low, high, BINS + 1)
    counts = np.stack([np.histogram(part, edges)[0] for part in (accepted, rejected)])
    heights = counts * (HEIGHT - 24) / max(1, int(counts.sum(axis=0).max()))
    bars = [
        {"x": index * WIDTH / BINS, "width": WIDTH / BINS - 1, "ok": (HEIGHT - 18 - a, a), "no": (HEIGHT - 18 - a - b, b)}
        for index, (a, b) in enumerate(heights.T.tolist())
    ]
    shares = [(mark, (mark - low) / (high - low)) for mark in marks]
    places = [{"x": WIDTH * min(1.0, max(0.0, share)), "value": mark, "outside": not 0 <= share <= 1} for mark, share in shares]
    return {"width": WIDTH, "height": HEIGHT, "low": low, "high": high, "bars": bars, "marks": places}
