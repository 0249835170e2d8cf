"""Data of a run for the pages of `moworld data docs`: per contract the accepted rows, the rejected rows and the reasons."""

from collections import Counter
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld_ops.data_contracts.load import load_contract
from moworld_ops.data_contracts.pages import Batch, Checked
from moworld_ops.pipelines.runs import Run, all_runs

# Contract -> step and output with its accepted rows, in the order in which data meets them.
ACCEPTED = {"clips": ("complete_geometry", "clips"), "geometry": ("complete_geometry", "clips"), "quality": ("check_quality", "accepted"),
            "captions": ("annotate", "captioned"), "features": ("cache_features", "features")}  # fmt: skip


def latest_checked() -> Run:
    """Returns the newest run with checked data; raises InputError if there is none."""
    for run in reversed(all_runs()):
        if run.step("complete_geometry").get("status") in ("done", "refused"):
            return run
    raise InputError("runs", "", "no run that checked data", "one", "run 'moworld run data --profile pocket' first")


def checked_by_contract(run: Run) -> list[Checked]:
    """Returns one `Checked` per contract."""
    return [_checked(run, name) for name in ACCEPTED]


def trend(run: Run, limit: int = 20) -> list[Batch]:
    """Returns a batch for each of the newest runs of a run's profile, up to that run, newest first. Runs without checked data have none."""
    record = run.record
    batches: list[Batch] = []
    for other in reversed(all_runs()):
        facts = other.record
        earlier = (facts["started"] or 0) <= (record["started"] or 0)
        if earlier and facts.get("profile") == record.get("profile") and (batch := _batch(other)) is not None:
            batches.append(batch)
        if len(batches) == limit:
            break
    return batches


def _batch(run: Run) -> Batch | None:
    """Returns a run's accepted and rejected clips; None if it checked none, if its folders were removed, or if a record is damaged.

    Of a run that a contract refused no clip is accepted. A rejected clip counts at the first contract that it broke.
    """
    from moworld.files import read_parquet

    try:
        folder, rejections = run.output("annotate", "captioned"), list(run.rejections())
        manifest = folder / "manifest.parquet" if folder else None
        rows = read_parquet(manifest, ["clip_id"]).num_rows if manifest and manifest.is_file() else None
    except (OSError, ValueError):  # InputError and pyarrow's errors, too
        return None
    first: dict[str, str] = {}
    for _, _, reasons in rejections:
        for reason in reasons:
            first.setdefault(reason["clip_id"], reason["contract"])
    if rows is None and not first:
        return None
    return Batch(run.name, rows or 0, dict(Counter(first.values())))


def _checked(run: Run, name: str) -> Checked:
    step, artifact = ACCEPTED[name]
    accepted = run.output(step, artifact)
    rejected: dict[str, dict[str, Any]] = {}
    reasons, others = [], []
    for place, folder, found in run.rejections():
        rows = {row["clip_id"]: row for row in rows_of(folder)}
        for reason in found:
            if reason["contract"] == name:
                row = rows.get(reason["clip_id"], {})
                paths = {"thumbnail": reason.get("thumbnail"), "video": row.get("video")}
                facts = {key: str(folder / path) if path else None for key, path in paths.items()}
                reasons.append({**reason, **facts, "source_file": row.get("source_file")})
                rejected[reason["clip_id"]] = row
        if place == step:  # rejected by another contract of the same step alone
            others += [row for clip_id, row in rows.items() if clip_id not in rejected]
    finished = run.step(step).get("status") == "done"
    kept = [*(rows_of(accepted) if accepted else []), *others]
    return Checked(load_contract(name), kept, list(rejected.values()), reasons, finished)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Returns the rows of a folder's manifest.parquet or index.parquet; [] if it has neither."""
    from moworld.files import read_parquet

    path = next((folder / name for name in ("manifest.parquet", "index.parquet") if (folder / name).is_file()), None)
    return read_parquet(path).to_pylist() if path else []


def import_facts(run: Run) -> dict[str, Any]:
    """Returns what an import did: `counts` of files and clips, `files` with their fates, and `rejected` clips and stretches with reasons."""
    steps = run.steps()
    collected = steps.get("collect", {}).get("summary", {})
    rejected = [
        {"clip": row["video"], "source_file": row["video"], "contract": "", "rule": row["rule"], "value": row["value"], "threshold": "", "repeats": None}
        for row in collected.get("rejected", [])
    ]
    accepted = rows_of(made) if (made := run.output("annotate", "captioned")) else []
    for _, folder, reasons in run.rejections():
        files = {row["clip_id"]: row["source_file"] for row in rows_of(folder)}
        kept = ("contract", "rule", "value", "threshold", "repeats")
        rejected += [{"clip": one["clip_id"], "source_file": files.get(one["clip_id"]), **{key: one.get(key) for key in kept}} for one in reasons]
    earlier = collected.get("clips", 0) - collected.get("new", collected.get("clips", 0))
    clips = len({row["clip"] for row in rejected if row["contract"]})
    counts = {"files": len(collected.get("files", [])), "clips": len(accepted), "new": max(0, len(accepted) - earlier), "rejected": clips}
    return {"counts": counts, "files": collected.get("files", []), "rejected": rejected}


def page_head(run: Run) -> dict[str, Any]:
    """Returns the facts at the head of each page: run, profile, number of clips, data revision."""
    record = run.record
    summary = run.steps().get("collect", {}).get("summary", {})
    facts = {"run": run.name, "profile": record.get("profile"), "clips collected": summary.get("clips", "unknown")}
    if rejected := summary.get("rejected"):
        facts["rejected before"] = f"{len(rejected)} stretches or videos"
    revision = record.get("data_revision")
    return {**facts, "data revision": revision[:12] if revision else "none"}
