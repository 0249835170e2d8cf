"""Measurement of a model on held-out episodes beside its baselines, and of its speed and size."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any


def benchmark(
    model: str, teacher: str, unquantized: str, features: str, clips: str, out: str, settings: dict[str, Any], seed: int, device: str = ""
) -> dict[str, Any]:
    """Writes metrics.json and samples/*.mp4; returns the numeric metrics.

    clips:  folder of the clips from which the features were computed; their depth is needed to measure motion in a video
    device: see `pick_device`
    Raises InputError if no clip of the features is held out, unless `held_out` of the settings is false: then no video is measured.
    """
    from moworld.data.features import FeatureStore
    from moworld.devices import pick_device
    from moworld.evaluation.protocol import measure_accuracy, write_samples
    from moworld.evaluation.settings import BenchmarkSettings
    from moworld.evaluation.speed import measure_speed, weight_bytes
    from moworld.evaluation.straight_walks import measure_straight_walks
    from moworld.files import atomic_folder, read_json, write_json
    from moworld.model.world import WorldModel

    chosen, store = BenchmarkSettings(**settings), FeatureStore(features)
    if chosen.held_out:
        store.of_split("held_out")  # before the models are loaded
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:  # in a process whose peak memory is that of the served model
        metrics: dict[str, Any] = alone.submit(measure_speed, model, chosen.speed_chunks, device=device).result()
    place = pick_device(device)
    with atomic_folder(out) as target:
        (target / "samples").mkdir()
        if chosen.held_out:
            folders = {"model": model, "unquantized": unquantized, "teacher": teacher}
            metrics |= measure_accuracy(lambda name: WorldModel.load(folders[name], place), store, chosen, seed)
            world = WorldModel.load(model, place)
            metrics |= write_samples(world, store, clips, target, chosen, seed)
            metrics |= measure_straight_walks(world, store, chosen, seed)
        metrics |= {"model_bytes": weight_bytes(model), "unquantized_bytes": weight_bytes(unquantized)}
        codec_metrics = Path(features) / "codec" / "codec_metrics.json"
        if chosen.held_out and codec_metrics.is_file():
            metrics["codec_psnr_held_out"] = read_json(codec_metrics).get("psnr_held_out")
        write_json(target / "metrics.json", metrics)
    return {key: value for key, value in metrics.items() if isinstance(value, int | float)}
