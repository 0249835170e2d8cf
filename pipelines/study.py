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


def study(runs: list[Run], out: Path, others: dict[str, str], seeds: int, frames: int) -> dict[str, Any]:
    """Compare what the runs made (and `others`, students by name) and write study.html and study.json to `out`; returns study.json."""
    from moworld.evaluation.study import StudySettings, run_study, variants
    from moworld.evaluation.study_report import table, targets, write_study

    folders = folders_of(runs)
    compared = variants(folders["teacher"], folders["before"], folders["distilled"], folders["quantized"], others)
    settings = StudySettings(seeds=seeds, frames=frames)
    results = run_study(out, compared, folders["features"], folders["captioned"], settings)
    metrics = Path(folders["features"]) / "codec" / "codec_metrics.json"
    codec_psnr = read_json(metrics).get("psnr_held_out") if metrics.is_file() else None
    rows = targets(results, codec_psnr, decode_ms(folders["distilled"]))
    facts = {"runs": ", ".join(run.name for run in runs), **folders, **settings.model_dump()}
    write_study(out / "study.html", results, rows, out / "videos", facts)
    shown = {
        name: {key: None if value is None else [value.mean, value.spread] for key, value in row.items()}
        for name, row in table(results).items()
    }
    told = {"facts": facts, "targets": [{**row, "found": str(row["found"] or "")} for row in rows], "variants": shown}
    write_json(out / "study.json", told)
    return told


def decode_ms(model: str) -> float:
    """Milliseconds that a model's codec takes for a chunk of 12 frames, median of 9."""
    import statistics

    import torch

    from moworld.model.world import WorldModel

    world = WorldModel.load(model)
    codec, config = world.codec, world.config
    latents = torch.zeros(1, 16, 1 + 3, config.height // 8, config.width // 8)
    taken = []
    with torch.inference_mode():
        for _ in range(10):
            started = time.perf_counter()
            codec.decode(latents)
            taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken[1:])
