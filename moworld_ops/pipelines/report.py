"""Closes a run: adds the results of its steps to run.json and writes the report from it."""

import json
import sys
from pathlib import Path
from typing import Any

from moworld.files import read_json
from moworld_ops.pipelines.runs import Run, ordered
from moworld_ops.pipelines.steward import rows_of

SHOWN_CAPTIONS, SHOWN_CLIPS = 12, 200


def close_record(run: Run) -> None:
    """Adds model, metrics and data revision to run.json and writes report.html; a failure of the report does not fail the run."""
    steps = run.steps()
    registered, model = steps.get("register", {}), None
    if registered.get("status") == "done":
        alias = "champion" if steps.get("promote", {}).get("status") == "done" else "candidate"
        summary = registered["summary"]
        model = {"name": summary["name"], "version": summary["version"], "alias": alias, "hash": summary["model_sha256"]}
    revision = run.step("cache_features").get("summary", {})
    run.update(
        model=model,
        metrics=metrics_of(run),
        data_revision=revision.get("revision", revision.get("data_revision", "")),
        contract_version=revision.get("contract_version", ""),
    )
    path = run.folder / "report.html"
    try:
        from moworld.evaluation.report import write_report

        write_report(path, report_of(run))
        run.update(report=str(path))
    except Exception as error:  # the outcome of the run does not depend on its report
        problem = f"{type(error).__name__}: {error}"
        run.update(report=None, report_error=problem)
        print(f"the report could not be written: {problem}", file=sys.stderr)


def metrics_of(run: Run) -> dict[str, Any]:
    """Returns metrics.json of step benchmark, or {}."""
    path = run.output("benchmark", "metrics")
    return dict(read_json(path / "metrics.json")) if path and (path / "metrics.json").is_file() else {}


def report_of(run: Run) -> dict[str, Any]:
    """Returns the argument of `moworld.evaluation.report.write_report`."""
    record, steps = run.record, run.steps()
    facts = ("run", "pipeline", "profile", "status", "seconds", "git_commit", "data_revision", "contract_version", "model")
    defaults: dict[str, Any] = {"peak_bytes": 0, "seconds": 0.0, "error": None}
    captioned = run.output("annotate", "captioned")
    clips = rows_of(captioned) if captioned else []
    return {
        **{key: record.get(key) for key in facts},
        "steps": [
            {"name": name, **defaults, **{key: value for key, value in step.items() if key not in ("attempt", "exit")}}
            for name, step in record["steps"].items()
        ],
        "losses": losses_of(run),
        "metrics": record.get("metrics", {}),
        "gates": steps.get("promote", {}).get("summary", {}).get("gates", []),
        "samples": samples_of(run),
        "data": data_of(run, clips),
        "quantization": steps.get("quantize", {}).get("summary", {}),
        "lineage": lineage_rows(run, clips),
    }


def losses_of(run: Run) -> dict[str, dict[str, list[list[float]]]]:
    """Returns the loss curves by training step, from losses.json of its outputs."""
    steps, curves = run.steps(), {}
    for name, _ in ordered(run.record):
        for artifact in steps.get(name, {}).get("outputs", {}).values() if name != "quantize" else ():
            if (path := Path(artifact["path"]) / "losses.json").is_file():
                curves[name] = read_json(path)
    return curves


def samples_of(run: Run) -> list[dict[str, Any]]:
    """Returns the held-out episodes, real and generated, that step benchmark lists in its metrics."""
    folder, listed = run.output("benchmark", "metrics"), run.record.get("metrics", {}).get("samples", [])
    if folder is None or not isinstance(listed, list):
        return []
    return [{**row, **{key: str(folder / row[key]) for key in ("real", "generated") if row.get(key)}} for row in listed]


def data_of(run: Run, clips: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the number of accepted clips, the rejected ones with reasons, and some captions."""
    rejected = [
        {**row, "thumbnail": row["thumbnail"] and str(folder / row["thumbnail"])} for _, folder, rows in run.rejections() for row in rows
    ]
    captions = [{"clip_id": row["clip_id"], "caption": row["caption"]} for row in clips if row.get("caption")]
    return {"accepted": len(clips), "quarantined": rejected, "captions": captions[:SHOWN_CAPTIONS]}


def lineage_rows(run: Run, clips: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Returns rows {"kind", "name", "detail"} from the registered model back to its clips."""
    record, steps = run.record, run.steps()
    rows = []
    if model := record.get("model"):
        rows.append(("model", f"{model['name']} version {model['version']} ({model['alias']})", f"sha256 {model['hash']}"))
    for name, _ in reversed(ordered(record)):
        outputs = steps.get(name, {}).get("outputs", {})
        rows += [("artifact", f"{name}: {artifact}", f"sha256 {facts['sha256']}") for artifact, facts in outputs.items()]
    rows.append(("data", "DVC revision", record.get("data_revision") or "none"))
    rows += [("clip", row["clip_id"], f"{row['source']} {row['scene']} sha256 {row['video_sha256']}") for row in clips[:SHOWN_CLIPS]]
    rows.append(("code", "git commit", record.get("git_commit") or "none"))
    rows.append(("settings", f"profile {record['profile']}", json.dumps(record.get("seeds", {}))))
    return [dict(zip(("kind", "name", "detail"), row, strict=True)) for row in rows]
