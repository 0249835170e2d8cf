"""Step `benchmark` on features without held-out clips: refused before a model is loaded, or measured without them where the profile says so."""

from pathlib import Path

import pytest
import torch

from moworld.data.features import FeatureWriter
from moworld.errors import InputError
from moworld.evaluation.metrics import METRICS
from moworld.files import read_json
from moworld.model.codec import StreamingCodec
from moworld_ops.components.benchmark.step import benchmark
from tests.moworld.worlds import tiny_batch, tiny_world


@pytest.fixture
def features(tmp_path: Path) -> str:
    (tmp_path / "features").mkdir()
    writer, batch = FeatureWriter(tmp_path / "features"), tiny_batch(13, batch=2)
    for index, split in enumerate(("train", "validation")):
        row = {"clip_id": f"c{index}", "split": split, "scene": "s", "source": "video", "video_sha256": "0", "caption": "", "num_frames": 49}
        writer.add(row, {name: batch[name][index] for name in ("latents", "text", "c2w", "intrinsics")})
    writer.close()
    return str(tmp_path / "features")


def test_features_without_held_out_clips_are_refused_before_a_model_is_loaded(features, tmp_path):
    with pytest.raises(InputError, match=r"split held_out: found no clip \(train 1, validation 1\), expected at least one"):
        benchmark("no model", "no model", "no model", features, "", str(tmp_path / "out"), {}, 0)
    assert not (tmp_path / "out").exists()


def test_a_profile_without_held_out_footage_measures_what_needs_none(features, tmp_path):
    torch.manual_seed(0)
    StreamingCodec(16, hidden=8, blocks=1).save_pretrained(tmp_path / "codec")
    world = tiny_world(text_dim=384)
    world.codec_folder = tmp_path / "codec"
    world.save(tmp_path / "model")
    model = str(tmp_path / "model")
    found = benchmark(model, model, model, features, "", str(tmp_path / "out"), {"held_out": False, "speed_chunks": 1}, 0)
    assert set(found) == {name for name, metric in METRICS.items() if not metric.held_out}
    assert read_json(tmp_path / "out/metrics.json") == found
