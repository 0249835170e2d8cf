"""Closes a run: what its steps said goes into run.json, and the report is written from that."""

import json
import sys
from pathlib import Path
from typing import Any

from moworld.files import read_json
from pipelines.runs import Run, ordered

LOSSES = "losses.json"


def close_record(run: Run) -> None:
    """Add model, metrics and data revision to run.json and write report.html; a report that fails does not fail the run."""
    steps = run.steps()
    promoted, registered = steps.get("promote", {}), steps.get("register", {})
    model = None
    if registered.get("status") == "done":
        alias = "champion" if promoted.get("status") == "done" else "candidate"
        summary = registered["summary"]
        model = {"name": summary["name"], "version": summary["version"], "alias": alias, "hash": summary["model_sha256"]}
    revision = steps.get("cache_features", {}).get("summary", {})
    run.update(
        model=model,
        metrics=metrics_of(run),
        data_revision=revision.get("revision", revision.get("data_revision", "")),
        contract_version=revision.get("contract_version", ""),
    )
    path = run.folder / "report.html"
    try:
        from moworld.evaluation.report import write_report

        write_report(path, gather(run))
        run.update(report=str(path))
    except Exception as error:  # the run's own outcome stands; what is missing is said
        run.update(report=None, report_error=f"{type(error).__name__}: {error}")
        print(f"the report could not be written: {type(error).__name__}: {error}", file=sys.stderr)


def metrics_of(run: Run) -> dict[str, Any]:
    """metrics.json of benchmark, or nothing."""
    path = output(run, "benchmark", "metrics")
    return dict(read_json(path / "metrics.json")) if path and (path / "metrics.json").is_file() else {}


def output(run: Run, step: str, name: str) -> Path | None:
    """Folder of a finished step's output, or None."""
    found = run.steps().get(step, {}).get("outputs", {}).get(name)
    return Path(found["path"]) if found and Path(found["path"]).exists() else None


def quarantine(run: Run, step: str) -> Path | None:
    """Folder of what a step put aside, also where the whole batch was refused; None where there is none."""
    refused = run.folder / "refused" / step
    return output(run, step, "quarantine") or (refused if refused.is_dir() else None)


def gather(run: Run) -> dict[str, Any]:
    """What `moworld.evaluation.report.write_report` takes."""
    record, steps = run.record, run.steps()
    gates = steps.get("promote", {}).get("summary", {}).get("gates", [])
    quantize = steps.get("quantize", {}).get("summary", {})
    return {
        **{
            key: record.get(key)
            for key in ("run", "pipeline", "profile", "status", "seconds", "git_commit", "data_revision", "contract_version")
        },
        "steps": [
            {
                "name": name,
                "peak_bytes": 0,
                "seconds": 0.0,
                "error": None,
                **{k: v for k, v in step.items() if k not in ("attempt", "exit")},
            }
            for name, step in record["steps"].items()
        ],
        "losses": losses(run),
        "metrics": record.get("metrics", {}),
        "gates": gates,
        "samples": samples(run),
        "data": data(run),
        "quantization": quantize,
        "model": record.get("model"),
        "lineage": lineage(run),
    }


def losses(run: Run) -> dict[str, dict[str, list[list[float]]]]:
    """Loss curves by step: losses.json of each training step's output."""
    curves = {}
    for name, _ in ordered(run.record):
        for artifact in run.steps().get(name, {}).get("outputs", {}).values():
            path = Path(artifact["path"]) / LOSSES
            if path.is_file() and name not in ("quantize",):
                curves[name] = read_json(path)
    return curves


def samples(run: Run) -> list[dict[str, Any]]:
    """Held-out episodes, real beside generated: samples.json of benchmark, or its videos by name."""
    folder = output(run, "benchmark", "metrics")
    if folder is None:
        return []
    listed = run.record.get("metrics", {}).get("samples")
    if isinstance(listed, list):
        return [{**row, **{key: str(folder / row[key]) for key in ("real", "generated") if row.get(key)}} for row in listed]
    pairs = [(path, path.with_name(path.name.replace("real", "generated"))) for path in sorted((folder / "samples").glob("*real*.mp4"))]
    return [{"title": a.stem, "real": str(a), "generated": str(b), "note": ""} for a, b in pairs if b.exists()]


def data(run: Run) -> dict[str, Any]:
    """Accepted and quarantined clips with their reasons, and some captions."""
    quarantined: list[dict[str, Any]] = []
    for step in ("complete_geometry", "check_quality", "annotate"):
        folder = quarantine(run, step)
        if folder and (folder / "reasons.json").is_file():
            quarantined += [_reason(row, folder) for row in read_json(folder / "reasons.json")]
    captioned = output(run, "annotate", "captioned")
    rows = _manifest(captioned) if captioned else []
    captions = [{"clip_id": row["clip_id"], "caption": row["caption"]} for row in rows if row.get("caption")][:12]
    return {"accepted": len(rows), "quarantined": quarantined, "captions": captions}


def _reason(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    keep = {key: row.get(key) for key in ("clip_id", "rule", "value", "threshold", "thumbnail")}
    if keep["clip_id"] is None:
        keep["clip_id"] = row.get("row")
    if keep["thumbnail"]:
        keep["thumbnail"] = str(folder / keep["thumbnail"])
    return keep


def _manifest(folder: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as parquet

    path = folder / "manifest.parquet"
    return list(parquet.read_table(path).to_pylist()) if path.is_file() else []


def lineage(run: Run) -> list[dict[str, str]]:
    """From the promoted model back to the clips."""
    record, steps = run.record, run.steps()
    rows = []
    if record.get("model"):
        model = record["model"]
        rows.append(
            {"kind": "model", "name": f"{model['name']} version {model['version']} ({model['alias']})", "detail": f"sha256 {model['hash']}"}
        )
    for name, _ in reversed(ordered(record)):
        for artifact, facts in steps.get(name, {}).get("outputs", {}).items():
            rows.append({"kind": "artifact", "name": f"{name}: {artifact}", "detail": f"sha256 {facts['sha256']}"})
    rows.append({"kind": "data", "name": "DVC revision", "detail": record.get("data_revision") or "none"})
    captioned = output(run, "annotate", "captioned")
    for row in _manifest(captioned)[:200] if captioned else []:
        rows.append({"kind": "clip", "name": row["clip_id"], "detail": f"{row['source']} {row['scene']} sha256 {row['video_sha256']}"})
    rows.append({"kind": "code", "name": "git commit", "detail": record.get("git_commit") or "none"})
    rows.append({"kind": "settings", "name": f"profile {record['profile']}", "detail": json.dumps(record.get("seeds", {}))})
    return rows
