"""The step `benchmark` on a tiny model: its metrics are complete, and its peak memory is that of the served model alone."""

import numpy as np
import torch

from moworld.data.features import FeatureWriter
from moworld.evaluation.metrics import METRICS
from moworld.files import read_json
from moworld_ops.components.benchmark.step import benchmark
from tests.moworld.inference.worlds import served_world
from tests.moworld.worlds import tiny_batch

SETTINGS = {"windows": 2, "teacher_steps": 1, "samples": 1, "sample_chunks": 1, "speed_chunks": 1}


def test_the_peak_is_of_a_process_that_serves_the_model_and_nothing_else(tmp_path):
    served_world(tmp_path / "codec", text_dim=384).save(tmp_path / "model")
    (tmp_path / "features").mkdir()
    writer, batch = FeatureWriter(tmp_path / "features"), tiny_batch(13, batch=1) | {"text": torch.randn(1, 4, 384)}
    row = {"clip_id": "a", "split": "held_out", "scene": "s", "source": "game", "video_sha256": "0", "caption": "", "num_frames": 49}
    writer.add(row, {name: batch[name][0] for name in ("latents", "text", "c2w", "intrinsics")})
    writer.close()
    beside = np.ones(1_500_000_000, np.uint8)  # in this process, as the other models of the step are
    model, features = str(tmp_path / "model"), str(tmp_path / "features")
    found = benchmark(model, model, model, features, None, str(tmp_path / "out"), SETTINGS, 3)  # type: ignore[arg-type]
    assert 1e8 < found["peak_bytes"] < beside.nbytes
    written = read_json(tmp_path / "out" / "metrics.json")
    assert written["peak_bytes"] == found["peak_bytes"] and written.keys() & METRICS.keys() >= {"frames_per_second", "student_next_chunk_psnr"}
