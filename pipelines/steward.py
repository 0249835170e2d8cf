"""What a run's data steps left, gathered for the steward's pages: per contract the rows that were kept, those that were not, and why."""

from pathlib import Path
from typing import Any

from data_contracts.load import contract_names, load_contract
from data_contracts.pages import Checked
from moworld.errors import InputError
from moworld.files import read_json
from pipelines.report import output, quarantine
from pipelines.runs import Run, all_runs

KEPT = {"clips": ("complete_geometry", "clips"), "geometry": ("complete_geometry", "clips"), "quality": ("check_quality", "accepted"),
        "captions": ("annotate", "captioned"), "features": ("cache_features", "features")}  # fmt: skip
PUT_ASIDE = ("complete_geometry", "check_quality", "annotate")


def latest_checked() -> Run:
    """The newest run whose data was checked. Raises InputError when there is none."""
    for run in reversed(all_runs()):
        if run.steps().get("complete_geometry", {}).get("status") in ("done", "refused"):
            return run
    raise InputError("runs", "", "no run that checked data", "one", "run 'moworld run data --profile pocket' first")


def gather(run: Run) -> list[Checked]:
    """One `Checked` a contract, in the order in which data meets them."""
    order = [name for name in KEPT if name in contract_names()]
    return [_checked(run, name) for name in order]


def _checked(run: Run, name: str) -> Checked:
    contract = load_contract(name)
    step, artifact = KEPT[name]
    kept = output(run, step, artifact)
    rejected: dict[str, dict[str, Any]] = {}
    reasons = []
    for aside in PUT_ASIDE:
        folder = quarantine(run, aside)
        if folder is None or not (folder / "reasons.json").is_file():
            continue
        rows = {row["clip_id"]: row for row in _rows(folder)}
        for reason in read_json(folder / "reasons.json"):
            if reason["contract"] == name:
                thumbnail = str(folder / reason["thumbnail"]) if reason.get("thumbnail") else None
                reasons.append({**reason, "thumbnail": thumbnail})
                rejected[reason["clip_id"]] = rows.get(reason["clip_id"], {})
    held = run.steps().get(step, {}).get("status") == "done"
    return Checked(contract, _rows(kept) if kept else [], list(rejected.values()), reasons, held)


def _rows(folder: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    path = next((folder / name for name in ("manifest.parquet", "index.parquet") if (folder / name).is_file()), None)
    return parquet.read_table(path, partitioning=None).to_pylist() if path else []


def source_of(run: Run) -> dict[str, Any]:
    """The head of each page: which run, which data, which code."""
    record = run.record
    summary = run.steps().get("collect", {}).get("summary", {})
    told = {"run": run.name, "profile": record.get("profile"), "clips collected": summary.get("clips", "unknown")}
    left_out = summary.get("rejected") or []
    if left_out:
        told["left out before"] = f"{len(left_out)} stretches or videos"
    revision = record.get("data_revision")
    return {**told, "data revision": revision[:12] if revision else "none"}
