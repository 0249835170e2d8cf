"""The study of distillation on a run's artifacts: which folders it compares, the table, the page."""

import time
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld.files import read_json, write_json
from pipelines.runs import Run

# What the study needs -> the step and output that makes it, in a run of its own or of the whole way.
ARTIFACTS = {
    "teacher": ("train_curriculum-", "model"),
    "before": ("train_autoregressive", "student"),
    "distilled": ("distill", "distilled"),
    "quantized": ("quantize", "quantized"),
    "features": ("cache_features", "features"),
    "captioned": ("annotate", "captioned"),
}


def folders_of(runs: list[Run]) -> dict[str, str]:
    """Folders of ARTIFACTS by name, from the outputs of these runs, else from what they were given; "" for what none has.

    Raises InputError where there is nothing to compare, or nothing to compare it on.
    """
    found = dict.fromkeys(ARTIFACTS, "")
    for run in runs:
        record = run.record
        for name, (step, output) in ARTIFACTS.items():
            made = [
                facts[output]["path"]
                for key, facts in sorted(record.get("artifacts", {}).items())
                if key.startswith(step) and output in facts
            ]
            found[name] = found[name] or (made[-1] if made else str(record.get("arguments", {}).get(name, "")))
    for name in ("distilled", "features"):
        if not Path(found[name] or "none").is_dir():
            names = ", ".join(run.name for run in runs)
            raise InputError(
                names, name, found[name] or "not made by these runs", "a folder on this machine", "name the run that made it, too"
            )
    return found


def study(
    runs: list[Run],
    out: Path,
    others: dict[str, str],
    seeds: int,
    frames: int,
    ablate: list[str] | None = None,
    episodes: int | None = None,
) -> dict[str, Any]:
    """Compare what the runs made (and `others`, students by name) and write study.html and study.json to `out`; returns study.json.

    ablate: names of `pipelines.ablations.ABLATIONS`: these variants of the student are trained first, where they are not there yet
    """
    from moworld.evaluation.study import StudySettings, run_study, variants
    from moworld.evaluation.study_report import table, targets, write_study

    folders = folders_of(runs)
    if ablate:
        from pipelines.ablations import train_variants

        others = {**train_variants(_distilling(runs), ablate, folders), **others}
    compared = variants(folders["teacher"], folders["before"], folders["distilled"], folders["quantized"], others)
    settings = StudySettings(seeds=seeds, frames=frames, **({} if episodes is None else {"episodes": episodes}))
    results = run_study(out, compared, folders["features"], folders["captioned"], settings)
    metrics = Path(folders["features"]) / "codec" / "codec_metrics.json"
    codec_psnr = read_json(metrics).get("psnr_held_out") if metrics.is_file() else None
    rows = targets(results, codec_psnr, decode_ms(folders["distilled"]), teacher_asked(folders["distilled"]))
    facts = {"runs": ", ".join(run.name for run in runs), **folders, **settings.model_dump()}
    write_study(out / "study.html", results, rows, out / "videos", facts)
    shown = {
        name: {key: None if value is None else [value.mean, value.spread] for key, value in row.items()}
        for name, row in table(results).items()
    }
    told = {"facts": facts, "targets": [{**row, "found": str(row["found"] or "")} for row in rows], "variants": shown}
    write_json(out / "study.json", told)
    return told


def _distilling(runs: list[Run]) -> Run:
    """The first of the runs that distilled. Raises InputError where none did."""
    for run in runs:
        if "distill" in run.record.get("artifacts", {}):
            return run
    found = ", ".join(run.name for run in runs)
    raise InputError("--ablate", "", found, "a run that distilled", "name the run of pipeline distill or lifecycle")


def teacher_asked(model: str) -> float | None:
    """How often the teacher was evaluated before the first student phase, as a distilled model's losses.json tells it; None where it does not."""
    from moworld.distillation.phases import TEACHER_EVALUATIONS

    losses = Path(model) / "losses.json"
    counts = read_json(losses).get(TEACHER_EVALUATIONS) if losses.is_file() else None
    return float(counts[0][1]) if counts else None


def decode_ms(model: str) -> float:
    """Milliseconds that a model's codec takes for a chunk of 12 frames of 96x160, whatever the model's own size; median of 9."""
    import statistics

    import torch

    from moworld.model.world import WorldModel

    codec, taken = WorldModel.load(model).codec, []
    latents = torch.zeros(1, 16, 1 + 3, 96 // 8, 160 // 8)
    with torch.inference_mode():
        for _ in range(10):
            started = time.perf_counter()
            codec.decode(latents)
            taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken[1:])
