"""The study of distillation on the artifacts of runs: the compared folders, the table, the page."""

import statistics
import time
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld.files import read_json, write_json
from moworld_ops.pipelines.runs import Run, all_runs

# Artifact of the study -> the step and output that makes it, in pipeline distill or lifecycle.
ARTIFACTS = {
    "teacher": ("train_curriculum-", "model"),
    "before": ("train_autoregressive", "student"),
    "distilled": ("distill", "distilled"),
    "quantized": ("quantize", "quantized"),
    "features": ("cache_features", "features"),
    "captioned": ("annotate", "captioned"),
}
TIMED_DECODES = 9


def artifact_folders(runs: list[Run]) -> dict[str, str]:
    """Returns the folders of ARTIFACTS by name: outputs of the runs, else their inputs; "" for absent ones.

    Raises InputError if the distilled student or the features are absent.
    """
    found = dict.fromkeys(ARTIFACTS, "")
    for record in (run.record for run in runs):
        for name, (step, output) in ARTIFACTS.items():
            outputs = [facts for key, facts in sorted(record.get("artifacts", {}).items()) if key.startswith(step) and output in facts]
            given = str(record.get("arguments", {}).get(name, ""))
            found[name] = found[name] or (outputs[-1][output]["path"] if outputs else given)
    for name in ("distilled", "features"):
        if not Path(found[name] or "none").is_dir():
            made = found[name] or "not made by these runs"
            expected, fix = "a directory on this machine", "name the run that made it, too"
            raise InputError(", ".join(run.name for run in runs), name, made, expected, fix)
    return found


def latest_distilled() -> Run:
    """Returns the newest run with a distilled student and features; raises InputError if there is none.

    Runs of other pipelines after it, such as an import of data, are ignored.
    """
    for run in reversed(all_runs()):
        try:
            artifact_folders([run])
        except InputError:
            continue
        return run
    expected, fix = "a run that distilled a student and has its features", "run 'moworld run lifecycle --profile pocket' first"
    raise InputError("runs", "latest", "no such run", expected, fix)


def study(
    runs: list[Run],
    out: Path,
    others: dict[str, str],
    seeds: int,
    frames: int,
    ablate: list[str] | None = None,
    episodes: int | None = None,
) -> dict[str, Any]:
    """Compares the models of the runs and writes study.html and study.json to `out`; returns study.json.

    others: further students by name
    ablate: names of `moworld_ops.pipelines.ablations.ABLATIONS`; missing variants of the student are trained first
    """
    from moworld.data.features import FeatureStore
    from moworld.evaluation.study import StudySettings, run_study, variants
    from moworld.evaluation.study_report import table, targets, write_study

    folders, named = artifact_folders(runs), ", ".join(run.name for run in runs)
    FeatureStore(folders["features"]).of_split("held_out")  # raises InputError before hours of training if there is no such clip
    if ablate:
        from moworld_ops.pipelines.ablations import train_variants

        distilled = next((run for run in runs if "distill" in run.record.get("artifacts", {})), None)
        if distilled is None:
            raise InputError("--ablate", "", named, "a run that distilled", "name the run of pipeline distill or lifecycle")
        others = {**train_variants(distilled, ablate, folders), **others}
    compared = variants(folders["teacher"], folders["before"], folders["distilled"], folders["quantized"], others)
    settings = StudySettings(seeds=seeds, frames=frames, **({} if episodes is None else {"episodes": episodes}))
    results = run_study(out, compared, folders["features"], folders["captioned"], settings)
    metrics = Path(folders["features"]) / "codec" / "codec_metrics.json"
    codec_psnr = read_json(metrics).get("psnr_held_out") if metrics.is_file() else None
    rows = targets(results, codec_psnr, decode_ms(folders["distilled"]), teacher_evaluations(folders["distilled"]))
    facts = {"runs": named, **folders, **settings.model_dump()}
    write_study(out / "study.html", results, rows, out / "videos", facts)
    shown = {
        name: {key: None if value is None else [value.mean, value.spread] for key, value in row.items()}
        for name, row in table(results).items()
    }
    result = {"facts": facts, "targets": [{**row, "found": str(row["found"] or "")} for row in rows], "variants": shown}
    write_json(out / "study.json", result)
    return result


def teacher_evaluations(model: str) -> float | None:
    """Returns the teacher evaluations before the first student phase from a distilled model's losses.json, or None."""
    from moworld.distillation.phases import TEACHER_EVALUATIONS

    losses = Path(model) / "losses.json"
    counts = read_json(losses).get(TEACHER_EVALUATIONS) if losses.is_file() else None
    return float(counts[0][1]) if counts else None


def decode_ms(model: str) -> float:
    """Returns the median milliseconds in which a model's codec decodes a chunk of 12 frames of 96x160."""
    import torch

    from moworld.model.world import WorldModel

    codec, taken = WorldModel.load(model).codec, []
    latents = torch.zeros(1, 16, 1 + 3, 96 // 8, 160 // 8)
    with torch.inference_mode():
        for _ in range(1 + TIMED_DECODES):
            started = time.perf_counter()
            codec.decode(latents)
            taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken[1:])
