"""Contracts as a site for stewards: what each one promises, what its latest check found, how its measures are spread, what was rejected.

Pages stand for themselves: no script, nothing fetched, pictures beside them. Everything that comes from data is escaped.
"""

import math
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_contracts.load import Contract, Rule
from moworld.files import Pathlike, atomic_folder

TEMPLATE = Path(__file__).with_name("pages.html")
WIDTH, HEIGHT, BINS = 420, 120, 40


@dataclass(frozen=True)
class Checked:
    """What a check of one contract left: rows that were accepted and rejected, and why.

    reasons: one entry a broken rule: {"clip_id", "rule", "value", "threshold", "thumbnail"}; the thumbnail is a path, or None
    held: whether the batch went through, for the share that may be rejected is of clips, and rows may be parts of one
    """

    contract: Contract
    accepted: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    reasons: list[dict[str, Any]] = field(default_factory=list)
    held: bool = False

    @property
    def status(self) -> str:
        rows = len(self.accepted) + len(self.rejected)
        if not rows:
            return "not checked"
        few = bool(self.accepted) and len(self.rejected) <= self.contract.max_rejected_share * rows
        return "kept" if self.held or few else "broken"


def write_site(out: Pathlike, checked: list[Checked], source: dict[str, Any]) -> None:
    """Write index.html, a page a contract and the thumbnails into the folder `out`, complete or not at all.

    source: what was checked, in words for the head of each page, for example {"run": ..., "data revision": ...}
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    with atomic_folder(out) as folder:
        pages = [_page(part, folder) for part in checked]
        for page in [None, *pages]:
            name = "index" if page is None else page["name"]
            (folder / f"{name}.html").write_text(template.render(page=page, pages=pages, source=source), encoding="utf-8")


def _page(checked: Checked, folder: Path) -> dict[str, Any]:
    contract, counts = checked.contract, Counter(reason["rule"] for reason in checked.reasons)
    columns = []
    for column in contract.columns:
        rules = [rule for rule in contract.rules if rule.column == column.name and rule.kind != "type"]
        told = [{"name": rule.name, "says": in_words(rule), "broken": counts[rule.name]} for rule in rules]
        columns.append({"name": column.name, "type": column.logical_type, "description": column.description, "rules": told})
    plots = []
    for column in contract.columns:
        bounds = [bound for rule in contract.rules if rule.column == column.name for bound in (rule.minimum, rule.maximum)]
        drawn = histogram(_numbers(checked.accepted, column.name), _numbers(checked.rejected, column.name), bounds)
        if drawn:
            plots.append({"name": column.name, "description": column.description, "svg": drawn})
    return {
        "name": contract.name, "version": contract.version, "purpose": contract.purpose, "limitations": contract.limitations,
        "share": contract.max_rejected_share, "status": checked.status, "accepted": len(checked.accepted),
        "rejected": len(checked.rejected), "columns": columns, "plots": plots, "gallery": _gallery(checked, folder),
    }  # fmt: skip


def _gallery(checked: Checked, folder: Path) -> list[dict[str, Any]]:
    """Rejected rows with their picture and every rule they broke."""
    cards: dict[str, dict[str, Any]] = {}
    for reason in checked.reasons:
        name = str(reason["clip_id"])
        card = cards.setdefault(
            name, {"name": name, "picture": _picture(reason.get("thumbnail"), len(cards), checked, folder), "reasons": []}
        )
        card["reasons"].append({"rule": reason["rule"], "value": number(reason["value"]), "threshold": reason["threshold"]})
    return list(cards.values())


def _picture(source: str | None, index: int, checked: Checked, folder: Path) -> str | None:
    if not source or not Path(source).is_file():
        return None
    target = folder / "pictures" / f"{checked.contract.name}-{index:05d}{Path(source).suffix}"
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)
    return f"pictures/{target.name}"


def in_words(rule: Rule) -> str:
    """A rule as a sentence's end: "at most 1.5", "between 15 and 240", "in every row", "once only"."""
    if rule.kind == "required":
        return "in every row"
    if rule.kind == "unique":
        return "never twice"
    low, high = rule.minimum, rule.maximum
    if low is not None and high is not None:
        return f"between {low:g} and {high:g}"
    return f"at least {low:g}" if low is not None else f"at most {high:g}"


def number(value: Any) -> str:
    """A value as a person reads it."""
    return "missing" if value is None or value != value else f"{value:.4g}" if isinstance(value, float) else str(value)


def _numbers(rows: list[dict[str, Any]], name: str) -> list[float]:
    values = [row.get(name) for row in rows]
    return [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]


def histogram(accepted: list[float], rejected: list[float], bounds: list[float | None]) -> str:
    """An SVG of how values are spread: accepted below, rejected on top, thresholds as lines. "" without two values that differ."""
    values = np.array([*accepted, *rejected])
    if len(set(values.tolist())) < 2:
        return ""
    marks = [bound for bound in bounds if bound is not None]
    low, high = float(values.min()), float(values.max())
    reach = high - low  # a threshold far from every value would squeeze them into one bar; it then stands at the edge
    low, high = min([low, *(m for m in marks if m > low - reach)]), max([high, *(m for m in marks if m < high + reach)])
    edges = np.linspace(low, high, BINS + 1)
    below, above = (np.histogram(part, edges)[0] for part in (accepted, rejected))
    top, wide, parts = max(1, int((below + above).max())), WIDTH / BINS, []
    for index, (a, b) in enumerate(zip(below.tolist(), above.tolist(), strict=True)):
        heights = [(HEIGHT - 24) * count / top for count in (a, b)]
        place = f'x="{index * wide:.1f}" width="{wide - 1:.1f}"'
        parts += [f'<rect class="ok" {place} y="{HEIGHT - 18 - heights[0]:.1f}" height="{heights[0]:.1f}"/>'] if a else []
        parts += [f'<rect class="no" {place} y="{HEIGHT - 18 - sum(heights):.1f}" height="{heights[1]:.1f}"/>'] if b else []
    for mark in marks:
        x = WIDTH * min(1.0, max(0.0, (mark - low) / (high - low)))
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{HEIGHT - 18}"><title>threshold {mark:g}</title></line>')
    parts.append(f'<text x="0" y="{HEIGHT - 4}">{low:.4g}</text><text x="{WIDTH}" y="{HEIGHT - 4}" text-anchor="end">{high:.4g}</text>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">{"".join(parts)}</svg>'
