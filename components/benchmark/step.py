"""Measure a model on held-out episodes beside its baselines, and its speed and size."""

from pathlib import Path
from typing import Any


def benchmark(
    model: str, teacher: str, unquantized: str, features: str, clips: str, out: str, settings: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Write metrics.json and samples/*.mp4. clips: the clips the features were made of; their depth is what motion in a video is read by."""
    from moworld.data.features import FeatureStore
    from moworld.evaluation.protocol import BenchmarkSettings, measure_accuracy, write_samples
    from moworld.evaluation.speed import measure_speed, weight_bytes
    from moworld.files import atomic_folder, read_json, write_json
    from moworld.model.world import WorldModel

    chosen, store = BenchmarkSettings(**settings), FeatureStore(features)
    world, full, source = WorldModel.load(model), WorldModel.load(unquantized), WorldModel.load(teacher)
    with atomic_folder(out) as target:
        (target / "samples").mkdir()
        metrics: dict[str, Any] = measure_accuracy(world, source, full, store, chosen, seed)
        metrics |= write_samples(world, store, clips, target, chosen, seed)
        metrics |= measure_speed(model, chosen.speed_chunks)
        metrics |= {"model_bytes": weight_bytes(model), "unquantized_bytes": weight_bytes(unquantized)}
        codec_metrics = Path(features) / "codec" / "codec_metrics.json"
        if codec_metrics.is_file():
            metrics["codec_psnr_held_out"] = read_json(codec_metrics).get("psnr_held_out")
        write_json(target / "metrics.json", metrics)
    return {key: value for key, value in metrics.items() if isinstance(value, int | float)}
