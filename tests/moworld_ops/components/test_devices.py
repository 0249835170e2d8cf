"""Steps that run a model, on a fake accelerator: a tensor that is left on the CPU raises, and only tensors on the CPU are written.

What a step writes has the shapes and dtypes of a real one; the numbers are invented. For `benchmark` see the held-out protocol's test: its
child process cannot be faked.
"""

import pytest

from moworld.data.clips import write_manifest
from moworld.data.features import FeatureStore
from moworld.model.codec import StreamingCodec
from moworld.model.world import WorldModel
from moworld_ops.components.cache_features.step import cache_features
from moworld_ops.components.quantize.step import quantize
from tests.moworld.data.test_frames import make_clip
from tests.moworld.inference.accelerator import fake_accelerator
from tests.moworld.inference.worlds import served_world

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")


@pytest.mark.parametrize("history", ["joint", "block_causal"])
def test_a_model_is_quantized_on_the_accelerator(tmp_path, history):
    served_world(tmp_path / "codec", history_attention=history).save(tmp_path / "model")
    with fake_accelerator():
        found = quantize(str(tmp_path / "model"), str(tmp_path / "int8"), {"max_layer_error": 1e9}, "cuda")
    assert found["replaced"] == 20 and WorldModel.load(tmp_path / "int8").config.quantization == "w8a8"


def test_clips_and_captions_are_encoded_on_the_accelerator(tmp_path):
    clips, codec, out = (str(tmp_path / name) for name in ("clips", "codec", "features"))
    write_manifest(clips, [make_clip(tmp_path / "clips", "a", 21)])
    StreamingCodec(16, hidden=8, blocks=1).save_pretrained(codec)
    with fake_accelerator():
        found = cache_features(clips, codec, out, {"height": 16, "width": 32, "videos": "x"}, {"kind": "minilm", "length": 6}, device="cuda")
    window = FeatureStore(out).read_window("a", 0, 6)
    assert found["encoded"] == 1 and window["latents"].shape == (16, 6, 2, 4) and window["text"].shape == (6, 384)
